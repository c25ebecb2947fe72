"""What a KDC demands of a decision that another process has made, before it makes keys for it.

A home agent may be broken into: it must get no further than a home agent that works, and nothing of
its may be committed that a node or an agent would refuse (PROTOCOL 4.2, 5.3, 7).  Whether record
and revision are those that were judged is looked at before (aaa.serve.kdc).
"""

from __future__ import annotations

import dataclasses
from typing import Final

from kdc.errors import (
    DENIED_ADMINISTRATIVELY,
    DENIED_FA_AUTHENTICATION,
    DENIED_IDENTIFICATION,
    DENIED_MN_AUTHENTICATION,
    NotAcceptable,
)
from kdc.model import (
    MAXIMUM_FA_NAI_OCTETS,
    SPI_MINIMUM,
    Identification,
    Mode,
    Nai,
    Pair,
)
from kdc.negotiation import NULL, SPI_BY_HOME, Agreement, count_failure, verify_answer
from kdc.negotiation.terms import is_secret, shared_octets
from kdc.records import (
    Carrier,
    Decision,
    DenyDecision,
    GrantDecision,
    Record,
    Terms,
    VerifiedRegistration,
)
from kdc.wire.advertisement import decode_fa_public_key
from kdc.wire.association import MIXED, check_sa_info
from kdc.wire.payloads import AUTHENTICATION, KeC, decode_sa_payload

# `window_s` is at most 60 (aaa.config.home); the rest is the time that a decision was on its way.
FARTHEST_S: Final = 120
_LONGEST_S: Final = 65534  # PROTOCOL section 3: 0xffff is malformed
_DIGEST_OCTETS: Final = 32
_MANDATORY: Final = frozenset({Pair.MN_HA, Pair.MN_FA, Pair.FA_HA})
_OWN_EXCHANGE: Final = (Pair.MN_HA, Pair.FA_HA)  # those that the home side takes part in
# Codes that are kept in a record, and whether step 6 was passed, so that a digest stands with them.
_KEPT: Final = {
    DENIED_MN_AUTHENTICATION: False,
    DENIED_FA_AUTHENTICATION: False,
    DENIED_IDENTIFICATION: True,
    DENIED_ADMINISTRATIVELY: True,
}


class Impossible(NotAcceptable):
    """A decision that no home agent which works would have made."""


def check_decision(decision: Decision, *, home_agent_nai: Nai, realm: str) -> None:
    """Raises a `RemoteError`, mostly `Impossible`, for what must not be settled.

    `home_agent_nai` is the home agent's as this KDC has it configured, `realm` the home's.
    """
    record, spi = decision.record, decision.spi
    if spi not in record.unspent and spi != record.last_spent:
        raise Impossible("an SPI that is dead")  # what the store still finds is not revived
    match decision:
        case GrantDecision():
            verified = decision.verified
            if verified.home_agent_nai.octets != home_agent_nai.octets or verified.realm != realm:
                raise Impossible("another home agent's name, or another realm")
            _check_grant(verified, decision.admission.clock)
        case DenyDecision():
            _check_denial(decision)


def _check_grant(verified: VerifiedRegistration, clock: float) -> None:
    _check_identification(verified.record, verified.identification, clock)
    if len(verified.fa_nai.octets) > MAXIMUM_FA_NAI_OCTETS:
        raise Impossible("length of an FA's NAI")
    # Channel binding has seen that the operator is the FA's realm (PROTOCOL 5.3 step 6).
    if verified.operator_realm not in (None, verified.fa_nai.realm):
        raise Impossible("an operator of another realm than the FA's")
    if verified.record.roam is not None and verified.fa_nai.realm not in verified.record.roam:
        raise Impossible("a realm where the record may not roam")
    if verified.fa_public_key is not None:
        decode_fa_public_key(verified.fa_public_key)
    pairs = [terms.pair for terms in verified.terms]
    if verified.lifetime_s == 0:
        if pairs:
            raise Impossible("a deregistration with associations")
        return
    if verified.lifetime_s > _LONGEST_S:
        raise Impossible("lifetime of a registration")
    if len(set(pairs)) != len(pairs) or not set(pairs) >= _MANDATORY:
        raise Impossible("a pair twice, or one of the three missing")
    for terms in verified.terms:
        _check_terms(terms, verified.lifetime_s)


