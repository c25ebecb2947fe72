"""The foreign agent's side of a negotiation: answers for pairs 2 and 4, an offer for pair 3.

No exponentiation is made here: the values of group 31 are the FA's advertised key (PROTOCOL 7.3),
those of other groups were made when that key was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdc.crypto.dh import DhKey
from kdc.errors import Malformed, NotAcceptable
from kdc.model import Pair
from kdc.negotiation import (
    FA_GROUP,
    Agreement,
    History,
    OfferPlan,
    Policy,
    PreparedOffer,
    build_answer,
    build_counter_proposal,
    own_key,
    prepare_offer,
    select_agreement,
    verify_answer,
)
from kdc.wire.advertisement import check_x25519
from kdc.wire.payloads import (
    MAXIMUM_FA_SA_PAYLOAD_OCTETS,
    KeA,
    KeyExchange,
    ReadSaPayload,
    decode_fa_sa_payloads,
    encode_sa_payload,
)

ANSWERED_PAIRS = (Pair.MN_FA, Pair.MN_SMM)
_NO_COUNTER_PROPOSAL = Policy(preferred=())


@dataclass(frozen=True, slots=True)
class FaTerms:
    """What an FA accepts for pairs 2, 3 and 4, and how it offers pair 3 (None: it does not).

    `other_groups` are those beside 31 of which it makes a key with each advertised one: only for
    `fa_dh = any` (PROTOCOL 7.3).
    """

    policies: Mapping[Pair, Policy] = field(
        default_factory=lambda: dict.fromkeys(Pair, _NO_COUNTER_PROPOSAL)
    )
    fa_ha_plan: OfferPlan | None = None
    other_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FaAnswer:
    """What the FA has answered for one pair; `agreement` is None for a counter-proposal."""

    octets: bytes
    offered: bytes
    agreement: Agreement | None


@dataclass(frozen=True, slots=True)
class FaSide:
    """Attribute 5, and what it was made of."""

    octets: bytes
    answers: Mapping[Pair, FaAnswer]
    fa_ha_offer: PreparedOffer | None
    has_key_exchange: bool
    has_large_group: bool = False  # one whose exponentiation takes milliseconds


NOTHING_SAID = FaSide(b"", {}, None, has_key_exchange=False)


def answer_offers(
    terms: FaTerms,
    offers: Mapping[Pair, ReadSaPayload],
    keys: tuple[DhKey, ...],
    *,
    mn_spi: int,
    fa_spi: int | None,
) -> FaSide:
    """The FA's answers to what the MN offers, and its own offer.

    `keys` are its own, of group 31 first; `mn_spi` is the request's KEY0 SPI, `fa_spi` the one of
    its current key.  A pair of which it accepts nothing is left out, or gets a counter-proposal;
    what would make attribute 5 too long is left out as well.
    """
    answers: dict[Pair, FaAnswer] = {}
    octets = b""
    own = _own_offer(terms, keys, fa_spi)
    room = MAXIMUM_FA_SA_PAYLOAD_OCTETS - (len(own.octets) if own is not None else 0)
    for pair in ANSWERED_PAIRS:
        if pair not in offers:
            continue
        answer = _answer(offers[pair], terms.policies[pair], keys, mn_spi)
        if answer is not None and len(octets) + len(answer.octets) <= room:
            answers[pair] = answer
            octets += answer.octets
    if own is not None:
        octets += own.octets
    used = list(own.keys) if own is not None else []
    for item in answers.values():
        if item.agreement is not None and item.agreement.has_computed_value:
            used.append(own_key(item.agreement.key_exchange, keys))
    large = any(not key.group.is_elliptic for key in used)
    return FaSide(
        octets,
        answers,
        own,
        has_key_exchange=any(
            proposal.key_exchanges
            for read in decode_fa_sa_payloads(octets).values()
            for proposal in read.payload.proposals
        ),
        has_large_group=large,
    )


def _own_offer(terms: FaTerms, keys: tuple[DhKey, ...], fa_spi: int | None) -> PreparedOffer | None:
    plan, policy = terms.fa_ha_plan, terms.policies[Pair.FA_HA]
    if plan is None or (fa_spi is None and (plan.groups or plan.sealed)):
        return None
    own = tuple(key for key in keys if key.group.number in plan.groups)
    return prepare_offer(Pair.FA_HA, policy, plan, History(), keys=own, ke_c_spi=fa_spi)


def _answer(
    offer: ReadSaPayload, policy: Policy, keys: tuple[DhKey, ...], mn_spi: int
) -> FaAnswer | None:
    try:
        agreement = select_agreement(offer.payload, _of_exchange(policy, keys, mn_spi))
        public_value = b""
        if agreement.has_computed_value:
            _check_value(agreement.key_exchange)
            public_value = own_key(agreement.key_exchange, keys).public_value
        answer = build_answer(agreement, spi=0, public_value=public_value)
        # As the MN reads it: a mode that no transform names is the home side's to choose.
        agreement = verify_answer(offer.payload, answer)
        return FaAnswer(encode_sa_payload(answer), offer.octets, agreement)
    except NotAcceptable:
        lifetime_s = min(proposal.lifetime_s for proposal in offer.payload.proposals)
        counter = build_counter_proposal(
            offer.payload, policy, lifetime_s=min(lifetime_s, policy.maximum_lifetime_s)
        )
        if counter is None:
            return None
        return FaAnswer(encode_sa_payload(counter), offer.octets, None)


def _of_exchange(policy: Policy, keys: tuple[DhKey, ...], mn_spi: int) -> Policy:
    """The policy with what this exchange has: groups of which we hold a key, the KE-c's SPI."""
    groups = policy.groups & {key.group.number for key in keys}
    return dataclasses.replace(policy, groups=groups, user_groups=False, ke_c_spi=mn_spi)


def _check_value(ke: KeyExchange | None) -> None:
    """Passes over an MN's value that could only be refused later; no exponentiation is made."""
    if isinstance(ke, KeA) and ke.group == FA_GROUP:
        try:
            check_x25519(ke.data)
        except Malformed:
            raise NotAcceptable("public value of low order") from None
