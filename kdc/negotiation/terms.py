"""What is negotiated: policy, agreement, and how transforms and KEs are judged (PROTOCOL 4.3).

Nothing is chosen here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from kdc.errors import LocalError
from kdc.model import KEY_OCTETS, Mode, Pair, Suite
from kdc.wire.payloads import (
    AEAD,
    KE_SECRET,
    KEY_LENGTH,
    KEY_MODE,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
)

NULL: Final = Suite(2, 11)
AEAD_KEY_BITS: Final = 256  # PROTOCOL 4.3: attribute 6 of an AEAD leaves the salt out
DEFAULT_GROUPS: Final = frozenset({31, 14, 15, 16, 19})  # PROTOCOL 7.3
LEGACY_GROUPS: Final = frozenset({1, 2})
FA_GROUP: Final = 31  # PROTOCOL 7.3: pairs 2, 3 and 4
LEGACY_SUITES: Final = frozenset({Suite(1, 1), Suite(1, 2), Suite(2, 3)})
DEFAULT_POLICY_SUITES: Final = frozenset(KEY_OCTETS) - LEGACY_SUITES - {NULL}
MINIMUM_USER_GROUP_BITS: Final = 2048  # PROTOCOL 7.3
MAXIMUM_USER_GROUP_BITS: Final = 4096
_MODES: Final = frozenset(int(mode) for mode in Mode)
KNOWN_PROTOCOLS: Final = frozenset(suite.protocol_id for suite in KEY_OCTETS)
SPI_BY_HOME: Final = frozenset({Pair.MN_HA, Pair.FA_HA})  # the answer's SPI is the SA's

# Octets of the public value and of Z, both left-padded (PROTOCOL 7.3).
GROUP_OCTETS: Final = {
    1: (96, 96),
    2: (128, 128),
    14: (256, 256),
    15: (384, 384),
    16: (512, 512),
    19: (65, 32),
    31: (32, 32),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What one party accepts, and what it offers.  Raises `LocalError` if it contradicts itself.

    `preferred` are the suites that it offers by itself, best first, each an AND of protocols.
    """

    suites: frozenset[Suite] = DEFAULT_POLICY_SUITES
    modes: frozenset[Mode] = frozenset(Mode)
    default_mode: Mode = Mode.STATEFUL  # where no attribute 128 and no computed value says it
    groups: frozenset[int] = DEFAULT_GROUPS
    user_groups: bool = False
    fa_dh_any: bool = False  # groups other than 31 for pairs 2-4
    raw_dh: bool = False  # derivation 0 for pair 1 in mode 1
    formula_5: bool = False  # derivation 1 in mode 3
    maximum_lifetime_s: int = 86400
    ke_c_spi: int | None = None  # the SPI under which a KE-c of this exchange is sealed
    clear_fa_keys: bool = False  # `fa_keys = clear`: KE sub-type 240 for pair 3
    preferred: tuple[tuple[Suite, ...], ...] = ((Suite(3, 20),), (Suite(3, 28),))

    def __post_init__(self) -> None:
        if self.default_mode not in self.modes:
            raise LocalError("the default mode is not among the modes")
        if not self.groups <= GROUP_OCTETS.keys() or not self.suites <= KEY_OCTETS.keys():
            raise LocalError("policy names an unknown group or suite")
        if self.maximum_lifetime_s < 1:
            raise LocalError("a lifetime is at least one second")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One combination of an offer: each proposal holds exactly one transform and no KE.

    `key_exchange` is the KE used, as the initiator offered it; `answered` is the responder's, once
    there is an answer.  `mode` is None in an answer that leaves it to the home side (SA-INFO).
    """

    pair: Pair
    proposals: tuple[Proposal, ...]
    mode: Mode | None
    key_exchange: KeyExchange | None
    answered: KeyExchange | None = None

    @property
    def number(self) -> int:
        """The proposal number."""
        return self.proposals[0].number

    @property
    def suites(self) -> tuple[Suite, ...]:
        """In the order of the proposals, which is that of the keys."""
        return tuple(Suite(p.protocol_id, p.transforms[0].transform_id) for p in self.proposals)

    @property
    def lifetime_s(self) -> int:
        """The lowest Lifetime of the proposals (PROTOCOL 4.2)."""
        return min(proposal.lifetime_s for proposal in self.proposals)

    @property
    def spi(self) -> int:
        """The SPI of the answer; 0 where the FA answered, or nobody has."""
        return self.proposals[0].spi

    @property
    def has_computed_value(self) -> bool:
        """Whether Z goes into the keys: stateless or mixed."""
        return is_computed(self.key_exchange)


def derivation_of(agreement: Agreement, policy: Policy) -> int:
    """Which derivation of section 7 makes the keys; raises `LocalError` while the mode is open."""
    if agreement.mode is None:
        raise LocalError("the mode is not told")
    if agreement.has_computed_value:
        return 0 if is_raw(agreement.pair, agreement.mode, policy) else 3
    if agreement.mode is Mode.SEMISTATEFUL:
        return 1 if policy.formula_5 else 2
    return 0


def proposals_by_number(payload: SaPayload) -> list[tuple[Proposal, ...]]:
    """The AND groups, in order; the decoder has seen that one number is adjacent."""
    groups = itertools.groupby(payload.proposals, key=lambda proposal: proposal.number)
    return [tuple(group) for _, group in groups]


def read_transform(protocol_id: int, transform: Transform) -> tuple[Suite, Mode | None] | None:
    """The suite and the mode that a transform names; None if it is passed over (PROTOCOL 4.3)."""
    suite = Suite(protocol_id, transform.transform_id)
    if suite not in KEY_OCTETS or transform.key_count != int(suite != NULL):
        return None
    mode: Mode | None = None
    seen: set[int] = set()
    for attribute in transform.attributes:
        value = int.from_bytes(attribute.value, "big")
        if not attribute.short or attribute.type in seen:
            return None
        seen.add(attribute.type)
        if attribute.type == KEY_MODE and value in _MODES:
            mode = Mode(value)
        elif attribute.type != KEY_LENGTH or value != _key_bits(suite):
            return None
    return suite, mode


def _key_bits(suite: Suite) -> int:
    return AEAD_KEY_BITS if suite.protocol_id == AEAD else 8 * KEY_OCTETS[suite]


def is_raw(pair: Pair, mode: Mode | None, policy: Policy) -> bool:
    """Derivation 0 of a shared secret (PROTOCOL 7.3)."""
    return policy.raw_dh and pair is Pair.MN_HA and mode is Mode.STATELESS


def is_secret(ke: KeyExchange | None) -> bool:
    return isinstance(ke, KeA) and ke.group == KE_SECRET


def is_computed(ke: KeyExchange | None) -> bool:
    """A KE-a of a group or a KE-b: a Diffie-Hellman value."""
    return isinstance(ke, KeB) or (isinstance(ke, KeA) and ke.group != KE_SECRET)


def is_bound(ke: KeyExchange, proposals: tuple[Proposal, ...]) -> bool:
    """Whether the KE serves the chosen transforms: Transform-Number 0 means all."""
    if not isinstance(ke, KeA) or ke.transform_number == 0:
        return True
    return any(proposal.transforms[0].number == ke.transform_number for proposal in proposals)


def is_well_formed(ke: KeyExchange) -> bool:
    """Whether a computed value has the octets of its group, and a user's group its size."""
    if isinstance(ke, KeA):
        return ke.group in GROUP_OCTETS and len(ke.data) == GROUP_OCTETS[ke.group][0]
    if isinstance(ke, KeC):
        return False
    prime, generator = int.from_bytes(ke.prime, "big"), int.from_bytes(ke.generator, "big")
    sized = MINIMUM_USER_GROUP_BITS <= prime.bit_length() <= MAXIMUM_USER_GROUP_BITS
    return sized and 2 <= generator <= prime - 2 and len(ke.public_value) == len(ke.prime)


def shared_octets(ke: KeyExchange) -> int:
    """The length of Z."""
    if isinstance(ke, KeA):
        return GROUP_OCTETS[ke.group][1]
    return len(ke.prime) if isinstance(ke, KeB) else 0
