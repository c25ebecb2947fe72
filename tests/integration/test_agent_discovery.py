"""Agent discovery between two machines of their own, with real ICMP (RFC 5944 §2)."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from aaa.roles.mobile_node import Heard
from aaa.serve.advertiser import advertised_agent
from kdc.model import DEFAULT_VENDOR_ID, Nai
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.icmp import (
    AgentAdvertisement,
    checksum,
    encode_agent_advertisement,
    encode_solicitation,
)
from tests.integration.captures import Capture, fields_of, gaps_between, remarks_on
from tests.integration.namespaces import Namespaces

FA, MN = "198.51.100.7", "198.51.100.99"
LONG_INTERVAL = "1800"  # no periodic advertisement within a test, after the first three


class Party:
    """A process of tests.integration.discovery_parties, and the lines that it says."""

    def __init__(self, machines: Namespaces, name: str, *arguments: str) -> None:
        self.process = machines.popen(
            name,
            sys.executable,
            "-m",
            "tests.integration.discovery_parties",
            *arguments,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def says(self, event: str, timeout_s: float = 20) -> dict[str, Any]:
        """The next line, which must be of that event."""
        said: dict[str, Any] = json.loads(self._lines.get(timeout=timeout_s))
        assert said["event"] == event, said
        return said

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        return self.says("stopped")


@pytest.fixture
def link(namespaces: Namespaces) -> Namespaces:
    """`fa` and `mn` on one cable; the kernel filters no sources, so that it is us who do."""
    for name in ("fa", "mn"):
        namespaces.add(name)
        for scope in ("all", "default"):
            namespaces.run(name, "sysctl", "-q", "-w", f"net.ipv4.conf.{scope}.rp_filter=0")
    namespaces.link("fa", f"{FA}/24", "mn", f"{MN}/24")
    return namespaces


def advertiser(machines: Namespaces, interval_s: str, fa_address: str = FA) -> Party:
    party = Party(machines, "fa", "advertise", "to-mn", interval_s, fa_address)
    party.says("advertising")
    return party


def advertisement(*, fa: str = FA, source: str = FA, lifetime_s: int = 30) -> bytes:
    announcement = FaAnnouncement(Nai.parse("forged@visited.example"), bytes(range(16)))
    heard = Heard(announcement, IPv4Address(fa), IPv4Address(fa))
    agent = advertised_agent(heard, IPv4Address(source))
    return encode_agent_advertisement(AgentAdvertisement(agent, 0, lifetime_s), DEFAULT_VENDOR_ID)


def datagram(message: bytes, *, source: str = FA, to: str = "224.0.0.1", ttl: int = 1) -> str:
    """An IPv4 datagram for IPPROTO_RAW; the kernel fills in total length and checksum."""
    head = bytes((0x45, 0, 0, 0, 0, 0, 0, 0, ttl, 1, 0, 0))
    return (head + IPv4Address(source).packed + IPv4Address(to).packed + message).hex()


def send(machines: Namespaces, name: str, interface: str, *datagrams: str) -> None:
    machines.run(
        name, sys.executable, "-m", "tests.integration.discovery_parties", "send", interface,
        *datagrams,
    )  # fmt: skip


def test_a_node_hears_an_agent_and_wireshark_finds_nothing_wrong(
    link: Namespaces, tmp_path: Path
) -> None:
    capture = Capture(link, "mn", "to-fa", tmp_path / "capture.pcapng")
    fa = advertiser(link, LONG_INTERVAL, fa_address="203.0.113.5")  # its AAA's address for it
    mn = Party(link, "mn", "hear", "to-fa", "10")
    mn.says("listening")
    heard = mn.says("heard")
    assert heard["nai"] == "fa1@visited.example"
    assert heard["fk"] == "01" * 16
    assert heard["address"] == [FA, 434]
    assert (heard["fa_address"], heard["care_of_address"]) == ("203.0.113.5", "203.0.113.5")
    assert heard["registration_lifetime_s"] == 0xFFFF
    fa.stop()
    packets = capture.packets()
    assert packets
    for packet in packets:
        assert "_ws.malformed" not in json.dumps(packet), packet
        assert packet["icmp"]["icmp.checksum.status"] == "1"
        assert packet["ip"]["ip.ttl"] == "1"
    # Wireshark wonders at the time to live of the answer to one: RFC 5944 §2.1 wants it.
    assert set().union(*map(remarks_on, packets)) == {"ip.ttl.too_small"}
    advertised = [packet for packet in packets if packet["icmp"]["icmp.type"] == "9"]
    solicited = [packet for packet in packets if packet["icmp"]["icmp.type"] == "10"]
    assert {packet["ip"]["ip.dst"] for packet in solicited} <= {"224.0.0.2", "224.0.0.11"}
    assert {packet["ip"]["ip.src"] for packet in solicited} == {MN}
    _check_dissection(advertised)


def _check_dissection(advertised: list[dict[str, Any]]) -> None:
    """First and last to all, the answer to the node that asked; numbers in a row from 0."""
    numbers = []
    for packet in advertised:
        fields = fields_of(packet["icmp"])
        for expected in (
            ("icmp.code", "16"),
            ("icmp.num_addrs", "2"),
            ("icmp.mip.type", "16"),
            ("icmp.mip.life", "65535"),
            ("icmp.mip.flags", "0x1000"),
            ("icmp.mip.f", "1"),
            ("icmp.mip.coa", "203.0.113.5"),
        ):
            assert expected in fields, fields
        numbers.append(int(next(value for key, value in fields if key == "icmp.mip.seq")))
    assert numbers == list(range(len(advertised)))
    to = [packet["ip"]["ip.dst"] for packet in advertised]
    assert to[0] == to[-1] == "224.0.0.1" and MN in to
    lifetimes = [packet["icmp"]["icmp.lifetime"] for packet in advertised]
    assert lifetimes == ["5400"] * (len(lifetimes) - 1) + ["0"]


def test_a_solicitation_is_answered_within_a_second(link: Namespaces) -> None:
    advertiser(link, LONG_INTERVAL)
    for _ in range(2):
        mn = Party(link, "mn", "hear", "to-fa", "5")
        mn.says("listening")
        assert mn.says("heard")["waited_s"] < 1.0


def test_a_node_without_an_address_hears_what_no_router_passes_on(namespaces: Namespaces) -> None:
    for name in ("fa", "mn"):
        namespaces.add(name)
    namespaces.link("fa", f"{FA}/24", "mn", None)
    mn = Party(namespaces, "mn", "hear", "to-fa", "20")
    mn.says("listening")
    advertiser(namespaces, "4")
    assert mn.says("heard")["address"] == [FA, 434]


def test_a_new_key_is_heard_at_once(link: Namespaces) -> None:
    fa = advertiser(link, LONG_INTERVAL)
    time.sleep(1.1)  # past the limit on the rate
    mn = Party(link, "mn", "hear", "to-fa", "10")
    mn.says("listening")
    assert mn.says("heard")["fk"] == "01" * 16
    fa.process.send_signal(signal.SIGUSR1)
    mn = Party(link, "mn", "hear", "to-fa", "10")
    mn.says("listening")
    assert mn.says("heard")["fk"] == "02" * 16


def test_a_rotation_is_advertised_without_being_asked_for(link: Namespaces, tmp_path: Path) -> None:
    capture = Capture(link, "mn", "to-fa", tmp_path / "capture.pcapng")
    fa = advertiser(link, LONG_INTERVAL)
    time.sleep(1.1)
    fa.process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    packets = capture.packets()
    assert [packet["ip"]["ip.dst"] for packet in packets] == ["224.0.0.1"] * 2
    contents = [
        value.replace(":", "")
        for packet in packets
        for key, value in fields_of(packet["icmp"])
        if key == "icmp.mip.content"
    ]
    # This Wireshark shows an unknown extension without its last four octets.
    assert sum("01" * 12 in content for content in contents) == 1
    assert sum("02" * 12 in content for content in contents) == 1


def test_an_invited_node_registers_again_and_no_other_hears_of_it(
    link: Namespaces, tmp_path: Path
) -> None:
    """Also one that has heard the agent's very first message, number 0, and no other."""
    mn = Party(link, "mn", "follow", "to-fa", "15")
    mn.says("listening")
    capture = Capture(link, "mn", "to-fa", tmp_path / "capture.pcapng")
    fa = advertiser(link, LONG_INTERVAL)
    mn.says("heard")
    fa.process.send_signal(signal.SIGUSR2)
    fa.says("invited")
    assert mn.says("moved")["change"] == "restarted"
    time.sleep(1.1)
    fa.process.send_signal(signal.SIGUSR1)  # the row goes on for all: no other restart
    time.sleep(0.5)
    advertised = [
        (packet["ip"]["ip.dst"], fields_of(packet["icmp"]))
        for packet in capture.packets()
        if packet["icmp"]["icmp.type"] == "9"
    ]
    numbers = [
        (to, int(value)) for to, fields in advertised for key, value in fields
        if key == "icmp.mip.seq"
    ]  # fmt: skip
    invited = [number for to, number in numbers if to == MN][-2:]
    assert invited[1] == 0 < invited[0]
    assert numbers[-1] == ("224.0.0.1", invited[0] + 1)


