"""The examples of deploy/examples with the outlet's own events: ESP between two namespaces.

What a kernel without ESP, or a machine without `wg`, does not let us show is skipped, loudly.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aaa.radius.counters import Counters
from aaa.serve.key_command import COMMAND_DONE, COMMAND_FAILED, KeyCommand
from kdc.keyuse.document import encode_event
from kdc.keyuse.table import AssociationTable, Change, Grant
from kdc.keyuse.traffic import Party
from kdc.model import Pair, Secret, SecurityAssociation, Suite, key_octets
from tests.keyuse_stories import CBC_SHA2, ENDPOINTS, GCM, association

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
XFRM = EXAMPLES / "keys_to_xfrm.py"
WIREGUARD = EXAMPLES / "keys_to_wireguard.py"
MN_ADDRESS, FA_ADDRESS = (
    str(ENDPOINTS[party].address) for party in (Party.MOBILE_NODE, Party.FOREIGN_AGENT)
)
# One echo request over a raw socket, without the setuid `ping` that small systems lack.
PING = """
import socket, struct, sys, time
target, mark = sys.argv[1], bytes.fromhex(sys.argv[2])
body = struct.pack("!BBHHH", 8, 0, 0, 4242, 1) + mark
words = sum(struct.unpack(f"!{len(body) // 2}H", body))
words = (words & 0xffff) + (words >> 16)
words = (words & 0xffff) + (words >> 16)
body = body[:2] + struct.pack("!H", 0xffff - words) + body[4:]
link = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
until = time.monotonic() + float(sys.argv[3])
link.settimeout(0.2)
while time.monotonic() < until:
    try:
        link.sendto(body, (target, 0))
        octets, source = link.recvfrom(2048)
    except OSError:
        continue
    if source[0] == target and octets[20] == 0 and octets.endswith(mark):
        sys.exit(0)
sys.exit(1)
"""
# What passes the link, as frames, until it is killed.
CAPTURE = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    print(link.recv(65535).hex(), flush=True)
"""


def loaded(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def fresh(pair: Pair, spi: int, suites: tuple[Suite, ...] = GCM) -> SecurityAssociation:
    """With random keys: namespaces are real, so are keys."""
    return replace(
        association(pair, spi, suites=suites),
        keys=Secret(secrets.token_bytes(key_octets(pair, suites))),
    )


def event(change: Change) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encode_event(change).reveal())
    return content


