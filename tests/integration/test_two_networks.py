"""Both networks of docs/networks.md in namespaces: a node hears agents by ICMP and registers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import aaa.radius
from aaa.demo.configurations import write_secret
from kdc.crypto.key0 import derive_exchange_keys
from kdc.keyuse.table import AssociationTable
from kdc.keyuse.traffic import Party
from kdc.model import Pair, Secret
from kdc.store.associations import StoredAssociation
from tests.conftest import PostgresServer
from tests.integration.captures import Capture, Packet, fields_of, remarks_on
from tests.integration.namespaces import Namespaces, why_not
from tests.integration.networks import (
    ADDRESSES,
    AGENT,
    CABLES,
    CELLS,
    PROGRAMS,
    ROGUE,
    Json,
    Networks,
    Node,
    confined,
)
from tests.integration.test_agent_discovery import Party as Listener
from tests.integration.test_key_use import XFRM, Side, loaded, require_esp
from tests.keyuse_stories import GCM

SPOKEN = {  # as Wireshark names what must be there; ip:data is the rest of a datagram in pieces
    "mn": {"ip:icmp", "ip:udp:mip"},
    "aaaf": {"ip:udp:radius"},
    "aaah": {"ip:udp:radius"},
    "ha": {"ip:udp:radius", "ip:tcp:tls"},
    "kdc": {"ip:tcp:tls"},
}
TAPPED = tuple(SPOKEN)
# The kernel's own: the neighbours' addresses, groups, pieces, acknowledgements, closed ports, ESP.
KERNEL = {"arp", "ip:igmp", "ip:igmp:igmp", "ip:data", "ip:tcp", "ip:icmp:ip:udp:radius", "ip:esp"}
RUN_OCTETS = 8
STATE_FILE = 'state_file = "installed.jsonl"\n'
TOLD_AT = f"{ADDRESSES['fa1']}:3799"
LISTEN = f'dynamic_authorization_listen = "{TOLD_AT}"\n'


@pytest.fixture(scope="module")
def networks(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Networks]:
    """Everybody up and answering; every test enrols nodes of its own and moves them where it wants.

    All processes must end with 0 when they are told to.
    """
    refused = why_not(bridges=True)
    if refused is not None:
        pytest.skip(f"THE TWO NETWORKS ARE NOT TESTED HERE: {refused}")
    machines = Namespaces()
    folder = tmp_path_factory.mktemp("networks")
    with postgres.fresh_database() as database_name:
        both = Networks(machines, folder, postgres, database_name)
        try:
            both.wire()
            both.configure()
            both.edit(
                "fa1", STATE_FILE, f'{STATE_FILE}dynamic_authorization_listen = "{TOLD_AT}"\n'
            )
            both.provision()
            both.captures = start_captures(both)
            both.start_all()
            yield both
            assert both.stop_all() == dict.fromkeys(PROGRAMS, 0)
        finally:
            machines.remove()


def start_captures(networks: Networks) -> dict[str, Capture]:
    """All that passes five of the machines, from before the first packet; none without tshark."""
    if shutil.which("tshark") is None:
        return {}

    def start(name: str) -> Capture:
        file = networks.folder / f"{name}.pcapng"
        return Capture(networks.machines, name, "any", file, only="")

    with ThreadPoolExecutor() as pool:
        return dict(zip(TAPPED, pool.map(start, TAPPED), strict=True))


def eventually_held(networks: Networks, party: str, spi: int) -> Json:
    """An association in a party's file of keys, which is written a moment after it is granted."""
    until = time.monotonic() + 20
    while spi not in (held := networks.held(party)):
        assert time.monotonic() < until, f"{party} has no association {spi}: {list(held)}"
        time.sleep(0.05)
    return held[spi]


def check_same_keys(one: Json, other: Json) -> None:
    """Two holders of one association: what one sends under the other receives under."""
    assert one["fingerprint"] == other["fingerprint"] and one["key_name"] == other["key_name"]
    assert {one["role"], other["role"]} == {"initiator", "responder"}
    assert one["local"] == other["peer"] or one["party"] == "mobile_node"
    assert one["local"]["address"] == other["peer"]["address"]
    assert one["peer"] == other["local"]
    assert one["suites"]
    for ours, theirs in zip(one["suites"], other["suites"], strict=True):
        assert ours["algorithm"] == theirs["algorithm"]
        assert ours["keys"]["outbound"] == theirs["keys"]["inbound"]
        assert ours["keys"]["inbound"] == theirs["keys"]["outbound"]
        assert ours["keys"]["inbound"] != ours["keys"]["outbound"]


