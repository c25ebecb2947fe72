"""Packets that are wrong in one way each, to a real `aaa home`: what it says, and what it counts.

After each of them a Status-Server is answered, and nothing else comes.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from aaa.radius import counters as names
from aaa.radius.attributes import encode_access_request
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    COA_REQUEST,
    DISCONNECT_REQUEST,
    MESSAGE_AUTHENTICATOR,
    PROXY_STATE,
    STATUS_SERVER,
    decode,
    encode_request,
    proxy_states,
    verify_response,
)
from kdc.model import Secret
from tests.integration.domains import Domains
from tests.unit.radius.requests import ACCESS

Attribute = tuple[int, bytes]

# A Registration Request as far as a home AAA reads it: its type, and a home agent of another home.
ELSEWHERE = bytes((1,)) + bytes(7) + bytes((203, 0, 113, 99)) + bytes(12)
ATTRIBUTES = encode_access_request(replace(ACCESS, registration_request=ELSEWHERE), 32473)

STRICT, EXCEPTED, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.9"
POORLY_FORMED, UNKNOWN_HOME_AGENT = "home.denials.134", "home.denials.136"
OTHER_CLIENT = """
[[client]]
name = "old"
address = "127.0.0.2/32"
secret_file = "visited.secret"
realms = ["visited.example"]
require_message_authenticator = false

[log]
format = "json"
"""


@dataclass(frozen=True)
class Probe:
    """`counted`: what it is counted by; `answered`: the code of its answer, or None."""

    name: str
    octets: bytes
    counted: str
    answered: int | None = None
    source: str = STRICT


def _attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value) + 2)) + value


BODY = b"".join(_attribute(*attribute) for attribute in ATTRIBUTES)
_SIGNATURE = bytes((MESSAGE_AUTHENTICATOR, 18)) + bytes(16)


class Packets:
    """Packets of one secret; each has an authenticator of its own."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def unsigned(self, body: bytes, *, code: int = ACCESS_REQUEST, length: int = 0) -> bytes:
        """As it stands; `length` is what the header says, if that is not the truth."""
        header = bytes((code, 7)) + (length or 20 + len(body)).to_bytes(2, "big")
        return header + secrets.token_bytes(16) + body

    def signed(self, before: bytes, after: bytes = b"", *, code: int = ACCESS_REQUEST) -> bytes:
        """With a right Message-Authenticator between `before` and `after`."""
        packet = self.unsigned(before + _SIGNATURE + after, code=code)
        at = 20 + len(before) + 2
        signature = hmac.digest(self.secret, packet, "md5")
        return packet[:at] + signature + packet[at + 16 :]

    def first(self, *added: Attribute, body: bytes = BODY) -> bytes:
        """As our own clients send it, with more behind it."""
        return self.signed(b"", body + b"".join(_attribute(*each) for each in added))

    def of_code(self, code: int) -> bytes:
        return encode_request(code, 7, secrets.token_bytes(16), ATTRIBUTES, Secret(self.secret))

    def filled_to(self, octets: int) -> bytes:
        """A signed request of this length, by attributes that nobody knows."""
        rest = octets - 20 - len(_SIGNATURE) - len(BODY)
        filler = b""
        while rest:
            take = min(rest, 255) if rest - min(rest, 255) != 1 else 253
            filler += _attribute(200, bytes(take - 2))
            rest -= take
        return self.signed(b"", BODY + filler)

    def with_attributes(self, count: int) -> bytes:
        missing = count - len(ATTRIBUTES) - 1
        return self.first(*[(200, b"x")] * missing)