@pytest.mark.parametrize(
    ("end", "change"), [("stop", "withdrawn"), ("kill", "lost"), ("restart", "restarted")]
)
def test_a_node_notices_that_its_agent_is_gone(link: Namespaces, end: str, change: str) -> None:
    fa = advertiser(link, "1")
    time.sleep(1.2)  # past its message 0, so that a restart shows
    mn = Party(link, "mn", "follow", "to-fa", "15")
    mn.says("listening")
    mn.says("heard")
    if end == "stop":
        fa.stop()
    else:
        fa.process.kill()
    if end == "restart":
        advertiser(link, "1")
    assert mn.says("moved")["change"] == change


_GOOD = advertisement()
_CUT = _GOOD[:2] + bytes(2) + _GOOD[4:-8]
_FORGED = {
    "ICMP checksum": datagram(_GOOD[:-2] + bytes((_GOOD[-2] ^ 1, _GOOD[-1]))),
    "time to live is not 1": datagram(_GOOD, ttl=255),
    "source is no neighbour": datagram(
        advertisement(fa="192.0.2.66", source="192.0.2.66"), source="192.0.2.66"
    ),
    "source is not among the router addresses": datagram(_GOOD, source="198.51.100.8"),
    "source is our own address": datagram(advertisement(fa=MN, source=MN), source=MN),
    "destination of an advertisement": datagram(_GOOD, to="224.0.0.251"),
    "octets run out": datagram(_CUT[:2] + checksum(_CUT).to_bytes(2, "big") + _CUT[4:]),
}


