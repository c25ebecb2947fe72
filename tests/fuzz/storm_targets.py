"""The ports that are stormed: their processes, good packets for each, and what must answer them."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from aaa.demo.configurations import HOME_AGENT, free_address, text_of
from aaa.net.tls import TlsFiles, load_contexts
from aaa.net.udp import Address
from aaa.radius.packet import (
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    COA_REQUEST,
    DISCONNECT_REQUEST,
    RADSEC_SECRET,
    STATUS_SERVER,
    Packet,
    decode,
)
from aaa.radius.ports import ACCOUNTING, DYNAMIC_AUTHORIZATION
from aaa.roles.mobile_node import Heard
from aaa.roles.mobile_node_terms import MnTerms
from bench.registrations import FA_ADDRESS, FA_KEY_SPI, FA_NAI, Load, seal
from kdc.crypto.hpke import X25519Key, fingerprint
from kdc.model import Secret
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey
from tests.fuzz.storm_figures import Unanswered, read_log
from tests.fuzz.storm_good import (
    Good,
    Judge,
    accounting_start,
    disconnect,
    key_request,
    session_bases,
)
from tests.fuzz.storm_link import Link, TlsLink, UdpLink, probe_of
from tests.integration.domains import START_TIMEOUT_S, Domains
from tests.integration.split import free_tcp
from tests.vectors_loader import octets, vectors

LIVE: Final = 8  # places among the good packets of a target for one that is good now
_LOG: Final = '\n[log]\nformat = "json"\n'
# What a process says of each port once it is bound.
_LISTENING: Final = frozenset({"listening", ACCOUNTING.name, DYNAMIC_AUTHORIZATION.name})
_CODES: Final = (ACCESS_REQUEST, STATUS_SERVER)
_TLS: Final = """
[tls]
certificate_file = "tls/home.pem"
key_file = "tls/home.key"
ca_file = "tls/ca.pem"
"""
_KDC: Final = """[kdc]
listen = ["{address}"]
realm = "home.example"

[tls]
certificate_file = "tls/kdc.pem"
key_file = "tls/kdc.key"
ca_file = "tls/ca.pem"

[database]
url = "{url}"
kek_file = "{kek_file}"

