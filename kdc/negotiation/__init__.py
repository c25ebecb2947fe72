"""Negotiation of associations (PROTOCOL section 6), pure, the same for initiator and responder.

terms says what is judged, choice chooses and answers, verification checks an answer, rounds makes
offers and counter-proposals.
"""

from kdc.negotiation.choice import build_answer, select_agreement, verify_within
from kdc.negotiation.rounds import (
    History,
    build_counter_proposal,
    build_offer,
    is_counter_proposal,
    take_counter_proposal,
)
from kdc.negotiation.terms import (
    DEFAULT_GROUPS,
    DEFAULT_POLICY_SUITES,
    GROUP_OCTETS,
    LEGACY_GROUPS,
    LEGACY_SUITES,
    NULL,
    Agreement,
    Policy,
    derivation_of,
)
from kdc.negotiation.verification import verify_answer

__all__ = [
    "DEFAULT_GROUPS",
    "DEFAULT_POLICY_SUITES",
    "GROUP_OCTETS",
    "LEGACY_GROUPS",
    "LEGACY_SUITES",
    "NULL",
    "Agreement",
    "History",
    "Policy",
    "build_answer",
    "build_counter_proposal",
    "build_offer",
    "derivation_of",
    "is_counter_proposal",
    "select_agreement",
    "take_counter_proposal",
    "verify_answer",
    "verify_within",
]
