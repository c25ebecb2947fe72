"""The values that pass between home agent, key distribution center and store.

What is here crosses a layer; how a row looks is kdc.store's affair, how octets look kdc.wire's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from kdc.model import (
    ExchangeKeys,
    HomeAddressKind,
    Identification,
    IpAddress,
    Mode,
    Nai,
    Pair,
    Secret,
    Suite,
)

UNSPENT_SPIS: Final = 4  # PROTOCOL 5.4: up to four unspent SPIs a record


@dataclass(frozen=True, slots=True)
class Record:
    """One KEY0 record as a home agent may see it: all but KEY0 and the sealed outcome."""

    record_id: int
    nai: Nai
    active: bool
    expires_at: float | None  # Unix seconds of the database's clock
    static_spi: bool
    home_agent: IPv4Address
    home_address_kind: HomeAddressKind
    home_address: IPv4Address | None  # fixed by the operator; None where dynamic
    roam: frozenset[str] | None  # realms it may visit, lowered; None = any that the home knows
    unspent: tuple[int, ...]
    last_spent: int | None
    last_seen: Identification | None  # the greatest that has passed step 8
    rounds: int  # negotiations failed in a row
    accepted_at: tuple[int, ...]  # Unix seconds of registrations accepted in the last minute
    last_digest: bytes | None  # SHA-256 of the last request that passed step 6 (PROTOCOL 5.5)
    current_fa: Nai | None  # where it is registered, None if nowhere
    current_home_address: IPv4Address | None
    registered_until: float | None  # Unix seconds
    revision: int  # compare-and-set: one more for each change


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with what only the KDC may see."""

    record: Record
    key0: Secret
    outcome: Secret | None  # what center.encode_outcome made of the last request's outcome


@dataclass(frozen=True, slots=True)
class NewAssociation:
    """An SA to be stored; `keys` is None where the KDC keeps none (KEY3, stateless MN-FA)."""

    pair: Pair
    spi: int
    key_name: bytes  # 8 octets
    lifetime_s: int
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    keys: Secret | None


@dataclass(frozen=True, slots=True)
class NewRegistration:
    """An accepted registration; its associations become the record's current ones."""

    class_id: bytes  # 8 octets: the Class attribute
    identification: Identification
    fa_nai: Nai
    nas_address: IpAddress
    operator_realm: str | None  # verified; None where the peer is the FA's own AAAF
    care_of_address: IPv4Address
    home_address: IPv4Address
    alias: bytes  # 8 octets
    lifetime_s: int
    associations: tuple[NewAssociation, ...]
    dynamic_address: bool = False  # no other record may have this home address


@dataclass(frozen=True, slots=True)
class RecordChange:
    """One item of a batch: the record's next state, and what else is committed with it.

    It is applied only if the record still has `revision`; else the item is in conflict and is
    judged anew from a fresh load.
    """

    record_id: int
    revision: int
    unspent: tuple[int, ...]  # the whole list afterwards
    last_spent: int | None
    added_spis: tuple[int, ...]  # new in the list
    removed_spis: tuple[int, ...]  # neither unspent nor spent last any more
    last_seen: Identification | None
    rounds: int
    accepted_at: tuple[int, ...]
    digest: bytes | None  # None: this request did not pass step 6; digest and outcome stay
    outcome: Secret | None  # with a digest: the outcome to be sealed with it
    registration: NewRegistration | None = None
    deregistration: bool = False  # all associations of the record are retired at once
    denial_code: int | None = None  # of a denial, for the audit


class Carrier(enum.IntEnum):
    """Where the holder that asked for it finds the Secret of an SA (PROTOCOL section 6)."""

    SA_INFO = 0  # in its SA-INFO, as every other holder does
    KE_C = 1  # Fig. 23: sealed in the answered payload
    KE_SECRET = 2  # Fig. 21, sub-type 240: in the answered payload of pair 3, in the clear


@dataclass(frozen=True, slots=True)
class Terms:
    """What is settled of one SA before its key is made.

    `offered` and `answered` are SA payloads, empty where nothing was offered; the SPI of an answer
    of pair 1 or 3 is still 0.  `z` is the shared secret of a Diffie-Hellman exchange in which the
    home side took part (pairs 1 and 3).
    """

    pair: Pair
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    lifetime_s: int
    offered: bytes = b""
    answered: bytes = b""
    carrier: Carrier = Carrier.SA_INFO
    z: Secret | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedRegistration:
    """A request that has passed every check of PROTOCOL 5.3 but the last: only then keys are made.

    Built by the home agent alone; the KDC issues for nothing else.
    """

    record: Record
    spi: int  # the KEY0 SPI that the request used
    identification: Identification
    lifetime_s: int  # granted; 0 deregisters
    fa_nai: Nai
    nas_address: IpAddress
    operator_realm: str | None
    care_of_address: IPv4Address
    fa_public_key: bytes | None  # the attribute 3 that FK names; None: clear FA keys
    home_agent_nai: Nai
    realm: str  # of the home, for the alias
    terms: tuple[Terms, ...]  # of the SAs to make; empty for a deregistration

    def with_terms(self, terms: tuple[Terms, ...]) -> VerifiedRegistration:
        """The same with these terms; `dataclasses.replace` would take five times as long."""
        return VerifiedRegistration(
            self.record,
            self.spi,
            self.identification,
            self.lifetime_s,
            self.fa_nai,
            self.nas_address,
            self.operator_realm,
            self.care_of_address,
            self.fa_public_key,
            self.home_agent_nai,
            self.realm,
            terms,
        )


