"""Tickets: a KDC settles, over TLS, only what a request was shown for that it has verified.

A home agent brings a ticket back as it got it.  Where the KDC has the database in its own process
(kdc.distribution) nobody stands between admission and settlement, and there is none.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from kdc.crypto.key0 import authenticate, hkdf_expand, is_authentic
from kdc.errors import AuthenticationFailed, RemoteError
from kdc.model import Identification, Secret
from kdc.records import (
    Decision,
    DenyDecision,
    GrantDecision,
    Record,
    RepeatDecision,
    Ticket,
)
from kdc.wire.registration import RegistrationRequest

# The time in which a decision is made, exponentiations that wait their turn included.
MAXIMUM_AGE_S: Final = 30
_KEY_LABEL: Final = b"roamkey ticket v1"
_KEY_OCTETS: Final = 32
_MICROSECONDS: Final = 1_000_000
# Record, revision, SPI, microseconds, Identification, SHA-256 of the request; then the peer's name.
_COVERED: Final = struct.Struct(">QQIQ8s32s")


class WrongTicket(AuthenticationFailed):
    """No KDC of this database has given it for this peer, record, revision, SPI and request."""


class OldTicket(RemoteError):
    """It was given too long ago, or in the future: the request is to be judged anew."""


def derive_ticket_key(identity_key: Secret) -> Secret:
    """32 octets, the same for all KDCs of one database, for nothing but tickets."""
    return Secret(hkdf_expand(identity_key.reveal(), _KEY_LABEL, _KEY_OCTETS))


def make_ticket(
    key: Secret, peer: str, record: Record, request: RegistrationRequest, *, clock: float
) -> Ticket:
    """For a `request` that has verified as one of `record`; `clock` is the database's."""
    unsigned = Ticket(
        round(clock * _MICROSECONDS),
        request.identification,
        hashlib.sha256(request.octets).digest(),  # its MHAE ends it
        mac=b"",
    )
    mac = authenticate(key, _cover(unsigned, peer, record, request.mhae.spi))
    return Ticket(unsigned.admitted_at, unsigned.identification, unsigned.request_digest, mac)


def verify_ticket(key: Secret, ticket: Ticket, peer: str, decision: Decision) -> None:
    """Raises `WrongTicket`, or `OldTicket` where it is only old.

    `decision` is about the record as it is now, and its admission tells the database's clock.
    """
    covered = _cover(ticket, peer, decision.record, decision.spi)
    if not is_authentic(key, covered, ticket.mac):
        raise WrongTicket("ticket")
    # Were it free, a request that was heard once would do for any number of later ones.
    identification = _moved_on_to(decision)
    if identification is not None and identification.octets != ticket.identification:
        raise WrongTicket("an identification of another request")
    age = round(decision.admission.clock * _MICROSECONDS) - ticket.admitted_at
    if not 0 <= age <= MAXIMUM_AGE_S * _MICROSECONDS:
        raise OldTicket("ticket of another time")


def _moved_on_to(decision: Decision) -> Identification | None:
    """The identification that the record is to have seen, None if it stays."""
    match decision:
        case GrantDecision():
            return decision.verified.identification
        case DenyDecision():
            seen = decision.last_seen
            return seen if seen != decision.record.last_seen else None
        case RepeatDecision():
            return None


def _cover(ticket: Ticket, peer: str, record: Record, spi: int) -> bytes:
    """What the MAC is over: all but the name has its size, so that no two are written alike."""
    head = _COVERED.pack(
        record.record_id,
        record.revision,
        spi,
        ticket.admitted_at,
        ticket.identification,
        ticket.request_digest,
    )
    return head + peer.encode()
