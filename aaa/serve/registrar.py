"""The Registrar is the home agent's work on one request around its KDC (steps 5 to 9), without I/O.

Asking the KDC, exponentiating and sending are the affair of the process (aaa.serve.registrations).
"""

from __future__ import annotations

from aaa.exchange import AccessChallenge, AccessReject, AccessResponse, Peer
from aaa.roles.home_agent import Deny, Grant, HomeAgent, Repeat, Verdict
from aaa.roles.home_agent_reply import build_accept, build_denial, build_reply
from aaa.roles.home_agent_request import OpenedRequest, StructuredRequest, open_request
from kdc.crypto.hpke import fingerprint
from kdc.records import (
    Admission,
    Decision,
    Denied,
    DenyDecision,
    GrantDecision,
    Issued,
    RepeatDecision,
    Settled,
)
from kdc.wire.advertisement import FaPublicKey


class Registrar:
    """Works on one request at a time."""

    def __init__(self, home_agent: HomeAgent) -> None:
        self.home_agent = home_agent

    def judge(self, structured: StructuredRequest, admission: Admission, peer: Peer) -> Verdict:
        """Steps 2 to 11 of 5.3; raises what the home agent raises."""
        now = admission.clock
        opened = open_request(structured, admission.record, admission.keys, now=now)
        return self.home_agent.judge(opened, peer, now=now)

    @staticmethod
    def decide(verdict: Grant | Deny | Repeat, admission: Admission) -> Decision:
        """What the KDC is asked to do about a verdict."""
        opened = verdict.opened
        match verdict:
            case Grant():
                return GrantDecision(admission, verdict.verified, verdict.digest)
            case Deny():
                denied = Denied(
                    verdict.code,
                    verdict.challenge,
                    at=int(admission.clock),
                    counter_proposal=verdict.counter_proposal,
                    pair=verdict.pair,
                )
                return DenyDecision(
                    admission,
                    opened.record,
                    opened.spi,
                    denied,
                    verdict.digest,
                    verdict.last_seen,
                    verdict.rounds,
                )
            case Repeat():
                realm = opened.structured.access.fa_nai.realm
                return RepeatDecision(admission, opened.record, opened.spi, realm)

    def respond(self, opened: OpenedRequest, settled: Settled) -> AccessResponse:
        """Step 9: the response, from what has been committed."""
        policy = self.home_agent.policy
        next_spis = () if opened.record.static_spi else settled.unspent
        outcome = settled.outcome
        if isinstance(outcome, Issued):
            reply = build_reply(
                opened,
                outcome,
                policy,
                next_spis=next_spis,
                fa_public_key=_named_key(opened) if outcome.wrapping_key else None,
            )
            return build_accept(outcome, reply, settled.chargeable_user_identity)
        if not outcome.challenge:
            return AccessReject(outcome.code)
        return AccessChallenge(
            build_denial(opened, outcome, policy, next_spis=next_spis), outcome.state
        )


def _named_key(opened: OpenedRequest) -> FaPublicKey:
    """The attribute 3 that FK names; the channel binding has found it."""
    return next(
        key for key in opened.structured.fa_public_keys if fingerprint(key.octets) == opened.fk
    )