def _check_identification(record: Record, value: Identification, clock: float) -> None:
    """PROTOCOL 5.3 steps 8 and 12, as far as every home agent's window goes."""
    if abs(value.unix - int(clock)) > FARTHEST_S:
        raise Impossible("an identification of another time")
    if record.last_seen is not None and value <= record.last_seen:
        raise Impossible("an identification that is not greater")


def _check_terms(terms: Terms, granted_s: int) -> None:
    """What the receivers of an SA-INFO would refuse, and what no key could be made of."""
    if not 1 <= terms.lifetime_s <= granted_s:
        raise Impossible("lifetime of an association")
    if not terms.suites:
        raise Impossible("no suite")
    check_sa_info(terms.lifetime_s, terms.suites, terms.mode, terms.derivation, terms.pair)
    if NULL in terms.suites and all(s.protocol_id != AUTHENTICATION for s in terms.suites):
        raise Impossible("NULL without authentication")
    if bool(terms.offered) != bool(terms.answered):
        raise Impossible("an offer without an answer, or an answer to none")
    agreement = _agreement(terms) if terms.offered else None
    _check_exchange(terms, agreement)


def _agreement(terms: Terms) -> Agreement:
    """What the two payloads come to, if the terms say the same; the answer's SPI is still 0."""
    offer, answer = decode_sa_payload(terms.offered), decode_sa_payload(terms.answered)
    if offer.pair is not terms.pair:
        raise Impossible("payloads of another pair")
    if terms.pair in SPI_BY_HOME:
        proposals = tuple(
            dataclasses.replace(p, spi=p.spi or SPI_MINIMUM) for p in answer.proposals
        )
        answer = dataclasses.replace(answer, proposals=proposals)
    agreement = verify_answer(offer, answer)
    if agreement.suites != terms.suites or agreement.mode not in (None, terms.mode):
        raise Impossible("other suites or another mode than was answered")
    if terms.lifetime_s > agreement.lifetime_s:
        raise Impossible("a lifetime above the one that was answered")
    return agreement


def _check_exchange(terms: Terms, agreement: Agreement | None) -> None:
    """A shared secret of the right length where the home side made one, and none elsewhere."""
    computed = terms.mode is Mode.STATELESS or terms.derivation == MIXED
    if computed != (agreement is not None and agreement.has_computed_value):
        raise Impossible("an exchange that was not answered, or none where one was")
    answered = agreement.answered if agreement is not None else None
    wanted = 0
    if answered is not None and computed and terms.pair in _OWN_EXCHANGE:
        wanted = shared_octets(answered)
    if (terms.z is not None) != bool(wanted) or (terms.z is not None and len(terms.z) != wanted):
        raise Impossible("length of a shared secret")
    carrier = Carrier.SA_INFO
    if isinstance(answered, KeC):
        carrier = Carrier.KE_C
    elif is_secret(answered):
        carrier = Carrier.KE_SECRET
    if terms.carrier is not carrier:
        raise Impossible("a secret carried where nothing was answered for it")


def _check_denial(decision: DenyDecision) -> None:
    denied, record, clock = decision.denied, decision.record, decision.admission.clock
    passed = _KEPT.get(denied.code)
    if passed is None or (decision.digest is not None) != passed:
        raise Impossible("a denial that is not kept, or with the digest of another one")
    if decision.digest is not None and len(decision.digest) != _DIGEST_OCTETS:
        raise Impossible("length of a digest")
    if denied.state or abs(denied.at - int(clock)) > FARTHEST_S:
        raise Impossible("a denial of another time, or with a state that we had not made")
    administrative = denied.code == DENIED_ADMINISTRATIVELY
    if denied.challenge != passed and not administrative:
        raise Impossible("a challenge where there is none, or none where there is one")
    negotiated = administrative and denied.challenge
    if (denied.counter_proposal or denied.pair is not None) and not negotiated:
        raise Impossible("a negotiation that failed, in a denial of another kind")
    if denied.counter_proposal:
        decode_sa_payload(denied.counter_proposal)
    failed = count_failure(record.rounds)[0]
    if decision.rounds != record.rounds and not (administrative and decision.rounds == failed):
        raise Impossible("a count of rounds that does not follow")
    if decision.last_seen != record.last_seen:
        if not administrative or decision.last_seen is None:
            raise Impossible("an identification of a request that has not passed step 8")
        _check_identification(record, decision.last_seen, clock)