[[home_agent]]
name = "ha1"
nai = "ha1@home.example"
address = "{home_agent}"
san = ["ha1.home.example"]
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One port of one process, which may have several of them."""

    process: str  # its configuration is PROCESS.toml; its log has the counters
    address: Address
    secret: Secret
    codes: tuple[int, ...]  # sent more often than any other code
    forwards_to: str | None = None  # the process, further up, that gets what this one lets through
    # The counter of the requests that it lets through, where others of the process go elsewhere.
    forwarded_by: str | None = None
    tls: TlsFiles | None = None  # of a peer that it knows; None: UDP
    command: tuple[str, ...] = ()  # where it is not `aaa PROCESS`
    probe: int = STATUS_SERVER  # the code of a request that is answered whatever happens
    good: Good | None = None  # None: a registration

    def link(self) -> Link:
        if self.tls is None:
            return UdpLink(self.address, self.secret, self.probe)
        return TlsLink(self.address, load_contexts(self.tls).client)


def targets_of(domains: Domains) -> list[Target]:
    """Every port that is stormed: a new one is one line here.  Writes what they need.

    A process stands behind those that it forwards to.
    """
    known_to_kdc, known_to_home = _configure_tls(domains)
    _configure_sessions(domains)
    visited, fa1 = (Secret(domains.secret(f"{name}.secret")) for name in ("visited", "fa1"))
    ports = domains.ports
    to_home = partial(Target, forwards_to="home")
    told = partial(Target, codes=(ACCOUNTING_REQUEST, STATUS_SERVER), good=accounting_start)
    asked = partial(
        Target,
        codes=(DISCONNECT_REQUEST, COA_REQUEST),
        probe=DISCONNECT_REQUEST,
        good=disconnect,
    )
    by_tls = partial(Target, secret=RADSEC_SECRET)
    return [
        Target("home", ports["home"], visited, _CODES),
        told("home", ports["home_accounting"], visited),
        asked("agent", ports["agent_dynauth"], fa1),
        to_home("foreign", ports["foreign"], fa1, _CODES),
        told("foreign", ports["foreign_accounting"], fa1, forwards_to="home"),
        asked(
            "foreign",
            ports["foreign_dynauth"],
            visited,
            forwards_to="agent",
            forwarded_by="foreign.dynauth.forwarded",
        ),
        by_tls(
            "home_tls",
            ports["home_tls"],
            codes=(ACCESS_REQUEST, ACCOUNTING_REQUEST, STATUS_SERVER),
            tls=known_to_home,
            command=("aaa", "home"),
        ),
        by_tls(
            "kdc",
            ports["kdc"],
            codes=_CODES,
            tls=known_to_kdc,
            command=("kdc", "serve"),
            good=key_request,
        ),
    ]


def _configure_tls(domains: Domains) -> tuple[TlsFiles, TlsFiles]:
    """A KDC and another home on the same database; who is known to them: ha1, and visited."""
    folder = domains.folder / "tls"
    domains.kdc("tls", "authority", "tls")
    for name in ("kdc", "ha1", "home", "visited"):
        domains.kdc("tls", "issue", "tls", name, "--san", f"{name}.home.example")
    for name in ("kdc", "home_tls"):
        domains.ports[name] = free_tcp()
    text = _KDC.format(
        address=text_of(domains.ports["kdc"]),
        url=domains.database_url,
        kek_file=domains.postgres.kek_file,
        home_agent=HOME_AGENT,
    )
    (domains.folder / "kdc.toml").write_text(text)
    text = (domains.folder / "home.toml").read_text()
    by_udp = 'address = "127.0.0.1/32"\nsecret_file = "visited.secret"\n'
    listen = f'\nlisten = ["{text_of(domains.ports["home"])}"]\n'
    assert listen in text and by_udp in text
    text = text.replace(listen, f'\ntls_listen = ["{text_of(domains.ports["home_tls"])}"]\n')
    text = text.replace(by_udp, 'san = ["visited.home.example"]\n')
    (domains.folder / "home_tls.toml").write_text(text + _TLS)
    ha1, visited = (
        TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
        for name in ("ha1", "visited")
    )
    return ha1, visited


def _configure_sessions(domains: Domains) -> None:
    """Accounting goes up to home, dynamic authorization down to the agent."""
    names = ("home_accounting", "foreign_accounting", "foreign_dynauth", "agent_dynauth")
    domains.ports |= {name: free_address() for name in names}
    at = {name: text_of(domains.ports[name]) for name in names}
    for file, section, line in (
        ("home", "[home]", f'accounting_listen = ["{at["home_accounting"]}"]'),
        ("foreign", "[foreign]", f'accounting_listen = ["{at["foreign_accounting"]}"]'),
        ("foreign", "[foreign]", f'dynamic_authorization_listen = ["{at["foreign_dynauth"]}"]'),
        ("foreign", "[[client]]", f'dynamic_authorization = "{at["agent_dynauth"]}"'),
        ("foreign", "[[home_server]]", f'accounting = "{at["home_accounting"]}"'),
        ("agent", "[agent]", f'dynamic_authorization_listen = "{at["agent_dynauth"]}"'),
    ):
        domains.edit(f"{file}.toml", f"{section}\n", f"{section}\n{line}\n")


def start(domains: Domains, targets: list[Target]) -> None:
    """Starts them all and returns when they listen; raises `Unanswered`.

    No packet is sent for it: each would be one that the counters know and we do not.
    """
    ports = Counter(target.process for target in targets)
    for target in {target.process: target for target in targets}.values():
        file = domains.folder / f"{target.process}.toml"
        file.write_text(file.read_text() + _LOG)
        _start(domains, target)
    until = time.monotonic() + START_TIMEOUT_S
    for name, expected in ports.items():
        while _count_listening(domains, name) < expected:
            if domains.processes[name].poll() is not None or time.monotonic() > until:
                raise Unanswered(f"{name} does not start: {domains.log(name)}")
            time.sleep(0.05)  # the log is the only place where it says so


def _count_listening(domains: Domains, name: str) -> int:
    return sum(event["event"] in _LISTENING for event in read_log(domains.log(name)))


def _start(domains: Domains, target: Target) -> None:
    if not target.command:
        domains.start(target.process)
        return
    with (domains.folder / f"{target.process}.log").open("ab") as log:
        domains.processes[target.process] = subprocess.Popen(
            [sys.executable, "-m", *target.command, "--config", f"{target.process}.toml"],
            cwd=domains.folder,
            env=domains.environment,
            stdout=log,
            stderr=log,
        )


class GoodPackets:
    """Good packets for each target, of subscribers that are there."""

    def __init__(self, domains: Domains, *, once: int, mutated: int) -> None:
        """`once` subscribers for `unused`, and `mutated` for `live`, which takes turns."""
        printed = domains.kdc(
            "subscriber", "add", "mn@home.example", "--config", "home.toml",
            "--count", str(once + mutated), "--json",
        )  # fmt: skip
        self._lines = deque(printed.splitlines())
        self._unused = [self._lines.popleft() for _ in range(once)]
        public_key = X25519Key.of(Secret(secrets.token_bytes(32))).public_key
        self._attribute_3 = FaPublicKey(FA_KEY_SPI, public_key).octets
        announcement = FaAnnouncement(FA_NAI, fingerprint(self._attribute_3))
        self._heard = Heard(announcement, FA_ADDRESS, FA_ADDRESS)

    def bases(self, target: Target) -> Iterator[Packet]:
        """What is mutated: of the vectors, a probe, and last `LIVE` of one good now."""
        if target.good is None:
            for vector in vectors("registration"):
                yield decode(octets(vector["out"]["access_request"]))
        yield decode(probe_of(target.probe, target.secret))
        yield from session_bases(target.codes, target.secret)
        live, _ = self.live(target)
        yield from [live] * LIVE

    def live(self, target: Target) -> tuple[Packet, Judge]:
        """A registration of the next subscriber, to be mutated: good for seven seconds."""
        self._lines.rotate(-1)
        return self._seal(self._lines[0], target)

    def unused(self, target: Target) -> tuple[Packet, Judge]:
        """A registration of a subscriber whom no mutated packet has ever named."""
        return self._seal(self._unused.pop(), target)

    def _seal(self, line: str, target: Target) -> tuple[Packet, Judge]:
        secret = target.secret.reveal().decode()
        sealed = seal([line], 0, self._heard, (self._attribute_3,), time.time(), secret, MnTerms())
        datagrams, authenticators, identifications = map(list, zip(*sealed, strict=True))
        load = Load(datagrams, authenticators, identifications, target.secret)
        packet = decode(load.datagrams[0])
        if target.good is None:
            return packet, lambda answer: load.check(0, answer)
        return target.good(packet, target.secret)


def keep_packets(folder: Path, seed: int, process: str, recent: list[tuple[int, bytes]]) -> None:
    """Files SEED-NUMBER-PROCESS of what was sent last."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, packet in recent:
        (folder / f"{seed}-{number:09d}-{process}").write_bytes(packet)