@dataclass
class Side:
    """One holder in a namespace of its own."""

    holder: Party
    namespace: str
    table: AssociationTable

    def run(self, *arguments: str, **others: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **others,
        )

    async def consume(self, changes: tuple[Change, ...]) -> None:
        """Hands each event to the example as the outlet does."""
        counters = Counters()
        ip = shutil.which("ip")
        assert ip is not None
        inside = (ip, "netns", "exec", self.namespace)
        example = (sys.executable, str(XFRM), "MN_FA")
        command = KeyCommand(inside + example, counters, timeout_s=60)
        for change in changes:
            command.submit(change)
        await command.close()
        assert (counters[COMMAND_DONE], counters[COMMAND_FAILED]) == (len(changes), 0)

    def reaches(self, address: str, mark: bytes, timeout_s: float = 10) -> bool:
        ping = self.run(sys.executable, "-c", PING, address, mark.hex(), str(timeout_s))
        return ping.returncode == 0

    def packets(self) -> dict[tuple[str, int], int]:
        """Packets by source and SPI, as the kernel counts them."""
        counted: dict[tuple[str, int], int] = {}
        key = ("", 0)
        lines = self.run("ip", "-s", "xfrm", "state").stdout.splitlines()
        for line in lines:
            words = line.split()
            if words[0] == "src":
                source = words[1]
            elif words[:2] == ["proto", "esp"]:
                key = (source, int(words[3].partition("(")[0], 16))
            elif "(packets)" in line and "limit" not in line and key not in counted:
                counted[key] = int(words[-1].partition("(")[0])
        return counted


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    """A mobile node and a foreign agent, each a namespace, joined by a veth pair."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("NOT SHOWN: needs root and iproute2 for two network namespaces")
    mark = secrets.token_hex(3)
    made = []
    try:
        for holder, address in (
            (Party.MOBILE_NODE, MN_ADDRESS),
            (Party.FOREIGN_AGENT, FA_ADDRESS),
        ):
            side = Side(holder, f"rk-{mark}-{holder.value}", AssociationTable(holder))
            added = subprocess.run(
                ["ip", "netns", "add", side.namespace], capture_output=True, text=True, check=False
            )
            if added.returncode:
                pytest.skip(f"NOT SHOWN: no network namespaces here: {added.stderr.strip()}")
            made.append((side, address))
        (mn, _), (fa, _) = made
        link = ["type", "veth", "peer", "name", "wire", "netns", fa.namespace]
        joined = mn.run("ip", "link", "add", "name", "wire", *link)
        if joined.returncode:
            pytest.skip(f"NOT SHOWN: no veth here: {joined.stderr.strip()}")
        for side, address in made:
            for line in (f"address add {address}/24 dev wire", "link set wire up"):
                done = side.run("ip", *line.split())
                assert done.returncode == 0, done.stderr
        yield mn, fa
    finally:
        for side, _ in made:
            subprocess.run(["ip", "netns", "delete", side.namespace], check=False)


@contextlib.contextmanager
def captured(side: Side, frames: list[bytes]) -> Iterator[None]:
    """Fills `frames` with what passes a side's link meanwhile."""
    with subprocess.Popen(
        ["ip", "netns", "exec", side.namespace, sys.executable, "-c", CAPTURE, "wire"],
        stdout=subprocess.PIPE,
        text=True,
    ) as capture:
        assert capture.stdout is not None and capture.stdout.readline() == "ready\n"
        yield
        capture.kill()
        frames += [bytes.fromhex(line) for line in capture.stdout if line.endswith("\n")]


def require_esp(side: Side, suites: tuple[Suite, ...]) -> None:
    """Skips where this kernel has no ESP with these algorithms; what `ip` says is the reason."""
    (change,) = AssociationTable(Party.MOBILE_NODE).install(
        Grant("probe", (fresh(Pair.MN_FA, 9999, suites),), ENDPOINTS), now=time.time()
    )
    (line,) = [
        line
        for line in loaded(XFRM).batch(event(change), time.time()).splitlines()
        if "state add" in line and f"src {MN_ADDRESS}" in line
    ]
    probed = side.run("ip", "-batch", "-", input=line + "\n")
    if probed.returncode:
        # The kernel refuses; a line that `ip` itself does not understand is our fault.
        refusals = ("not found", "not supported", "unable to initialize")
        assert any(text in probed.stderr for text in refusals)
        pytest.skip(f"NOT SHOWN: this kernel has no ESP with {suites}: {probed.stderr.strip()}")
    side.run("ip", "xfrm", "state", "flush")