def test_forged_advertisements_are_ignored_and_counted(link: Namespaces) -> None:
    link.run("mn", "sysctl", "-q", "-w", "net.ipv4.conf.all.accept_local=1")
    # So that mDNS's group arrives at all.
    link.ip("mn", "address", "add", "224.0.0.251/32", "dev", "to-fa", "autojoin")
    mn = Party(link, "mn", "hear", "to-fa", "5")
    mn.says("listening")
    send(link, "fa", "to-mn", *_FORGED.values())
    text = mn.says("nobody")["text"]
    assert text.startswith("no foreign agent to register with was heard on to-fa within 5 s")
    assert text.endswith("ignored: " + ", ".join(f"1 ({reason})" for reason in sorted(_FORGED)))


def test_other_icmp_is_not_even_counted(link: Namespaces) -> None:
    mn = Party(link, "mn", "hear", "to-fa", "2.5")
    mn.says("listening")
    # An echo request, a router solicitation, and types that the kernel's filter does not know.
    others = (b"\x08\x00", b"\x0a\x00", b"\x28\x00", b"\xff\x10")
    send(link, "fa", "to-mn", *(datagram(start + bytes(6)) for start in others))
    assert "ignored" not in mn.says("nobody")["text"]


@pytest.mark.parametrize("to", ["224.0.0.1", "255.255.255.255", MN])
def test_the_same_datagram_that_is_not_forged_is_heard(link: Namespaces, to: str) -> None:
    mn = Party(link, "mn", "hear", "to-fa", "5")
    mn.says("listening")
    send(link, "fa", "to-mn", datagram(_GOOD, to=to))
    assert mn.says("heard")["nai"] == "forged@visited.example"


