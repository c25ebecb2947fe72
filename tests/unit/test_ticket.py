"""What a ticket is over, octet by octet, and what it is not good for."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kdc.errors import RoamkeyError
from kdc.model import Identification, Nai, Secret
from kdc.records import (
    NO_TICKET,
    Admission,
    Denied,
    DenyDecision,
    GrantDecision,
    Record,
    RepeatDecision,
    Ticket,
    VerifiedRegistration,
)
from kdc.ticket import (
    MAXIMUM_AGE_S,
    OldTicket,
    WrongTicket,
    derive_ticket_key,
    make_ticket,
    verify_ticket,
)
from kdc.wire.parts import Authenticator, Part
from kdc.wire.registration import RegistrationRequest
from tests.unit.wire.test_keydist import KEYS
from tests.unit.wire.test_keydist import RECORD as KEYDIST_RECORD

RECORD = dataclasses.replace(KEYDIST_RECORD, last_seen=Identification(0x1EFFFFFFF, 1))
IDENTITY_KEY = Secret(b"\x1d" * 32)
KEY = derive_ticket_key(IDENTITY_KEY)
NOW = 1_800_000_000.25
SPI = 0x00011170
IDENTIFICATION = Identification(0x1F0000001, 0xAABBCCDD)
OCTETS = b"a registration request" + b"\xcc" * 32
REQUEST = RegistrationRequest(
    OCTETS,
    0,
    600,
    IPv4Address("192.0.2.1"),
    IPv4Address("198.51.100.7"),
    IDENTIFICATION.octets,
    Nai.parse("@home.example"),
    Part({}, {}),
    Authenticator(SPI, b"\xcc" * 32, len(OCTETS) - 32),
)
TICKET = make_ticket(KEY, "ha1", RECORD, REQUEST, clock=NOW)


def decisions(
    record: Record = RECORD,
    spi: int = SPI,
    *,
    identification: Identification = IDENTIFICATION,
    clock: float = NOW,
) -> tuple[GrantDecision, DenyDecision, DenyDecision, RepeatDecision]:
    """The last two leave the record's identification as it is."""
    admission = Admission(record, KEYS, clock)
    verified = VerifiedRegistration(
        record=record,
        spi=spi,
        identification=identification,
        lifetime_s=600,
        fa_nai=Nai.parse("fa1@visited.example"),
        nas_address=IPv4Address("198.51.100.7"),
        operator_realm=None,
        care_of_address=IPv4Address("198.51.100.7"),
        fa_public_key=None,
        home_agent_nai=Nai.parse("ha1@home.example"),
        realm="home.example",
        terms=(),
    )
    denied, digest = Denied(129, challenge=True), b"\xdd" * 32
    return (
        GrantDecision(admission, verified, digest),
        DenyDecision(admission, record, spi, denied, digest, identification, 1),
        DenyDecision(admission, record, spi, denied, digest, record.last_seen, 1),
        RepeatDecision(admission, record, spi, "visited.example"),
    )


def verify(
    ticket: Ticket = TICKET, peer: str = "ha1", *, key: Secret = KEY, **changes: Any
) -> None:
    """All four kinds alike."""
    raised: list[RoamkeyError | None] = []
    for decision in decisions(**changes):
        try:
            verify_ticket(key, ticket, peer, decision)
        except RoamkeyError as error:
            raised.append(error)
        else:
            raised.append(None)
    assert len(set(map(type, raised))) == 1
    if raised[0] is not None:
        raise raised[0]


def test_the_key_is_of_its_own() -> None:
    expected = HKDFExpand(hashes.SHA256(), 32, b"roamkey ticket v1").derive(b"\x1d" * 32)
    assert KEY.reveal() == expected
    assert KEY != IDENTITY_KEY


def test_a_ticket_octet_by_octet() -> None:
    digest = hashlib.sha256(OCTETS).hexdigest()
    covered = bytes.fromhex(
        "0000000000000005"  # record
        "0000000000000007"  # revision
        "00011170"  # SPI
        "00066517289c5090"  # microseconds
        "f0000001aabbccdd" + digest + b"ha1".hex()  # Identification
    )
    assert TICKET.admitted_at == 1_800_000_000_250_000
    assert TICKET.identification.hex() == "f0000001aabbccdd"
    assert TICKET.request_digest.hex() == digest
    assert TICKET.mac == hmac.digest(KEY.reveal(), covered, "sha256")
    assert TICKET.mac.hex() not in repr(TICKET) and repr(TICKET.mac)[2:-1] not in repr(TICKET)