@dataclass(frozen=True, slots=True)
class IssuedAssociation:
    """One SA with the secret that its holders get (PROTOCOL 4.2)."""

    pair: Pair
    spi: int
    key_name: bytes  # 8
    lifetime_s: int
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    secret: Secret
    answered: bytes = b""  # the SA payload of the reply, its SPI set, a KE's secret left out
    carrier: Carrier = Carrier.SA_INFO
    keys: Secret | None = None  # what the home side itself holds of it (pairs 1 and 3)


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """W for one foreign agent's key, and that key's copy of it (PROTOCOL section 8)."""

    w: Secret  # 64
    wrapped: bytes  # attribute 4, 116 octets: made once, as it costs two exponentiations


@dataclass(frozen=True, slots=True)
class Issued:
    """All that a reply with code 0 is built from; the same value gives the same octets."""

    alias: bytes  # 8
    class_id: bytes  # 8
    lifetime_s: int
    home_address: IPv4Address
    associations: tuple[IssuedAssociation, ...]  # empty for a deregistration
    wrapping_key: WrappingKey | None
    seed: Secret | None  # R: 32 octets of which the secrets are derived; None outside the KDC

    def find(self, pair: Pair) -> IssuedAssociation | None:
        return next((item for item in self.associations if item.pair is pair), None)


@dataclass(frozen=True, slots=True)
class Denied:
    """A denial; the same value gives the same octets.  Without `challenge`: an Access-Reject."""

    code: int
    challenge: bool
    at: int = 0  # the home's Unix second, which a 133 tells
    counter_proposal: bytes = b""  # an SA payload (PROTOCOL section 6)
    state: bytes = b""  # 8, of an Access-Challenge
    pair: Pair | None = None  # whose negotiation failed, where the denial tells it


# --- what a home agent and its KDC say to each other -----------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a home agent brings back to show that a request was admitted (kdc.ticket)."""

    admitted_at: int  # microseconds of the database's clock
    identification: bytes  # 8, as in the request
    request_digest: bytes  # 32: SHA-256 of the request's octets up to its MHAE's end
    mac: bytes = field(repr=False)  # 32


NO_TICKET: Final = Ticket(0, bytes(8), bytes(32), bytes(32))  # within one process


@dataclass(frozen=True, slots=True)
class Admission:
    """What a KDC lends for one request: the record, K(use, SPI), and the database's clock.

    For an unknown SPI `record` is None and the keys are a dummy's.  `outcome` is that of the
    record's last request; it never leaves the KDC's process.  Over TLS a decision needs `ticket`.
    """

    record: Record | None
    keys: ExchangeKeys = field(repr=False)
    clock: float  # Unix seconds
    outcome: Secret | None = field(default=None, repr=False)
    ticket: Ticket = NO_TICKET


@dataclass(frozen=True, slots=True)
class GrantDecision:
    """Make the keys of a verified registration, and commit them."""

    admission: Admission
    verified: VerifiedRegistration
    digest: bytes

    @property
    def record(self) -> Record:
        return self.verified.record

    @property
    def spi(self) -> int:
        return self.verified.spi


@dataclass(frozen=True, slots=True)
class DenyDecision:
    """Spend the SPI and keep the denial; `digest` is None if step 6 was not passed."""

    admission: Admission
    record: Record
    spi: int
    denied: Denied
    digest: bytes | None
    last_seen: Identification | None
    rounds: int


@dataclass(frozen=True, slots=True)
class RepeatDecision:
    """Give the outcome of the record's last request again (PROTOCOL 5.5)."""

    admission: Admission
    record: Record
    spi: int
    fa_realm: str  # of Roamkey-FA-NAI, verified


Decision = GrantDecision | DenyDecision | RepeatDecision


@dataclass(frozen=True, slots=True)
class Settled:
    """What a decision came to, committed; from it the reply is built."""

    outcome: Issued | Denied
    unspent: tuple[int, ...]  # the record's list afterwards
    chargeable_user_identity: bytes = b""  # of a grant


class Fate(enum.Enum):
    """Why nothing can be answered to a decision, or nothing yet."""

    CONFLICT = "conflict"  # the record was changed meanwhile: judge anew
    UNAVAILABLE = "unavailable"  # no database, no free number: 130
    REFUSED = "refused"  # the database refuses this one: 130
    UNKNOWN = "unknown"  # committed or not, nobody knows: no answer