def _signature_probes(make: Packets) -> Iterator[Probe]:
    wrong = Packets(make.secret + b"!")
    last = make.signed(BODY)
    short = bytes((MESSAGE_AUTHENTICATOR, 17)) + bytes(15)
    state = _attribute(PROXY_STATE, b"hub")
    answered = (UNKNOWN_HOME_AGENT, ACCESS_REJECT)
    yield Probe("signature first", make.first(), *answered)
    yield Probe("signature last", last, *answered)
    yield Probe("signature in the middle", make.signed(BODY[:15], BODY[15:]), *answered)
    yield Probe("no signature", make.unsigned(BODY), names.MALFORMED)
    yield Probe("two signatures", make.signed(b"", BODY + _SIGNATURE), names.MALFORMED)
    yield Probe("the same twice", make.signed(b"", last[20:]), names.MALFORMED)
    yield Probe("short signature", make.unsigned(short + BODY), names.MALFORMED)
    yield Probe("wrong secret", wrong.first(), names.BAD_AUTHENTICATOR)
    yield Probe("signature of zeros", make.unsigned(_SIGNATURE + BODY), names.BAD_AUTHENTICATOR)
    yield Probe("changed behind it", last[:30] + b"?" + last[31:], names.BAD_AUTHENTICATOR)
    yield Probe("signed Proxy-State", make.first((PROXY_STATE, b"hub")), *answered)
    yield Probe("unsigned Proxy-State", make.unsigned(BODY + state), names.MALFORMED)
    # Whom the exception is for may leave it away, but not beside a Proxy-State (CVE-2024-3596).
    yield Probe("excepted", make.unsigned(BODY), *answered, source=EXCEPTED)
    yield Probe(
        "excepted with Proxy-State",
        make.unsigned(BODY + state),
        names.BAD_AUTHENTICATOR,
        source=EXCEPTED,
    )
    yield Probe("excepted and wrong", wrong.first(), names.BAD_AUTHENTICATOR, source=EXCEPTED)
    yield Probe("excepted and right", make.first(), *answered, source=EXCEPTED)


def _structure_probes(make: Packets) -> Iterator[Probe]:
    whole, answered = make.first(), (UNKNOWN_HOME_AGENT, ACCESS_REJECT)
    for name, octets in {
        "truncated attribute": make.unsigned(_SIGNATURE + BODY[:-3]),
        "shorter than Length": whole[:-3],
        "an attribute that overruns": make.signed(b"", BODY + b"\xc8\x0a\x01"),
        "a type without a length": make.signed(b"", BODY + b"\xc8"),
        "length 0": make.signed(b"", BODY + b"\xc8\x00"),
        "length 1": make.signed(b"", BODY + b"\xc8\x01"),
        "type 0": make.signed(b"", BODY + b"\x00\x03\x01"),
        "201 attributes": make.with_attributes(201),
        "4,097 octets": make.filled_to(4097),
        "4,097 octets, 4,096 in Length": make.filled_to(4096) + b"\x00",
        "Length below a header": make.unsigned(BODY, length=19),
        "no octet": b"",
        "half a header": whole[:10],
        "noise": secrets.token_bytes(200)[:2] + b"\xff\xff" + secrets.token_bytes(200),
    }.items():
        yield Probe(name, octets, names.MALFORMED)
    yield Probe("200 attributes", make.with_attributes(200), *answered)
    yield Probe("4,096 octets", make.filled_to(4096), *answered)
    yield Probe("padding", whole[:4] + make.first()[4:] + b"\x00" * 9, *answered)


def _meaning_probes(make: Packets) -> Iterator[Probe]:
    vendor = (32473).to_bytes(4, "big")
    for name, attribute in {
        "zero-length VSA": (26, b""),
        "VSA of a vendor alone": (26, vendor),
        "VSA with a length of zero inside": (26, vendor + b"\x01\x00"),
        "VSA that overruns inside": (26, vendor + b"\x01\x09abc"),
        "password": (2, bytes(16)),
        "CHAP": (3, bytes(17)),
        "User-Name twice": (1, b"@home.example"),
    }.items():
        yield Probe(name, make.first(attribute), POORLY_FORMED, ACCESS_REJECT)
    for code in (ACCOUNTING_REQUEST, DISCONNECT_REQUEST, COA_REQUEST):
        yield Probe(f"code {code} at this port", make.of_code(code), names.UNSUPPORTED)
    yield Probe("a code of the future", make.signed(b"", BODY, code=99), names.UNSUPPORTED)
    yield Probe("an answer", make.signed(b"", BODY, code=2), names.UNSUPPORTED)
    yield Probe("a stranger", make.first(), names.UNKNOWN_CLIENT, source=STRANGER)


def _check_answer(probe: Probe, answer: bytes, secret: bytes) -> None:
    """Signed, the Message-Authenticator first, and exactly the Proxy-States that were sent."""
    response = verify_response(decode(answer), probe.octets[4:20], Secret(secret))
    assert (response.code, response.identifier) == (probe.answered, 7), probe.name
    assert response.attributes[0][0] == MESSAGE_AUTHENTICATOR
    sent = decode(probe.octets, signed=False)
    assert proxy_states(response.attributes) == proxy_states(sent.attributes), probe.name