@pytest.mark.parametrize("age", [0, 0.000001, 1, 29.999999, 30])
def test_a_ticket_in_its_time(age: float) -> None:
    assert MAXIMUM_AGE_S == 30
    verify(clock=NOW + age)


@pytest.mark.parametrize("age", [-3600, -0.000001, 30.000001, 31, 3600, 10**9])
def test_a_ticket_of_another_time(age: float) -> None:
    with pytest.raises(OldTicket):
        verify(clock=NOW + age)
    with pytest.raises(WrongTicket):  # what is wrong is wrong at any time
        verify(clock=NOW + age, spi=SPI + 1)


def _record(**changes: object) -> Callable[[], None]:
    return lambda: verify(record=dataclasses.replace(RECORD, **changes))  # type: ignore[arg-type]


def _ticket(**changes: object) -> Callable[[], None]:
    return lambda: verify(dataclasses.replace(TICKET, **changes))  # type: ignore[arg-type]


WRONG: dict[str, Callable[[], None]] = {
    "none": lambda: verify(NO_TICKET),
    "another record": _record(record_id=6),
    "another revision": _record(revision=8),
    "record and revision in each other's place": _record(record_id=7, revision=5),
    "another SPI": lambda: verify(spi=SPI + 1),
    "another peer": lambda: verify(peer="ha2"),
    "a longer name": lambda: verify(peer="ha1b"),
    "a shorter name": lambda: verify(peer="ha"),
    "no name": lambda: verify(peer=""),
    "another database": lambda: verify(key=derive_ticket_key(Secret(b"\x1e" * 32))),
    "the key it is derived of": lambda: verify(key=IDENTITY_KEY),
    "made younger": _ticket(admitted_at=TICKET.admitted_at + 1),
    "another request": _ticket(request_digest=b"\xd1" * 32),
    "another identification, told": _ticket(identification=b"\xf0\0\0\2\xaa\xbb\xcc\xdd"),
    "a short MAC": _ticket(mac=TICKET.mac[:31]),
    "a long MAC": _ticket(mac=TICKET.mac + b"\0"),
    "no MAC": _ticket(mac=b""),
}


@pytest.mark.parametrize("attempt", WRONG.values(), ids=WRONG)
def test_a_wrong_ticket(attempt: Callable[[], None]) -> None:
    with pytest.raises(WrongTicket):
        attempt()


@pytest.mark.parametrize(
    "other",
    [
        Identification(0x1F0000002, 0xAABBCCDD),
        Identification(0x1F0000001, 0xAABBCCDE),
        Identification(0, 0),
        Identification(2**64 - 1, 2**32 - 1),
    ],
)
def test_an_identification_of_another_request(other: Identification) -> None:
    """Only where the record would be moved on to it."""
    grant, deny, as_it_was, repeat = decisions(identification=other)
    for decision in (grant, deny):
        with pytest.raises(WrongTicket):
            verify_ticket(KEY, TICKET, "ha1", decision)
    for settled in (as_it_was, repeat):
        verify_ticket(KEY, TICKET, "ha1", settled)


def test_one_bit_altered() -> None:
    """Of the MAC or of what it is over, each of them."""
    packed = TICKET.identification + TICKET.request_digest + TICKET.mac
    for bit in range(8 * len(packed)):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        octets = bytes(changed)
        with pytest.raises(WrongTicket):
            verify(Ticket(TICKET.admitted_at, octets[:8], octets[8:40], octets[40:]))
    for bit in range(64):
        with pytest.raises(WrongTicket):
            verify(dataclasses.replace(TICKET, admitted_at=TICKET.admitted_at ^ 1 << bit))


def test_no_text_tells_a_ticket() -> None:
    for attempt in WRONG.values():
        with pytest.raises(RoamkeyError) as caught:
            attempt()
        assert TICKET.mac.hex() not in str(caught.value) and "ha" not in str(caught.value)