@pytest.mark.parametrize("suites", [GCM, CBC_SHA2, (Suite(1, 7), Suite(2, 11)), (Suite(3, 28),)])
async def test_esp_runs_between_mobile_node_and_foreign_agent(
    sides: tuple[Side, Side], suites: tuple[Suite, ...]
) -> None:
    mn, fa = sides
    require_esp(mn, suites)
    first, second = fresh(Pair.MN_FA, 0x1001, suites), fresh(Pair.MN_FA, 0x2002, suites)
    for side in (fa, mn):
        grant = Grant("mn", (first,), ENDPOINTS)
        await side.consume(side.table.install(grant, now=time.time()))
    mark = secrets.token_bytes(16)
    frames: list[bytes] = []
    with captured(fa, frames):
        assert mn.reaches(FA_ADDRESS, mark)
    esp = [f for f in frames if f[12:14] == b"\x08\x00" and f[23] == 50]
    assert len(esp) >= 2 and all(frame[34:38] == (0x1001).to_bytes(4, "big") for frame in esp)
    is_hidden = Suite(2, 11) not in suites
    assert all((mark in frame) != is_hidden for frame in esp)
    assert not [f for f in frames if f[12:14] == b"\x08\x00" and f[23] == 1]  # no ICMP in the clear
    for side in sides:
        packets = side.packets()
        assert packets.keys() == {(MN_ADDRESS, 0x1001), (FA_ADDRESS, 0x1001)}
        assert min(packets.values()) >= 1

    # A renewal: both know the new keys before the old ones end.
    for side in (fa, mn):
        grant = Grant("mn", (second,), ENDPOINTS)
        await side.consume(side.table.install(grant, now=time.time()))
    assert mn.reaches(FA_ADDRESS, secrets.token_bytes(16))
    assert mn.packets()[MN_ADDRESS, 0x2002] >= 1
    for side in sides:
        await side.consume(side.table.first_use("mn", 0x2002, now=time.time()))
        assert side.packets().keys() == {(MN_ADDRESS, 0x2002), (FA_ADDRESS, 0x2002)}
    assert mn.reaches(FA_ADDRESS, secrets.token_bytes(16))

    # Without keys nothing passes, rather than in the clear.
    for side in sides:
        await side.consume(side.table.revoke(0x2002, now=time.time()))
        assert side.packets() == {}
    assert not mn.reaches(FA_ADDRESS, secrets.token_bytes(16), timeout_s=1)


async def test_two_sides_with_different_keys_do_not_reach_each_other(
    sides: tuple[Side, Side],
) -> None:
    mn, _ = sides
    require_esp(mn, GCM)
    for side in sides:
        grant = Grant("mn", (fresh(Pair.MN_FA, 0x1001),), ENDPOINTS)
        await side.consume(side.table.install(grant, now=time.time()))
    assert not mn.reaches(FA_ADDRESS, secrets.token_bytes(16), timeout_s=1)


async def test_policies_leave_registrations_alone_and_go_with_a_deregistration(
    sides: tuple[Side, Side],
) -> None:
    # Policies need no algorithm: this half is shown on a kernel without ESP, too.
    mn, _ = sides
    example = loaded(XFRM)
    (installed,) = mn.table.install(
        Grant("mn", (fresh(Pair.MN_FA, 0x1001),), ENDPOINTS), now=time.time()
    )
    (retired,) = mn.table.deregister("mn", now=time.time())

    def policies(change: Change) -> str:
        lines = example.batch(event(change), time.time()).splitlines()
        text = "\n".join(line for line in lines if line.startswith("xfrm policy")) + "\n"
        assert mn.run("ip", "-batch", "-", input=text).returncode == 0
        return mn.run("ip", "xfrm", "policy").stdout

    shown = policies(installed)
    assert shown.count("proto udp sport 434") == shown.count("proto udp dport 434") == 2
    assert shown.count("proto esp reqid 2 mode transport") == 2
    assert policies(retired) == ""


def both_events(
    suites: tuple[Suite, ...], pair: Pair, holders: tuple[Party, Party]
) -> list[dict[str, Any]]:
    item = fresh(pair, 0x1001, suites)
    tables = [AssociationTable(holder) for holder in holders]
    return [
        event(table.install(Grant("x", (item,), ENDPOINTS), now=time.time())[0]) for table in tables
    ]


@pytest.mark.parametrize("suites", [GCM, CBC_SHA2, (Suite(1, 7), Suite(2, 12))])
def test_what_xfrm_is_given_is_the_same_on_both_sides(suites: tuple[Suite, ...]) -> None:
    example = loaded(XFRM)
    states = []
    for one in both_events(suites, Pair.MN_FA, (Party.MOBILE_NODE, Party.FOREIGN_AGENT)):
        lines = example.batch(one, time.time()).splitlines()
        states.append({line for line in lines if "state add" in line})
    assert states[0] == states[1] and len(states[0]) == 2
    keys = [word for line in states[0] for word in line.split() if word.startswith("0x")]
    assert len(set(keys)) == len(keys)  # none serves both directions
    expected = {3: [74], 1: [66, 66]}[suites[0].protocol_id]
    if suites[0] == Suite(1, 7):
        expected = [130, 66]
    assert [len(word) for word in keys] == expected * 2


