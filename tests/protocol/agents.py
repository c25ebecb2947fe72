"""Foreign agents that answer and offer exactly what a vector says they do."""

from __future__ import annotations

import dataclasses

from aaa.roles.foreign_agent_terms import FaTerms
from kdc.model import KEY_OCTETS, Mode, Pair, Suite
from kdc.negotiation import GROUP_OCTETS, OfferPlan, Policy
from kdc.wire.payloads import KE_SECRET, KeA, KeC, decode_sa_payload

EVERYTHING = Policy(
    suites=frozenset(KEY_OCTETS),
    groups=frozenset(GROUP_OCTETS),
    user_groups=True,
    preferred=(),
)


def terms_offering(offer3: bytes, policies: dict[Pair, Policy]) -> FaTerms:
    """Terms by which an FA offers pair 3 as `offer3` does (empty: not at all)."""
    if not offer3:
        return FaTerms(policies)
    offer = decode_sa_payload(offer3)
    suites = tuple(Suite(p.protocol_id, p.transforms[0].transform_id) for p in offer.proposals)
    own = dataclasses.replace(policies[Pair.FA_HA], preferred=(suites,))
    attributes = offer.proposals[0].transforms[0].attributes
    kes = offer.proposals[-1].key_exchanges
    plan = OfferPlan(
        Mode(int.from_bytes(attributes[0].value, "big")) if attributes else None,
        tuple(ke.group for ke in kes if isinstance(ke, KeA) and ke.group != KE_SECRET),
        sealed=any(isinstance(ke, KeC) for ke in kes),
        in_the_clear=any(isinstance(ke, KeA) and ke.group == KE_SECRET for ke in kes),
    )
    return FaTerms(policies | {Pair.FA_HA: own}, plan)
