"""The home agent's side of a negotiation (5.3 step 10): what every association is to be.

It answers pair 1, checks the FA's answers for pairs 2 and 4, and answers the FA's offer for pair 3
(PROTOCOL section 6).  Exponentiations are only described here: whoever makes them comes back with
their results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdc.crypto.dh import FIXED_GROUPS, DhGroup, DhShare, user_group
from kdc.crypto.seal import BUCKETS, TAG_OCTETS, bucket_of
from kdc.errors import Malformed, NotAcceptable
from kdc.model import Mode, Nai, Pair, Secret, Suite
from kdc.negotiation import (
    FA_GROUP,
    Agreement,
    Policy,
    build_answer,
    build_counter_proposal,
    derivation_of,
    is_counter_proposal,
    public_value_of,
    select_agreement,
    verify_answer,
    verify_within,
)
from kdc.outcome import secret_octets
from kdc.records import Carrier, Terms
from kdc.wire.advertisement import check_x25519
from kdc.wire.association import FORMULA_5, SP800_108
from kdc.wire.extensions import CVSE_HEADER_OCTETS, EXTENSION_HEADER_OCTETS
from kdc.wire.numbers import REPLY_HEADER_OCTETS
from kdc.wire.payloads import KeA, KeB, KeC, KeyExchange, ReadSaPayload, encode_sa_payload

_ALIAS_OCTETS = len("m-0123456789abcdef@")
_NAME_BUCKET = 64  # PROTOCOL 5.2
_SA_INFO_OCTETS = 22  # PROTOCOL 4.2, suites and secret left out
_MHAE_OCTETS = 38
_MAXIMUM_DEFAULTS = 1024
MN_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)
_FA_ANSWERS = (Pair.MN_FA, Pair.MN_SMM)
_WITHOUT_OFFER = (Pair.MN_HA, Pair.MN_FA, Pair.FA_HA)  # MN-SMM only where it is asked for

Payloads = Mapping[Pair, ReadSaPayload]


class Refused(NotAcceptable):
    """No agreement for one pair; `counter_proposal` is an SA payload for the MN, or empty."""

    def __init__(self, pair: Pair, counter_proposal: bytes = b"") -> None:
        super().__init__("no proposal chosen")
        self.pair = pair
        self.counter_proposal = counter_proposal


@dataclass(frozen=True, slots=True)
class HomeTerms:
    """The home side's part of the negotiation policy."""

    policies: Mapping[Pair, Policy]
    suites: tuple[Suite, ...]  # where a pair is not offered
    _defaults: dict[tuple[int, bool], tuple[Outline, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def defaults(self, lifetime_s: int, *, named: bool) -> tuple[Outline, ...]:
        """What nobody negotiates, made once a lifetime; `named`: the FA's NAI has a realm."""
        known = self._defaults.get((lifetime_s, named))
        if known is None:
            known = tuple(
                _without_offer(self, pair, lifetime_s, named=named) for pair in _WITHOUT_OFFER
            )
            if len(self._defaults) < _MAXIMUM_DEFAULTS:
                self._defaults[lifetime_s, named] = known
        return known


@dataclass(frozen=True, slots=True)
class Exponentiation:
    """A Diffie-Hellman exchange that the home side has to make with `peer_value`."""

    pair: Pair
    group: DhGroup
    peer_value: bytes


@dataclass(frozen=True, slots=True)
class Outline:
    """Terms of one pair whose answer may still want a public value of ours."""

    terms: Terms
    agreement: Agreement | None = None
    exponentiation: Exponentiation | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of the request that is negotiated."""

    lifetime_s: int  # granted
    fa_nai: Nai
    spi: int  # the KEY0 SPI: of a KE-c for the MN
    fa_spi: int | None  # of the attribute 3 that FK names: of a KE-c for the FA; None: clear keys


def negotiate(
    home: HomeTerms, offers: Payloads, fa_payloads: Payloads, situation: Situation
) -> tuple[Outline, ...]:
    """Outlines of all SAs in the order of the reply; raises `Refused` for the first that fails."""
    if not offers and not fa_payloads:
        return home.defaults(situation.lifetime_s, named=bool(situation.fa_nai.realm))
    outlines = [
        _negotiate_for_mn(home, pair, offers, fa_payloads, situation)
        for pair in MN_PAIRS
        if pair in offers or pair in fa_payloads or pair in _WITHOUT_OFFER
    ]
    outlines.append(_negotiate_for_fa(home, fa_payloads.get(Pair.FA_HA), situation))
    return tuple(outlines)


def _negotiate_for_mn(
    home: HomeTerms, pair: Pair, offers: Payloads, fa_payloads: Payloads, situation: Situation
) -> Outline:
    offer, policy = offers.get(pair), home.policies[pair]
    if pair in _FA_ANSWERS:
        answer = fa_payloads.get(pair)
        if offer is not None and answer is not None:
            return _check_fa_answer(offer, answer, policy, situation)
        if offer is not None or answer is not None:
            raise Refused(pair)  # nothing that the FA would take, or an answer to no offer
        return _without_offer(home, pair, situation.lifetime_s, named=bool(situation.fa_nai.realm))
    if offer is None:
        return _without_offer(home, pair, situation.lifetime_s, named=bool(situation.fa_nai.realm))
    policy = _for_ke_c(policy, offer, situation.spi)
    try:
        return _outline(offer.octets, select_agreement(offer.payload, policy), policy, situation)
    except NotAcceptable:
        raise Refused(pair, _counter_proposal(offer, policy)) from None


def _negotiate_for_fa(
    home: HomeTerms, offer: ReadSaPayload | None, situation: Situation
) -> Outline:
    if offer is None:
        return _without_offer(
            home, Pair.FA_HA, situation.lifetime_s, named=bool(situation.fa_nai.realm)
        )
    policy = _for_ke_c(home.policies[Pair.FA_HA], offer, situation.fa_spi)
    if policy.clear_fa_keys and situation.fa_spi is not None:
        # A secret in the clear is for an FA without a key alone (section 8), whatever a hub adds.
        policy = dataclasses.replace(policy, clear_fa_keys=False)
    if situation.fa_spi is None:  # clear FA keys have been granted, and only then may 240 stand
        policy = dataclasses.replace(policy, clear_fa_keys=True)
    try:
        agreement = select_agreement(offer.payload, policy)
        return _outline(offer.octets, agreement, policy, situation)
    except NotAcceptable:
        raise Refused(Pair.FA_HA) from None


def _check_fa_answer(
    offer: ReadSaPayload, answer: ReadSaPayload, policy: Policy, situation: Situation
) -> Outline:
    """Pairs 2 and 4: the FA's answer is one of the MN's offers and within our own policy."""
    if is_counter_proposal(offer.payload, answer.payload):
        raise Refused(offer.payload.pair, answer.octets)
    policy = _for_ke_c(policy, offer, situation.spi)
    try:
        agreement = verify_within(verify_answer(offer.payload, answer.payload), policy)
        outline = _outline(offer.octets, agreement, policy, situation)
        for ke in (agreement.key_exchange, agreement.answered):
            if isinstance(ke, KeA) and ke.group == FA_GROUP:
                check_x25519(ke.data)  # home has no part in this exchange, and makes none
    except (NotAcceptable, Malformed):
        raise Refused(offer.payload.pair) from None
    terms = dataclasses.replace(outline.terms, answered=answer.octets)
    return Outline(terms)


def _outline(offered: bytes, agreement: Agreement, policy: Policy, situation: Situation) -> Outline:
    assert agreement.mode is not None  # select_agreement and verify_within tell it
    pair = agreement.pair
    terms = Terms(
        pair=pair,
        mode=agreement.mode,
        derivation=_derivation(
            derivation_of(agreement, policy),
            agreement.mode,
            pair,
            named=bool(situation.fa_nai.realm),
        ),
        suites=agreement.suites,
        lifetime_s=min(situation.lifetime_s, agreement.lifetime_s),
        offered=offered,
        carrier=_carrier(agreement.key_exchange),
    )
    exponentiation = None
    if agreement.has_computed_value and pair not in _FA_ANSWERS:
        ke = agreement.key_exchange
        exponentiation = Exponentiation(pair, _group_of(ke), public_value_of(ke))
    return Outline(terms, agreement, exponentiation)


def _without_offer(home: HomeTerms, pair: Pair, lifetime_s: int, *, named: bool) -> Outline:
    """The home side's default suite and mode (PROTOCOL section 6)."""
    policy = home.policies[pair]
    mode = policy.default_mode
    derivation = 0
    if mode is Mode.SEMISTATEFUL:
        chosen = FORMULA_5 if policy.formula_5 else SP800_108
        derivation = _derivation(chosen, mode, pair, named=named)
    return Outline(Terms(pair, mode, derivation, home.suites, lifetime_s))


def _derivation(chosen: int, mode: Mode, pair: Pair, *, named: bool) -> int:
    """PROTOCOL 7.2: derivation 1 only for NAIs with an @; the alias and the HA's have one."""
    if (mode, chosen) != (Mode.SEMISTATEFUL, FORMULA_5):
        return chosen
    return FORMULA_5 if named or pair is Pair.MN_HA else SP800_108


def _carrier(ke: KeyExchange | None) -> Carrier:
    if isinstance(ke, KeC):
        return Carrier.KE_C
    secret = isinstance(ke, KeA) and ke.group not in FIXED_GROUPS
    return Carrier.KE_SECRET if secret else Carrier.SA_INFO


def _group_of(ke: KeyExchange | None) -> DhGroup:
    """The group of a KE-a or KE-b; raises `NotAcceptable` for a user's bad group."""
    match ke:
        case KeA():
            return FIXED_GROUPS[ke.group]
        case KeB():
            return user_group(ke.prime, ke.generator)
    raise NotAcceptable("no computed value")


def _for_ke_c(policy: Policy, offer: ReadSaPayload, spi: int | None) -> Policy:
    """The policy of this one exchange: a KE-c is sealed under an SPI of the exchange."""
    kes = (ke for proposal in offer.payload.proposals for ke in proposal.key_exchanges)
    if any(isinstance(ke, KeC) for ke in kes):
        return dataclasses.replace(policy, ke_c_spi=spi)
    return policy


def _counter_proposal(offer: ReadSaPayload, policy: Policy) -> bytes:
    lifetime_s = min(proposal.lifetime_s for proposal in offer.payload.proposals)
    counter = build_counter_proposal(
        offer.payload, policy, lifetime_s=min(lifetime_s, policy.maximum_lifetime_s)
    )
    return encode_sa_payload(counter) if counter is not None else b""


def complete(outlines: tuple[Outline, ...], shares: Mapping[Pair, DhShare]) -> tuple[Terms, ...]:
    """The terms with our answers of pairs 1 and 3, for which `shares` has what was computed."""
    return tuple(_complete(outline, shares.get(outline.terms.pair)) for outline in outlines)


def terms_to_come(outlines: tuple[Outline, ...]) -> tuple[Terms, ...]:
    """The terms with answers as long as they will be: a public value has its group's length."""
    wanted = [o.exponentiation for o in outlines if o.exponentiation is not None]
    shares = {item.pair: DhShare(bytes(item.group.value_octets), Secret(b"")) for item in wanted}
    return complete(outlines, shares)


def count_reply_octets(
    terms: tuple[Terms, ...], *, nai_octets: int, policy_realm_octets: int, realm_octets: int
) -> int:
    """How long a reply with these terms can become at the most (PROTOCOL sections 3 and 5.2).

    `nai_octets` is the length of NAI(HA), `policy_realm_octets` of the realm in the alias,
    `realm_octets` of the NAI in the request's 131, which the reply repeats.
    """
    alias = _sealed_octets(_ALIAS_OCTETS + policy_realm_octets, _NAME_BUCKET)
    names = alias + _sealed_octets(nai_octets)
    address, spis, transcript = _sealed_octets(4), _sealed_octets(16), _sealed_octets(16)
    total = REPLY_HEADER_OCTETS + 2 + realm_octets + _MHAE_OCTETS
    total += 2 * (names + address) + spis + transcript
    for item in terms:
        secret = secret_octets(item.pair, item.mode, item.derivation, item.suites)
        info = _sealed_octets(_SA_INFO_OCTETS + 2 * len(item.suites) + secret)
        total += info * (1 if item.pair in (Pair.MN_HA, Pair.FA_HA) else 2)
        if item.answered:
            carried = bucket_of(secret) + TAG_OCTETS if item.carrier is not Carrier.SA_INFO else 0
            total += CVSE_HEADER_OCTETS + len(item.answered) + carried
    return total


def _sealed_octets(info_octets: int, smallest: int = BUCKETS[0]) -> int:
    header = CVSE_HEADER_OCTETS + EXTENSION_HEADER_OCTETS
    return header + bucket_of(info_octets, smallest) + TAG_OCTETS


def _complete(outline: Outline, share: DhShare | None) -> Terms:
    if outline.agreement is None:
        return outline.terms
    public_value = share.public_value if share is not None else b""
    answer = build_answer(outline.agreement, spi=0, public_value=public_value)
    return dataclasses.replace(
        outline.terms,
        answered=encode_sa_payload(answer),
        z=share.z if share is not None else None,
    )