def check_registration(networks: Networks, node: Node, agent: str, answer: Json) -> None:
    """Each of three fresh keys at its two holders alone, and the rows that say so."""
    assert (answer["code"], answer["lifetime_s"]) == (0, 600)
    rows = {row.spi: row for row in networks.stored(node)}
    key1, key3 = rows[answer["mn_ha"]["spi"]], rows[answer["mn_fa"]["spi"]]
    (key2,) = (r for r in rows.values() if (r.class_id, r.pair) == (key1.class_id, Pair.FA_HA))
    assert (key1.pair, key3.pair, key3.class_id) == (Pair.MN_HA, Pair.MN_FA, key1.class_id)
    assert {row.fa_nai for row in (key1, key2, key3)} == {
        f"{agent}@{'direct' if agent == 'fa3' else 'visited'}.example"
    }
    assert key1.live and key2.live and key3.live
    assert key1.fingerprint == answer["mn_ha"]["fingerprint"]
    assert key3.fingerprint is None  # home keeps no copy

    at_node, at_agent, at_home = {}, {}, {}
    for row in (key1, key3):
        at_node[row.pair] = eventually_held(networks, node.folder.name, row.spi)
    for row in (key2, key3):
        at_agent[row.pair] = eventually_held(networks, agent, row.spi)
    for row in (key1, key2):
        at_home[row.pair] = eventually_held(networks, "ha", row.spi)
    assert at_node[Pair.MN_FA]["fingerprint"] == answer["mn_fa"]["fingerprint"]
    assert at_agent[Pair.FA_HA]["fingerprint"] == key2.fingerprint
    check_same_keys(at_node[Pair.MN_HA], at_home[Pair.MN_HA])
    check_same_keys(at_node[Pair.MN_FA], at_agent[Pair.MN_FA])
    check_same_keys(at_agent[Pair.FA_HA], at_home[Pair.FA_HA])
    for name, spi in ((node.folder.name, key2.spi), (agent, key1.spi), ("ha", key3.spi)):
        assert spi not in networks.held(name)
    remember(networks, key2, (at_node, at_agent, at_home))


def remember(
    networks: Networks, key2: StoredAssociation, parties: tuple[dict[Pair, Json], ...]
) -> None:
    """KEY2 and all traffic keys are secrets that no wire may show."""
    assert key2.keys is not None
    networks.secrets[f"KEY2 {key2.spi}"] = key2.keys.reveal()
    for item in itertools.chain.from_iterable(party.values() for party in parties):
        for suite in item["suites"]:
            for direction, key in suite["keys"].items():
                name = f"{item['party']} {item['pair']} {item['spi']} {direction}"
                networks.secrets[name] = bytes.fromhex(key["key"])


def test_each_party_has_a_route_to_its_neighbours_alone(networks: Networks) -> None:
    networks.move("fa1")
    everybody = ADDRESSES | {"mn": CELLS["fa1"][1].partition("/")[0]}
    joined = {frozenset(cable) for cable in CABLES} | {frozenset(("mn", "fa1"))}
    for one, other in itertools.permutations(everybody, 2):
        is_expected = frozenset((one, other)) in joined
        assert networks.is_reached(one, everybody[other]) == is_expected, (one, other)
    for name in everybody:
        forwards = networks.machines.run(name, "cat", "/proc/sys/net/ipv4/ip_forward").stdout
        assert forwards == "0\n"


def test_a_node_hears_an_agent_and_registers_through_four_servers(networks: Networks) -> None:
    node = networks.enrol()
    networks.move("fa1")
    answer = node.register()
    assert answer["alias"].endswith("@home.example")
    check_registration(networks, node, "fa1", answer)
    installed = [
        json.loads(line)
        for line in (networks.folder / "fa1" / "installed.jsonl").read_text().splitlines()
    ]
    (key3,) = (line for line in installed if line["spi"] == answer["mn_fa"]["spi"])
    assert key3["fingerprint"] == answer["mn_fa"]["fingerprint"]
    assert key3["alias"] == answer["alias"]
    assert key3["link"].startswith("198.51.100.2:")
    assert len(networks.stored(node)) == 3


