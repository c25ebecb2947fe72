"""The ports that are stormed: their processes, good packets for each, and what must answer them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aaa.demo.configurations import HOME_AGENT
from aaa.net.tls import TlsFiles, load_contexts
from aaa.net.udp import Address
from aaa.radius.attributes import (
    KEY_REPLY,
    collect,
    decode_access_request,
    encode_key_request,
)
from aaa.radius.packet import (
    ACCESS_REQUEST,
    RADSEC_SECRET,
    STATUS_SERVER,
    Packet,
    decode,
    encode_request,
    verify_request,
    verify_response,
)
from aaa.roles.mobile_node import Heard
from aaa.roles.mobile_node_terms import MnTerms
from bench.registrations import FA_ADDRESS, FA_KEY_SPI, FA_NAI, Load, seal
from kdc.crypto.hpke import X25519Key, fingerprint
from kdc.model import DEFAULT_VENDOR_ID, Secret
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey
from kdc.wire.keydist import AdmitRequest, Message, encode_key_request_message
from tests.fuzz.storm_figures import Unanswered, read_log
from tests.fuzz.storm_link import Link, TlsLink, UdpLink, probe_of
from tests.integration.domains import START_TIMEOUT_S, Domains
from tests.integration.split import free_tcp
from tests.vectors_loader import octets, vectors

LIVE: Final = 8  # places among the good packets of a target for one that is good now
_LOG: Final = '\n[log]\nformat = "json"\n'
_KDC: Final = """[kdc]
listen = ["{host}:{port}"]
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

Judge = Callable[[bytes], None]
"""Raises `ValueError` for an answer that does not grant what was asked."""

Good = Callable[[Packet], tuple[Packet, Judge]]
"""Makes of a registration that is good now a request that is good at another port."""


@dataclass(frozen=True, slots=True)
class Target:
    """One port of one process, which may have several of them."""

    process: str  # its configuration is PROCESS.toml; its log has the counters
    address: Address
    secret: Secret
    codes: tuple[int, ...]  # sent more often than any other code
    forwards_to: str | None = None  # the process, further up, that gets what this one lets through
    tls: TlsFiles | None = None  # of a peer that it knows; None: UDP
    command: tuple[str, ...] = ()  # where it is not `aaa PROCESS`
    probe: int = STATUS_SERVER  # the code of a request that is answered whatever happens
    good: Good | None = None  # None: a registration

    def link(self) -> Link:
        if self.tls is None:
            return UdpLink(self.address, self.secret, self.probe)
        return TlsLink(self.address, load_contexts(self.tls).client)


def targets_of(domains: Domains) -> list[Target]:
    """Every port that is stormed: a new one is one line here.  Writes what the KDC needs."""

    def secret(file: str) -> Secret:
        return Secret(domains.secret(file))

    ports, codes = domains.ports, (ACCESS_REQUEST, STATUS_SERVER)
    known = _configure_kdc(domains)
    return [
        Target("home", ports["home"], secret("visited.secret"), codes),
        Target("foreign", ports["foreign"], secret("fa1.secret"), codes, forwards_to="home"),
        Target(
            "kdc",
            ports["kdc"],
            RADSEC_SECRET,
            codes,
            tls=known,
            command=("kdc", "serve"),
            good=_key_request,
        ),
    ]


def _configure_kdc(domains: Domains) -> TlsFiles:
    """A KDC on the same database, and the certificate of a home agent that it knows."""
    folder = domains.folder / "tls"
    domains.kdc("tls", "authority", "tls")
    for name in ("kdc", "ha1"):
        domains.kdc("tls", "issue", "tls", name, "--san", f"{name}.home.example")
    domains.ports["kdc"] = host, port = free_tcp()
    kek_file = domains.postgres.kek_file
    url = domains.database_url
    text = _KDC.format(host=host, port=port, url=url, kek_file=kek_file, home_agent=HOME_AGENT)
    (domains.folder / "kdc.toml").write_text(text)
    return TlsFiles(folder / "ha1.pem", folder / "ha1.key", folder / "ca.pem")


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
    return sum(event["event"] == "listening" for event in read_log(domains.log(name)))


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
        return target.good(packet)


def _key_request(packet: Packet) -> tuple[Packet, Judge]:
    """The question whether the registration in `packet` is admitted, for a KDC."""
    access = decode_access_request(verify_request(packet, RADSEC_SECRET), DEFAULT_VENDOR_ID)
    message = AdmitRequest(access.registration_request)
    payload = encode_key_request_message(message, DEFAULT_VENDOR_ID)
    attributes = encode_key_request(
        payload, home_agent="ha1", realm="home.example", vendor_id=DEFAULT_VENDOR_ID
    )
    authenticator = os.urandom(16)
    wire = encode_request(ACCESS_REQUEST, 1, authenticator, attributes, RADSEC_SECRET)

    def judge(answer: bytes) -> None:
        response = verify_response(decode(answer), authenticator, RADSEC_SECRET)
        reply = b"".join(collect(response.attributes, DEFAULT_VENDOR_ID).get(KEY_REPLY, ()))
        if reply[1:2] != bytes((Message.ADMITTED,)):
            raise ValueError("not admitted")

    return decode(wire), judge


def keep_packets(folder: Path, seed: int, process: str, recent: list[tuple[int, bytes]]) -> None:
    """Files SEED-NUMBER-PROCESS of what was sent last."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, packet in recent:
        (folder / f"{seed}-{number:09d}-{process}").write_bytes(packet)