def test_advertisements_come_at_random_within_the_interval(
    link: Namespaces, tmp_path: Path
) -> None:
    capture = Capture(link, "mn", "to-fa", tmp_path / "capture.pcapng")
    advertiser(link, "1")
    time.sleep(5)
    packets = capture.packets()
    assert {packet["icmp"]["icmp.lifetime"] for packet in packets} == {"3"}
    gaps = gaps_between(packets)
    # RFC 1256 §4.1, §4.3: uniformly between 0.75 and 1 of the interval; this machine is busy.
    assert len(gaps) >= 4 and min(gaps) > 0.74 and max(gaps) < 1.5
    assert max(gaps) - min(gaps) > 0.001


@pytest.mark.parametrize(
    "sources",
    [
        # Addresses that nobody has: an answer to one of them alone would not even be seen.
        [f"198.51.100.{n}" for n in range(10, 250) if n != 99],
        [f"203.0.113.{n}" for n in range(10, 250)] + ["0.0.0.0"],
    ],
    ids=["neighbours", "strangers"],
)
def test_a_flood_of_solicitations_gets_few_answers(
    link: Namespaces, tmp_path: Path, sources: list[str]
) -> None:
    capture = Capture(link, "fa", "to-mn", tmp_path / "capture.pcapng")
    fa = advertiser(link, LONG_INTERVAL)
    asked = [datagram(encode_solicitation(), source=item, to="224.0.0.11") for item in sources]
    for _ in range(4):
        send(link, "mn", "to-fa", *asked)
    time.sleep(1.5)
    last = fa.stop()
    packets = capture.packets()
    heard = [item for item in packets if item["icmp"]["icmp.type"] == "10"]
    answers = [item for item in packets if item["icmp"]["icmp.type"] == "9"]
    assert len(heard) == 4 * len(asked)
    # Too many to be answered one by one: all of them together, and at most once a second.
    assert {item["ip"]["ip.dst"] for item in answers} == {"224.0.0.1"}
    assert answers.pop()["icmp"]["icmp.lifetime"] == "0"
    assert len(answers) >= 2 and min(gaps_between(answers)) > 0.99
    assert last["peak_kb"] < 150_000


def test_a_solicitation_that_may_have_crossed_a_router_is_not_answered(
    link: Namespaces, tmp_path: Path
) -> None:
    solicitation = encode_solicitation()
    wrong = solicitation[:-1] + b"\x01"  # and so its checksum
    capture = Capture(link, "fa", "to-mn", tmp_path / "capture.pcapng")
    fa = advertiser(link, LONG_INTERVAL)
    for asked in (
        datagram(solicitation, source=MN, to=FA),
        datagram(solicitation, source=MN, to="224.0.0.2", ttl=255),
        datagram(wrong, source=MN, to="224.0.0.2"),
        datagram(solicitation, source=MN, to="224.0.0.2"),
        datagram(solicitation, source=MN, to="255.255.255.255"),
    ):
        send(link, "mn", "to-fa", asked)
        time.sleep(0.5)
    fa.stop()
    said = [(item["icmp"]["icmp.type"], item["ip"]["ip.dst"]) for item in capture.packets()]
    assert said == [
        ("9", "224.0.0.1"),
        ("10", FA),
        ("10", "224.0.0.2"),
        ("10", "224.0.0.2"),
        ("10", "224.0.0.2"),
        ("9", MN),
        ("10", "255.255.255.255"),
        ("9", MN),
        ("9", "224.0.0.1"),
    ]


@pytest.mark.parametrize(
    ("party", "interface", "expected"),
    [
        ("advertise", "nowhere", "nowhere: expected an interface or a local IPv4 address"),
        ("hear", "nowhere", "nowhere: expected an interface or a local IPv4 address"),
        ("advertise", "to-mn", "to-mn: expected an interface with an IPv4 address"),
    ],
)
def test_what_is_missing_is_said(
    namespaces: Namespaces, party: str, interface: str, expected: str
) -> None:
    for name in ("fa", "mn"):
        namespaces.add(name)
    namespaces.link("fa", None, "mn", None)
    arguments = ["5", FA] if party == "advertise" else ["5"]
    said = Party(namespaces, "fa", party, interface, *arguments).says("refused")["text"]
    assert said.startswith(expected)


def test_without_the_capability_the_other_way_is_named(link: Namespaces) -> None:
    done = link.run(
        "mn", "setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw",
        sys.executable, "-m", "tests.integration.discovery_parties", "hear", "to-fa", "1",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["text"] == (
        "raw ICMP sockets are not permitted: needs CAP_NET_RAW, or use --advertisement FILE"
    )