def test_a_node_moves_to_another_agent_and_gets_other_keys(networks: Networks) -> None:
    node = networks.enrol()
    networks.move("fa1")
    before = node.register()
    check_registration(networks, node, "fa1", before)
    networks.move("fa2")
    assert not networks.is_reached("mn", ADDRESSES["fa1"])
    after = node.register()
    check_registration(networks, node, "fa2", after)
    for pair in ("mn_ha", "mn_fa"):
        for field in ("spi", "key_name", "fingerprint", "keys"):
            assert before[pair][field] != after[pair][field]
    assert before["alias"] != after["alias"]
    old, new = before["mn_fa"]["spi"], after["mn_fa"]["spi"]
    assert {spi: node.held[spi]["state"] for spi in (old, new)} == {
        old: "superseded",
        new: "current",
    }
    assert old not in networks.held("fa2") and new not in networks.held("fa1")
    assert len(networks.stored(node)) == 6


def test_a_node_registers_where_there_are_no_aaa_servers(networks: Networks) -> None:
    node = networks.enrol()
    networks.move("fa3")
    check_registration(networks, node, "fa3", node.register())


def test_home_asks_for_a_new_registration_and_then_ends_it(networks: Networks) -> None:
    if shutil.which("radclient") is None:
        pytest.skip("RADCLIENT IS MISSING: install freeradius-utils, or this is NOT tested")
    node = networks.enrol()
    networks.move("fa1")
    before = node.register()
    check_registration(networks, node, "fa1", before)
    ear = Listener(networks.machines, "mn", "follow", "radio0", "20")
    ear.says("listening")
    ear.says("heard")
    assert "Received CoA-ACK" in tell_fa1(networks, "coa", node, before)
    assert ear.says("moved")["change"] == "restarted"
    after = node.register()
    check_registration(networks, node, "fa1", after)
    assert "Received Disconnect-ACK" in tell_fa1(networks, "disconnect", node, after)
    until = time.monotonic() + 10
    while after["mn_fa"]["spi"] in networks.held("fa1"):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "Session-Context-Not-Found" in tell_fa1(networks, "disconnect", node, after)


def tell_fa1(networks: Networks, command: str, node: Node, answer: Json) -> str:
    """What radclient at the foreign AAA gets for a registration that home has in its database."""
    folder = networks.folder / "radclient"
    folder.mkdir(exist_ok=True)
    ours = Path(aaa.radius.__file__).with_name("dictionary.roamkey")
    shutil.copy(ours, folder / "dictionary.roamkey")
    (folder / "dictionary").write_text(
        "$INCLUDE /usr/share/freeradius/dictionary\n$INCLUDE dictionary.roamkey\n"
    )
    rows = {row.spi: row for row in networks.stored(node)}
    class_id = rows[answer["mn_fa"]["spi"]].class_id
    spis = [r.spi for r in rows.values() if r.class_id == class_id and r.pair != Pair.MN_HA]
    assert len(spis) == 2
    (folder / "request").write_text(
        f'User-Name = "@home.example"\nNAS-IP-Address = {ADDRESSES["fa1"]}\n'
        f"Class = 0x{class_id}\nEvent-Timestamp = {int(time.time())}\n"
        "Message-Authenticator = 0x00\n" + "".join(f"Roamkey-SPI += {spi}\n" for spi in spis)
    )
    return networks.machines.run(
        "aaaf", "radclient", "-x", "-r", "2", "-t", "3", "-D", str(folder),
        "-f", str(folder / "request"), "-S", str(networks.folder / "aaaf" / "fa1.secret"),
        TOLD_AT, command, check=False,
    ).stdout  # fmt: skip


