"""Chooses, answers, verifies and counters the offers of SA payloads (PROTOCOL section 6).

Initiator and responder use the same functions; all are pure.  Public values are made and judged in
kdc.crypto (a bad point, a composite P), a KE-c's secret is sealed by the home agent, and how many
rounds have failed stands in the record.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from kdc.errors import LocalError, NotAcceptable
from kdc.model import KEY_OCTETS, SPI_MINIMUM, Mode, Pair, Suite, key_octets
from kdc.wire.payloads import (
    AEAD,
    AUTHENTICATION,
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

# Octets of the public value and of Z, left-padded (PROTOCOL 7.3).
GROUP_OCTETS: Final = {1: (96, 96), 2: (128, 128), 14: (256, 256), 15: (384, 384)}
GROUP_OCTETS |= {16: (512, 512), 19: (65, 32), 31: (32, 32)}


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
        return _is_computed(self.key_exchange)


def select_agreement(offer: SaPayload, policy: Policy) -> Agreement:
    """The first acceptable combination in the initiator's order, lifetimes lowered.

    Raises `NotAcceptable` (129, Status 14) if there is none.
    """
    for proposals in _by_number(offer):
        for chosen, mode in _combinations(proposals, policy):
            kes = [ke for proposal in proposals for ke in proposal.key_exchanges]
            agreement = _match(SaPayload(offer.pair, chosen), mode, kes, policy)
            if agreement is not None:
                return agreement
    raise NotAcceptable("no proposal chosen")


def build_answer(
    agreement: Agreement, *, spi: int, public_value: bytes = b"", sealed: bytes = b""
) -> SaPayload:
    """The responder's answer: the chosen transforms, and one KE after the last proposal.

    `spi` is the SA's, used for pairs 1 and 3 only.  `public_value` is the responder's for a group,
    the secret (or nothing yet) for sub-type 240; `sealed` the INFO of a KE-c, empty until the home
    side fills it.
    """
    if agreement.has_computed_value != bool(public_value) and not _is_secret(
        agreement.key_exchange
    ):
        raise LocalError("a public value where none is used, or none where one is")
    answered = _answer_key_exchange(agreement.key_exchange, public_value, sealed)
    answer_spi = spi if agreement.pair in SPI_BY_HOME else 0
    proposals = [replace(p, spi=answer_spi, key_exchanges=()) for p in agreement.proposals]
    if answered is not None:
        proposals[-1] = replace(proposals[-1], key_exchanges=(answered,))
    return SaPayload(agreement.pair, tuple(proposals))


def verify_answer(offer: SaPayload, answer: SaPayload) -> Agreement:
    """The agreement, if the answer is one of the combinations offered; else `NotAcceptable`.

    The SPI and a KE-c's secret are compared by who opens them.
    """
    if answer.pair is not offer.pair:
        raise NotAcceptable("answer for another pair")
    number = answer.proposals[0].number
    if any(proposal.number != number for proposal in answer.proposals):
        raise NotAcceptable("answer with more than one proposal number")
    offered = [proposal for proposal in offer.proposals if proposal.number == number]
    if [p.protocol_id for p in offered] != [p.protocol_id for p in answer.proposals]:
        raise NotAcceptable("answer has not exactly the protocols of an offered proposal")
    for ours, theirs in zip(offered, answer.proposals, strict=True):
        _verify_proposal(ours, theirs)
    _verify_spi(answer)
    key_exchange, answered = _verify_key_exchange(offered, answer)
    proposals = tuple(replace(proposal, key_exchanges=()) for proposal in answer.proposals)
    mode = _verify_mode(proposals, key_exchange)
    return Agreement(answer.pair, proposals, mode, key_exchange, answered)


def verify_within(agreement: Agreement, policy: Policy) -> Agreement:
    """The agreement of two others with its mode told, if `policy` would have made it.

    For the home side and the FA's answers (pairs 2 and 4).  Raises `NotAcceptable`.
    """
    kes = () if agreement.key_exchange is None else (agreement.key_exchange,)
    last = replace(agreement.proposals[-1], key_exchanges=kes)
    offer = SaPayload(agreement.pair, (*agreement.proposals[:-1], last))
    matched = select_agreement(offer, policy)
    if matched.key_exchange != agreement.key_exchange:
        raise NotAcceptable("key exchange outside our own policy")
    # The octets go on unchanged: lifetimes stay as the FA answered them.
    return replace(agreement, mode=matched.mode)


def derivation_of(agreement: Agreement, policy: Policy) -> int:
    """Which derivation of section 7 makes the keys; raises `LocalError` while the mode is open."""
    if agreement.mode is None:
        raise LocalError("the mode is not told")
    if agreement.has_computed_value:
        return 0 if _is_raw(agreement.pair, agreement.mode, policy) else 3
    if agreement.mode is Mode.SEMISTATEFUL:
        return 1 if policy.formula_5 else 2
    return 0


def _by_number(payload: SaPayload) -> list[tuple[Proposal, ...]]:
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


def _combinations(
    proposals: tuple[Proposal, ...], policy: Policy
) -> Iterator[tuple[tuple[Proposal, ...], Mode | None]]:
    """The combinations that policy has suites and modes for, each of one mode, in order."""
    protocols = {proposal.protocol_id for proposal in proposals}
    if not protocols <= KNOWN_PROTOCOLS:  # so there are at most three: the search stays small
        return
    kes = [ke for proposal in proposals for ke in proposal.key_exchanges]
    bound = {ke.transform_number for ke in kes if isinstance(ke, KeA)}
    choices: list[list[tuple[Proposal, Mode | None]]] = []
    for proposal in proposals:
        # Transforms that differ in nothing that is judged: the first one stands for all.
        distinct: dict[object, tuple[Proposal, Mode | None]] = {}
        for transform in proposal.transforms:
            read = read_transform(proposal.protocol_id, transform)
            if read is None or read[0] not in policy.suites:
                continue
            suite, mode = read
            if mode is not None and mode not in policy.modes:
                continue
            if suite == NULL and AUTHENTICATION not in protocols:
                continue
            lifetime_s = min(proposal.lifetime_s, policy.maximum_lifetime_s)
            single = replace(
                proposal, transforms=(transform,), lifetime_s=lifetime_s, key_exchanges=()
            )
            number = transform.number if transform.number in bound else None
            distinct.setdefault((suite, mode, number), (single, mode))
        choices.append(list(distinct.values()))
    yield from _of_one_mode(choices, None)


def _of_one_mode(
    choices: list[list[tuple[Proposal, Mode | None]]], mode: Mode | None
) -> Iterator[tuple[tuple[Proposal, ...], Mode | None]]:
    if not choices:
        yield (), mode
        return
    for proposal, own in choices[0]:
        if own is None or mode is None or own is mode:
            for rest, agreed in _of_one_mode(choices[1:], mode or own):
                yield (proposal, *rest), agreed


def _match(
    chosen: SaPayload, mode: Mode | None, kes: list[KeyExchange], policy: Policy
) -> Agreement | None:
    """The combination with the first KE that serves it, or without one; None if it needs one."""
    for ke in kes:
        implied = Mode.STATELESS if _is_computed(ke) else policy.default_mode
        agreement = Agreement(chosen.pair, chosen.proposals, mode or implied, ke)
        if agreement.mode in policy.modes and _allows(agreement, ke, policy):
            return agreement
    without = mode or policy.default_mode
    if without is Mode.STATELESS:
        return None
    return Agreement(chosen.pair, chosen.proposals, without, None)


def _allows(agreement: Agreement, ke: KeyExchange, policy: Policy) -> bool:
    """Whether policy uses this KE of an offer; else it is passed over."""
    pair = agreement.pair
    if not _is_bound(ke, agreement.proposals):
        return False
    if not _is_computed(ke):
        if agreement.mode is Mode.STATELESS:
            return False
        if isinstance(ke, KeC):
            return ke.spi == policy.ke_c_spi and not ke.sealed
        clear = pair is Pair.FA_HA and policy.clear_fa_keys
        return clear and _is_secret(ke) and isinstance(ke, KeA) and not ke.data
    if not is_well_formed(ke):
        return False
    if isinstance(ke, KeA):
        known = ke.group in policy.groups and (ke.group == FA_GROUP or _any_group(pair, policy))
    else:
        known = policy.user_groups and _any_group(pair, policy)
    short = _shared_octets(ke) < key_octets(pair, agreement.suites)
    return known and not (short and _is_raw(pair, agreement.mode, policy))


def _any_group(pair: Pair, policy: Policy) -> bool:
    return pair is Pair.MN_HA or policy.fa_dh_any


def _is_raw(pair: Pair, mode: Mode | None, policy: Policy) -> bool:
    """Derivation 0 of a shared secret (PROTOCOL 7.3)."""
    return policy.raw_dh and pair is Pair.MN_HA and mode is Mode.STATELESS


def _is_secret(ke: KeyExchange | None) -> bool:
    return isinstance(ke, KeA) and ke.group == KE_SECRET


def _is_computed(ke: KeyExchange | None) -> bool:
    """A KE-a of a group or a KE-b: a Diffie-Hellman value."""
    return isinstance(ke, KeB) or (isinstance(ke, KeA) and ke.group != KE_SECRET)


def _is_bound(ke: KeyExchange, proposals: tuple[Proposal, ...]) -> bool:
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


def _shared_octets(ke: KeyExchange) -> int:
    """The length of Z."""
    if isinstance(ke, KeA):
        return GROUP_OCTETS[ke.group][1]
    return len(ke.prime) if isinstance(ke, KeB) else 0


def _answer_key_exchange(
    ke: KeyExchange | None, public_value: bytes, sealed: bytes
) -> KeyExchange | None:
    match ke:
        case KeA():
            return replace(ke, data=public_value)
        case KeB():
            return replace(ke, public_value=public_value)
        case KeC():
            return replace(ke, sealed=sealed)
    return None


def _verify_proposal(ours: Proposal, theirs: Proposal) -> None:
    if len(theirs.transforms) != 1 or theirs.transforms[0] not in ours.transforms:
        raise NotAcceptable("answer has not exactly one transform that was offered")
    if theirs.lifetime_s > ours.lifetime_s:
        raise NotAcceptable("answer raises the lifetime")


def _verify_spi(answer: SaPayload) -> None:
    spis = {proposal.spi for proposal in answer.proposals}
    by_home = answer.pair in SPI_BY_HOME
    spi = spis.pop()
    if spis or (spi < SPI_MINIMUM if by_home else spi != 0):
        raise NotAcceptable("SPI of the answer")


def _verify_key_exchange(
    offered: list[Proposal], answer: SaPayload
) -> tuple[KeyExchange | None, KeyExchange | None]:
    """The KE offered and the KE answered; both None where the answer has none."""
    if any(proposal.key_exchanges for proposal in answer.proposals[:-1]):
        raise NotAcceptable("KE before the last proposal of the answer")
    match answer.proposals[-1].key_exchanges:
        case ():
            return None, None
        case (answered,):
            pass
        case _:
            raise NotAcceptable("two KE in an answer")
    for ke in (ke for proposal in offered for ke in proposal.key_exchanges):
        if _answers(answered, ke) and _is_bound(ke, answer.proposals):
            return ke, answered
    raise NotAcceptable("answer has a KE that was not offered")


def _answers(answered: KeyExchange, offered: KeyExchange) -> bool:
    """Whether the two differ in nothing but the responder's value."""
    if _is_computed(answered) and not (is_well_formed(answered) and is_well_formed(offered)):
        return False
    match answered, offered:
        case (KeA(), KeA()):
            return answered == replace(offered, data=answered.data)
        case (KeB(), KeB()):
            return answered == replace(offered, public_value=answered.public_value)
        case (KeC(), KeC()):
            return answered.spi == offered.spi
    return False


def _verify_mode(proposals: tuple[Proposal, ...], ke: KeyExchange | None) -> Mode | None:
    """The one mode of the chosen transforms, as far as the answer tells it."""
    read = [read_transform(p.protocol_id, p.transforms[0]) for p in proposals]
    known = [suite_and_mode for suite_and_mode in read if suite_and_mode is not None]
    if len(known) != len(read):
        raise NotAcceptable("answer has a transform that is passed over")
    if any(suite == NULL for suite, _ in known):
        if all(suite.protocol_id != AUTHENTICATION for suite, _ in known):
            raise NotAcceptable("NULL without authentication")
    modes = {mode for _, mode in known if mode is not None}
    if len(modes) > 1:
        raise NotAcceptable("answer of two modes")
    mode = modes.pop() if modes else (Mode.STATELESS if _is_computed(ke) else None)
    if mode is Mode.STATELESS and not _is_computed(ke):
        raise NotAcceptable("stateless without a computed value")
    return mode
