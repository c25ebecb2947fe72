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
from kdc.model import KEY_OCTETS, Mode, Pair, Suite, key_octets
from kdc.wire.payloads import (
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
        key_exchanges = [ke for proposal in proposals for ke in proposal.key_exchanges]
        for chosen in _usable_combinations(proposals, policy):
            agreement = _match(offer.pair, chosen, key_exchanges, policy)
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
    if agreement.has_computed_value != bool(public_value) and not _is_240(agreement.key_exchange):
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
    answered = _answered_key_exchange(answer)
    key_exchange = None
    if answered is not None:
        kes = [ke for proposal in offered for ke in proposal.key_exchanges]
        key_exchange = _find_offered(kes, answered, answer.proposals)
    proposals = tuple(replace(proposal, key_exchanges=()) for proposal in answer.proposals)
    mode = _verify_mode(proposals, key_exchange)
    return Agreement(answer.pair, proposals, mode, key_exchange, answered)


def verify_within(agreement: Agreement, policy: Policy) -> Agreement:
    """The agreement of two others with its mode told, if `policy` would have made it.

    For the home side and the FA's answers (pairs 2 and 4).  Raises `NotAcceptable`.
    """
    kes = [] if agreement.key_exchange is None else [agreement.key_exchange]
    matched = None
    if all(suite in policy.suites for suite in agreement.suites):
        matched = _match(agreement.pair, agreement.proposals, kes, policy)
    if matched is None or matched.key_exchange != agreement.key_exchange:
        raise NotAcceptable("agreement outside our own policy")
    # The octets are under an MHAE already: lifetimes stay as the FA answered them.
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


@dataclass(frozen=True, slots=True)
class History:
    """What one negotiation has used up: its highest proposal number, the suites rejected."""

    highest_number: int = 0
    rejected: frozenset[tuple[Suite, ...]] = frozenset()

    def rejecting(self, offer: SaPayload) -> History:
        """The history after `offer` was refused: every combination of it is rejected."""
        combinations = frozenset(
            tuple(Suite(p.protocol_id, t.transform_id) for p, t in zip(group, chosen, strict=True))
            for group in _by_number(offer)
            for chosen in itertools.product(*(_distinct(p.transforms) for p in group))
        )
        highest = max(self.highest_number, offer.proposals[-1].number)
        return History(highest, self.rejected | combinations)


def build_offer(
    pair: Pair,
    policy: Policy,
    history: History,
    *,
    lifetime_s: int,
    mode: Mode | None = None,
    key_exchanges: tuple[KeyExchange, ...] = (),
) -> SaPayload | None:
    """The preferred suites that were not rejected yet, numbered above all used so far.

    A counter-proposal is one without mode and KE.  None if nothing is left to offer.  Each
    proposal number gets all `key_exchanges` (4 in a payload at most: PROTOCOL 4.3).
    """
    attributes = () if mode is None else (_mode_attribute(mode),)
    proposals: list[Proposal] = []
    number = history.highest_number
    for suites in policy.preferred:
        full = len(proposals) + len(suites) > MAXIMUM_PROPOSALS or number == MAXIMUM_NUMBER
        no_room = sum(len(p.key_exchanges) for p in proposals) + len(key_exchanges)
        if suites in history.rejected or not set(suites) <= policy.suites:
            continue
        if full or no_room > MAXIMUM_KEY_EXCHANGES:
            break
        number += 1
        for protocol_number, suite in enumerate(suites, 1):
            transform = Transform(1, suite.transform_id, int(suite != NULL), attributes)
            head = (number, protocol_number, suite.protocol_id, lifetime_s, 0)
            proposals.append(Proposal(*head, (transform,)))
        proposals[-1] = replace(proposals[-1], key_exchanges=key_exchanges)
    return SaPayload(pair, tuple(proposals)) if proposals else None