def test_a_restarted_agent_has_another_key_and_its_old_one_is_worth_nothing(
    networks: Networks, tmp_path: Path
) -> None:
    node = networks.enrol()
    networks.move("fa1")
    old = tmp_path / "advertisement.json"
    shutil.copy(networks.folder / "fa1" / "advertisement.json", old)
    before = node.register("--advertisement", str(old))
    check_registration(networks, node, "fa1", before)
    starts = networks.log("fa1").count(PROGRAMS["fa1"][3])
    assert networks.stop("fa1") == 0
    networks.start("fa1")
    networks.wait_for("fa1", times=starts + 1)
    was, now = re.findall(r"key_fingerprint=([0-9a-f]{32})", networks.log("fa1"))[-2:]
    assert was != now

    assert "the foreign agent itself said 67" in node.is_refused("--advertisement", str(old))
    assert len(networks.stored(node)) == 3
    after = node.register()
    check_registration(networks, node, "fa1", after)
    assert before["mn_fa"]["spi"] != after["mn_fa"]["spi"]
    # What the agent held it has taken over from its file, and then replaced.
    assert networks.held("fa1")[before["mn_fa"]["spi"]]["state"] == "superseded"


@contextmanager
def rogue_agent(networks: Networks) -> Iterator[None]:
    """`aaa agent` with FA1's name and address, and a RADIUS secret that nobody else has."""
    folder = networks.folder / "rogue"
    folder.mkdir(mode=0o700)
    text = (networks.folder / "fa1" / "agent.toml").read_text()
    text = text.replace(f'listen = "{ADDRESSES["fa1"]}:434"', f'listen = "{ROGUE}:434"')
    text = text.replace(LISTEN, "")
    (folder / "agent.toml").write_text(
        text.replace("[radius]", "[radius]\ntimeout_s = 0.5\nretries = 1")
    )
    write_secret(folder / "fa1.secret")
    networks.start("rogue", party="fa1")
    networks.wait_for("rogue", party="fa1")
    try:
        yield
        assert not networks.held("rogue")
    finally:
        networks.stop("rogue")


