"""Negotiation of associations (PROTOCOL section 6), pure, the same for initiator and responder.

terms says what is judged, choice chooses and answers, verification checks an answer, rounds makes
offers and counter-proposals.
"""

from kdc.negotiation.choice import build_answer, select_agreement, verify_within
from kdc.negotiation.offers import (
    DEFAULT_MN_HA_PLAN,
    OfferPlan,
    PreparedOffer,
    generate_keys,
    measure_offer,
    own_key,
    prepare_counter_offer,
    prepare_offer,
    public_value_of,
)
from kdc.negotiation.rounds import (
    History,
    build_counter_proposal,
    build_offer,
    is_counter_proposal,
    take_counter_proposal,
)
from kdc.negotiation.state import MAXIMUM_ROUNDS, Event, Standing, advance, count_failure
from kdc.negotiation.terms import (
    DEFAULT_GROUPS,
    DEFAULT_POLICY_SUITES,
    FA_GROUP,
    GROUP_OCTETS,
    LEGACY_GROUPS,
    LEGACY_SUITES,
    NULL,
    SPI_BY_HOME,
    Agreement,
    Policy,
    derivation_of,
    is_raw,
)
from kdc.negotiation.verification import verify_answer

__all__ = [
    "DEFAULT_GROUPS",
    "DEFAULT_MN_HA_PLAN",
    "DEFAULT_POLICY_SUITES",
    "FA_GROUP",
    "GROUP_OCTETS",
    "LEGACY_GROUPS",
    "LEGACY_SUITES",
    "MAXIMUM_ROUNDS",
    "NULL",
    "SPI_BY_HOME",
    "Agreement",
    "Event",
    "History",
    "OfferPlan",
    "Policy",
    "PreparedOffer",
    "Standing",
    "advance",
    "build_answer",
    "build_counter_proposal",
    "build_offer",
    "count_failure",
    "derivation_of",
    "generate_keys",
    "is_counter_proposal",
    "is_raw",
    "measure_offer",
    "own_key",
    "prepare_counter_offer",
    "prepare_offer",
    "public_value_of",
    "select_agreement",
    "take_counter_proposal",
    "verify_answer",
    "verify_within",
]