@pytest.mark.parametrize("suites", [(Suite(2, 12),), (Suite(1, 5),), (Suite(1, 1), Suite(2, 12))])
def test_xfrm_refuses_what_esp_would_do_badly(suites: tuple[Suite, ...]) -> None:
    one, _ = both_events(suites, Pair.MN_FA, (Party.MOBILE_NODE, Party.FOREIGN_AGENT))
    with pytest.raises(ValueError, match="ESP needs"):
        loaded(XFRM).batch(one, time.time())


@pytest.mark.parametrize("suites", [GCM, CBC_SHA2])
def test_a_preshared_key_is_the_same_on_both_sides_and_another_for_each_association(
    suites: tuple[Suite, ...],
) -> None:
    derive = loaded(WIREGUARD).preshared_key
    keys = set()
    for _ in range(3):
        node, agent = both_events(suites, Pair.MN_HA, (Party.MOBILE_NODE, Party.HOME_AGENT))
        assert derive(node) == derive(agent)
        keys.add(derive(node))
    assert len(keys) == 3 and {len(key) for key in keys} == {32}
    alone, _ = both_events((Suite(1, 5),), Pair.MN_HA, (Party.MOBILE_NODE, Party.HOME_AGENT))
    with pytest.raises(ValueError, match="keys per direction"):
        derive(alone)


RECORDING_WG = """
import json, os, sys
seen = {
    "arguments": sys.argv[1:], "environ": dict(os.environ), "key": open("/dev/stdin").read()
}
print(json.dumps(seen), file=open(os.path.dirname(sys.argv[0]) + "/given", "a"))
"""


def test_wg_gets_the_key_on_its_input_alone(tmp_path: Path) -> None:
    """A program named wg that writes down what it was given stands where the real one would."""
    program, given = tmp_path / "wg", tmp_path / "given"
    program.write_text(f"#!{sys.executable}\n{RECORDING_WG}")
    program.chmod(0o700)
    peers = tmp_path / "peers"
    public_key = base64.b64encode(secrets.token_bytes(32)).decode()
    peers.write_text(f"192.0.2.77 other\n\n192.0.2.1 {public_key}\n")
    table = AssociationTable(Party.MOBILE_NODE, overlap_s=1)
    changes = list(
        table.install(Grant("x", (fresh(Pair.MN_HA, 0x1001),), ENDPOINTS), now=time.time())
    )
    changes += table.install(Grant("x", (fresh(Pair.MN_HA, 0x1002),), ENDPOINTS), now=time.time())
    changes += table.advance(now=time.time() + 2)  # superseded: the new key stays
    changes += table.revoke(0x1002, now=time.time())
    for change in changes:
        done = subprocess.run(
            [sys.executable, WIREGUARD, "MN_HA", "wg0", peers],
            input=encode_event(change).reveal(),
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            check=False,
        )
        assert done.returncode == 0
    seen = [json.loads(line) for line in given.read_text().splitlines()]
    derive = loaded(WIREGUARD).preshared_key
    expected = [base64.b64encode(derive(event(change))).decode() for change in changes[:2]]
    assert [item["key"].strip() for item in seen[:2]] == expected
    assert len(base64.b64decode(seen[2]["key"])) == 32 and seen[2]["key"].strip() not in expected
    assert len(seen) == 3
    for item in seen:
        assert item["arguments"] == [
            "set", "wg0", "peer", public_key, "preshared-key", "/dev/stdin"
        ]  # fmt: skip
        assert item["key"].strip() not in json.dumps([item["arguments"], item["environ"]])
    unknown = peers.with_name("nobody")
    unknown.write_text("192.0.2.77 other\n")
    for pair, file, status in (("MN_HA", unknown, 3), ("MN_FA", unknown, 0)):
        done = subprocess.run(
            [sys.executable, WIREGUARD, pair, "wg0", file],
            input=encode_event(changes[0]).reveal(),
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            check=False,
        )
        assert done.returncode == status
    assert len(given.read_text().splitlines()) == 3