@contextmanager
def rogue_relay(networks: Networks) -> Iterator[None]:
    """Forges FA1's advertisement with a key of its own, and has FA1 do the RADIUS."""
    process = networks.machines.popen(
        "rogue", *confined(AGENT), sys.executable, "-m", "tests.integration.rogue_agent",
        "air0", ROGUE, ADDRESSES["fa1"], "fa1@visited.example",
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "forging\n"
    try:
        yield
    finally:
        process.terminate()
        assert "passed on" in process.communicate(timeout=30)[0]


@pytest.mark.parametrize(
    ("rogue", "reason"),
    [
        (rogue_agent, "no reply from the home domain came"),
        (rogue_relay, "the foreign agent itself said 67"),
    ],
)
def test_a_rogue_with_the_name_of_an_agent_gets_nothing(
    networks: Networks,
    rogue: Callable[[Networks], AbstractContextManager[None]],
    reason: str,
) -> None:
    node = networks.enrol()
    networks.move("fa1")
    issued = {row.spi for row in networks.stored()}
    held = set(networks.held("fa1"))
    with networks.alone_with_the_rogue(), rogue(networks):
        assert reason in node.is_refused()
    assert node.unspent == node.enrolment["spis"][1:]
    assert {row.spi for row in networks.stored()} == issued
    assert set(networks.held("fa1")) <= held
    assert not node.held
    check_registration(networks, node, "fa1", node.register())


def test_esp_takes_what_the_outlets_of_both_hand_on(networks: Networks) -> None:
    """deploy/examples/keys_to_xfrm.py at node and agent, with the keys of a real registration."""
    node = networks.enrol()
    networks.move("fa1")
    answer = node.register()
    spi, home = answer["mn_fa"]["spi"], answer["home_address"]
    event = {"schema": "roamkey/key-use", "version": 1, "event": "installed"}
    held = {"mn": node.held[spi], "fa1": eventually_held(networks, "fa1", spi)}
    events = {name: event | item for name, item in held.items()}
    states = [
        {
            line.partition(" limit ")[0]
            for line in loaded(XFRM).batch(one, time.time()).splitlines()
            if "state add" in line
        }
        for one in events.values()
    ]
    assert states[0] == states[1] and len(states[0]) == 2
    mn, fa1 = (
        Side(party, networks.machines.full_name(name), AssociationTable(party))
        for party, name in ((Party.MOBILE_NODE, "mn"), (Party.FOREIGN_AGENT, "fa1"))
    )
    require_esp(mn, GCM)
    mn.run("ip", "address", "add", f"{home}/32", "dev", "radio0")
    mn.run("ip", "route", "add", ADDRESSES["fa1"], "dev", "radio0", "src", home)
    fa1.run("ip", "route", "add", home, "dev", "air0")
    try:
        for name, side in (("fa1", fa1), ("mn", mn)):
            given = json.dumps(events[name])
            done = side.run(sys.executable, str(XFRM), "MN_FA", input=given)
            assert done.returncode == 0, done.stderr
        assert mn.reaches(ADDRESSES["fa1"], secrets.token_bytes(16))
        for side in (mn, fa1):
            packets = side.packets()
            assert packets.keys() == {(home, spi), (ADDRESSES["fa1"], spi)}
            assert min(packets.values()) >= 1
    finally:
        mn.run("ip", "route", "del", ADDRESSES["fa1"], "dev", "radio0")
        fa1.run("ip", "route", "del", home, "dev", "air0")
        for side in (mn, fa1):
            side.run("ip", "xfrm", "state", "flush")
            side.run("ip", "xfrm", "policy", "flush")


def test_what_passes_the_wires_is_well_formed_and_shows_no_key_and_no_name(
    networks: Networks,
) -> None:
    """All that has passed since the beginning, of whatever tests ran before this one."""
    if not networks.captures:
        pytest.skip("NO WIRE IS WATCHED HERE: tshark (Debian: tshark) is not installed")
    node = networks.enrol()
    for agent in ("fa1", "fa3"):
        networks.move(agent)
        check_registration(networks, node, agent, node.register())
    with ThreadPoolExecutor() as pool:
        read = pool.map(Capture.packets, networks.captures.values())
        packets = dict(zip(TAPPED, read, strict=True))
    octets = {name: (networks.folder / f"{name}.pcapng").read_bytes() for name in TAPPED}
    for name in TAPPED:
        check_secrecy(networks, name, octets[name])
        check_dissection(name, packets[name])
    # What may be seen is seen, so that what is not seen is not there.
    for name in ("mn", "aaaf", "aaah", "ha"):
        assert b"@home.example" in octets[name] and b"fa1@visited.example" in octets[name]
    assert b"@visited.example" not in octets["kdc"]
    served = {name for name in TAPPED if b"fa3@direct.example" in octets[name]}
    assert served == {"mn", "ha"}


def check_dissection(name: str, packets: list[Packet]) -> None:
    """Nothing but what the page says is spoken there, and Wireshark finds nothing wrong with it."""
    spoken = set()
    for packet in packets:
        assert "_ws.malformed" not in json.dumps(packet), packet
        protocol = packet["frame"]["frame.protocols"].removeprefix("sll:ethertype:")
        spoken.add(protocol)
        if protocol == "ip:icmp":  # Wireshark wonders at the time to live, which is RFC 5944's
            assert remarks_on(packet) <= {"ip.ttl.too_small"}
        elif "udp" in packet:
            assert remarks_on(packet) == set(), packet
        elif int(packet.get("tcp", {}).get("tcp.len", 0)):
            is_piece = "tcp.reassembled_in" in dict(fields_of(packet["tcp"]))
            comes_again = any("retransmission" in remark for remark in remarks_on(packet))
            assert "tls" in packet or is_piece or comes_again, packet
    assert spoken >= SPOKEN[name], (name, spoken)
    others = spoken - SPOKEN[name] - KERNEL
    assert not others, (name, others)


def check_secrecy(networks: Networks, name: str, octets: bytes) -> None:
    """Not eight octets in a row of any key that there is, and the name of no node."""
    assert networks.user.encode() not in octets, name
    known = dict(networks.secrets)
    for node in networks.nodes:
        key0, spis = Secret(bytes.fromhex(node.enrolment["key0"])), node.enrolment["spis"]
        known[f"KEY0 of {node.folder.name}"] = key0.reveal()
        for spi in spis:  # what the KDC lends the home agent
            keys = derive_exchange_keys(key0, spi)
            for item in dataclasses.fields(keys):
                secret = getattr(keys, item.name)
                known[f"{item.name} {spi}"] = secret.reveal()
    runs = {
        secret[at : at + RUN_OCTETS]: what
        for what, secret in known.items()
        for at in range(len(secret) - RUN_OCTETS + 1)
    }
    assert len(known) > 20
    for at in range(len(octets) - RUN_OCTETS + 1):
        what = runs.get(octets[at : at + RUN_OCTETS])
        assert what is None, f"{what} at {name}"