def _ask(probe: Probe, domains: Domains, secret: bytes) -> None:
    """The probe and what it gets; then a Status-Server, whose answer is all that still comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((probe.source, 0))
        client.connect(domains.ports["home"])
        client.settimeout(5)
        client.send(probe.octets)
        if probe.answered is not None:
            _check_answer(probe, client.recv(4096), secret)
        if probe.source == STRANGER:
            return
        status = encode_request(STATUS_SERVER, 8, secrets.token_bytes(16), (), Secret(secret))
        client.send(status)
        answer = decode(client.recv(4096))
        assert answer.identifier == 8, f"{probe.name} was answered with {answer.code}"
        verify_response(answer, status[4:20], Secret(secret), request_code=STATUS_SERVER)
        assert answer.code == ACCESS_ACCEPT
        client.settimeout(0.01)
        with pytest.raises(TimeoutError):
            client.recv(4096)


async def test_each_probe_has_its_outcome_and_its_counter(domains: Domains) -> None:
    domains.edit("home.toml", "[home]\n", "[home]\nreject_delay_s = 0\n")
    file = domains.folder / "home.toml"
    file.write_text(file.read_text() + OTHER_CLIENT)
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    secret = domains.secret("visited.secret")
    make = Packets(secret)
    probes = [*_signature_probes(make), *_structure_probes(make), *_meaning_probes(make)]
    for probe in probes:
        _ask(probe, domains, secret)
    assert domains.stop_all() == {"home": 0}
    lines = [json.loads(line) for line in domains.log("home").splitlines()]
    expected = Counter(probe.counted for probe in probes)
    (counted,) = [line for line in lines if line["event"] == "counters"]
    assert {name: counted.get(name, 0) for name in expected} == dict(expected)
    _check_log(lines, secret)


def _check_log(lines: list[dict[str, object]], secret: bytes) -> None:
    """One line of a kind and source, and of the exception at the start and at the end."""
    told = Counter((line["event"], line.get("source")) for line in lines)
    for event, source in (
        ("malformed packet", "visited"),
        ("bad authenticator", "visited"),
        ("bad authenticator", "old"),
        ("a code that does not belong to this port", "visited"),
        ("unknown client", STRANGER),
    ):
        assert told[event, source] == 1, event
    exceptions = [line for line in lines if line.get("source") == "old"]
    assert [line.get("count") for line in exceptions if "Message" in str(line["event"])] == [1]
    assert any("require_message_authenticator" in str(line["event"]) for line in exceptions)
    assert secret.decode() not in repr(lines)


async def test_a_refusal_of_the_home_comes_after_its_delay(domains: Domains) -> None:
    domains.edit("home.toml", "[home]\n", "[home]\nreject_delay_s = 0.5\n")
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    secret = domains.secret("visited.secret")
    probe = Probe("refused", Packets(secret).first(), UNKNOWN_HOME_AGENT, ACCESS_REJECT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(domains.ports["home"])
        client.settimeout(0.4)
        client.send(probe.octets)
        with pytest.raises(TimeoutError):
            client.recv(4096)
        client.send(probe.octets)  # in progress: one answer comes, not two
        client.settimeout(5)
        _check_answer(probe, client.recv(4096), secret)
        client.settimeout(0.7)
        with pytest.raises(TimeoutError):
            client.recv(4096)
    domains.stop_all()


async def test_a_refusal_is_not_lost_when_the_home_stops(domains: Domains) -> None:
    domains.edit("home.toml", "[home]\n", "[home]\nreject_delay_s = 5\n")
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    secret = domains.secret("visited.secret")
    probe = Probe("refused", Packets(secret).first(), UNKNOWN_HOME_AGENT, ACCESS_REJECT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(domains.ports["home"])
        client.settimeout(3)
        client.send(probe.octets)
        client.send(encode_request(STATUS_SERVER, 8, bytes(16), (), Secret(secret)))
        assert client.recv(4096)[1] == 8  # what was sent before has been taken in
        assert domains.stop_all() == {"home": 0}
        _check_answer(probe, client.recv(4096), secret)
