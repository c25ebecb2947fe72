"""The Registrar joins home agent and KDC for one request (steps 5 to 9), still without any I/O.

Loading and committing a batch around it is the affair of the process (aaa.serve.home).
"""

from __future__ import annotations

from dataclasses import dataclass

from aaa.exchange import AccessAccept, AccessReject, AccessResponse, Peer
from aaa.roles.home_agent import (
    Deny,
    Grant,
    HomeAgent,
    OpenedRequest,
    Repeat,
    StructuredRequest,
    open_request,
)
from aaa.roles.home_agent_reply import (
    build_accept,
    build_challenge,
    build_denial,
    build_reply,
)
from kdc.center import (
    Allocator,
    KeyDistributionCenter,
    describe_denial,
    describe_grant,
)
from kdc.crypto.hpke import fingerprint
from kdc.errors import Unavailable
from kdc.model import Secret
from kdc.records import Denied, Issued, RecordChange, StoredRecord
from kdc.wire.advertisement import FaPublicKey


@dataclass(frozen=True, slots=True)
class Settled:
    """A response, and the change that must be committed before it may leave (None: nothing)."""

    response: AccessResponse
    change: RecordChange | None
    issued: Issued | None  # what was issued or repeated, for counters and tests

    @property
    def code(self) -> int:
        return self.response.code if isinstance(self.response, AccessReject) else 0


class Registrar:
    """Settles one request at a time against a loaded record."""

    def __init__(
        self, home_agent: HomeAgent, center: KeyDistributionCenter, cui_key: Secret
    ) -> None:
        self._home_agent = home_agent
        self._center = center
        self._cui_key = cui_key

    def settle(
        self,
        structured: StructuredRequest,
        stored: StoredRecord | None,
        peer: Peer,
        allocator: Allocator,
        *,
        now: float,
    ) -> Settled:
        """Judges, issues and builds the response; raises what the home agent raises.

        `now` is the database's clock.
        """
        # Step 5
        record, keys = self._center.admit(stored, structured.request.mhae.spi)
        opened = open_request(structured, record, keys, now=now)
        verdict = self._home_agent.judge(opened, peer, now=now)
        if isinstance(verdict, Repeat):
            return self._repeat(opened, stored, now)
        if isinstance(verdict, Deny):
            return self._deny(verdict, allocator, now)
        return self._grant(verdict, allocator, now)

    def _grant(self, verdict: Grant, allocator: Allocator, now: float) -> Settled:
        # Step 7
        opened, verified = verdict.opened, verdict.verified
        step = self._center.spend(opened.record, opened.spi, allocator)
        issued = self._center.issue(verified, allocator, now=now)
        change = describe_grant(verified, issued, step, verdict.digest, now=now)
        accept = self._build_accept(opened, issued, step.unspent, verified.operator_realm, now)
        return Settled(accept, change, issued)

    def _deny(self, verdict: Deny, allocator: Allocator, now: float) -> Settled:
        opened = verdict.opened
        step = self._center.spend(opened.record, opened.spi, allocator)
        denied = Denied(verdict.code, None, b"")
        if verdict.challenge:
            reply = build_denial(
                opened,
                verdict.code,
                self._home_agent.policy,
                next_spis=() if opened.record.static_spi else step.unspent,
                now=now,
            )
            denied = Denied(verdict.code, reply, self._center.new_state())
        change = describe_denial(
            opened.record,
            denied,
            step,
            digest=verdict.digest,
            last_seen=verdict.last_seen,
            rounds=verdict.rounds,
        )
        return Settled(_respond(denied), change, None)

    def _repeat(self, opened: OpenedRequest, stored: StoredRecord | None, now: float) -> Settled:
        """PROTOCOL 5.5: the stored outcome, octet for octet; nothing is written."""
        if stored is None or stored.outcome is None:
            raise Unavailable("the outcome of a duplicate is gone")
        outcome = self._center.recall(stored.outcome)
        if isinstance(outcome, Denied):
            return Settled(_respond(outcome), None, None)
        operator = opened.structured.access.operator_name
        realm = operator[1:].decode().lower() if operator is not None else None
        accept = self._build_accept(opened, outcome, opened.record.unspent, realm, now)
        return Settled(accept, None, outcome)

    def _build_accept(
        self,
        opened: OpenedRequest,
        issued: Issued,
        unspent: tuple[int, ...],
        operator_realm: str | None,
        now: float,
    ) -> AccessAccept:
        policy = self._home_agent.policy
        reply = build_reply(
            opened,
            issued,
            policy,
            next_spis=() if opened.record.static_spi else unspent,
            fa_public_key=_named_key(opened) if issued.wrapping_key else None,
        )
        return build_accept(
            opened,
            issued,
            reply,
            policy,
            operator_realm=operator_realm,
            cui_key=self._cui_key,
            now=now,
        )


def _named_key(opened: OpenedRequest) -> FaPublicKey:
    """The attribute 3 that FK names; the channel binding has found it."""
    return next(
        key for key in opened.structured.fa_public_keys if fingerprint(key.octets) == opened.fk
    )


def _respond(denied: Denied) -> AccessResponse:
    if denied.reply is None:
        return AccessReject(denied.code)
    return build_challenge(denied.reply, denied.state)
