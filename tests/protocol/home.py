"""A home side in memory for the tests: one record, a named source of every random value.

It applies RecordChange as kdc.store does, so that the stories and vectors run the product's own
decisions; the real store has its own tests on a real PostgreSQL.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from aaa.exchange import AccessReject, AccessRequest, AccessResponse, Peer
from aaa.roles.home_aaa import admit
from aaa.roles.home_agent import Agreeable, Deny, Grant, HomeAgent, HomeAgentPolicy
from aaa.roles.home_agent_request import read_request
from aaa.roles.home_agent_terms import Exponentiation
from aaa.serve.registrar import Registrar
from kdc.center import KeyDistributionCenter
from kdc.crypto.dh import DhJob, DhShare, private_octets, respond, verify_user_group
from kdc.errors import NotAcceptable, RemoteError
from kdc.model import HomeAddressKind, Identification, Nai, Pair, Secret
from kdc.records import Issued, Record, RecordChange, StoredRecord


def new_record(
    *,
    nai: str = "alice@home.example",
    spis: tuple[int, ...],
    static: bool = False,
    kind: HomeAddressKind = HomeAddressKind.HIDDEN,
    home_address: IPv4Address | None = None,
    **changes: Any,
) -> Record:
    record = Record(
        record_id=1,
        nai=Nai.parse(nai),
        active=True,
        expires_at=None,
        static_spi=static,
        home_agent=IPv4Address("192.0.2.1"),
        home_address_kind=kind,
        home_address=home_address,
        roam=None,
        unspent=spis,
        last_spent=None,
        last_seen=None,
        rounds=0,
        accepted_at=(),
        last_digest=None,
        current_fa=None,
        current_home_address=None,
        registered_until=None,
        revision=0,
    )
    return dataclasses.replace(record, **changes)


class MemoryStore:
    """One record and the compare-and-set of the real store."""

    def __init__(self, record: Record, key0: Secret) -> None:
        self.stored = StoredRecord(record, key0, None)
        self.registrations: list[RecordChange] = []

    @property
    def record(self) -> Record:
        return self.stored.record

    def replace_record(self, **changes: Any) -> None:
        self.stored = dataclasses.replace(
            self.stored, record=dataclasses.replace(self.record, **changes)
        )

    def find(self, spi: int) -> StoredRecord | None:
        known = (*self.record.unspent, self.record.last_spent)
        return self.stored if spi in known else None

    def commit(self, change: RecordChange, now: float) -> None:
        record = self.record
        assert change.revision == record.revision, "compare-and-set"
        after: dict[str, Any] = {
            "unspent": change.unspent,
            "last_spent": change.last_spent,
            "last_seen": change.last_seen,
            "rounds": change.rounds,
            "accepted_at": change.accepted_at,
            "revision": record.revision + 1,
        }
        outcome = self.stored.outcome
        if change.digest is not None:
            after["last_digest"], outcome = change.digest, change.outcome
        if change.registration is not None:
            self.registrations.append(change)
            registration = change.registration
            after["current_fa"] = registration.fa_nai
            after["current_home_address"] = registration.home_address
            after["registered_until"] = now + registration.lifetime_s
        elif change.deregistration:
            after.update(current_fa=None, current_home_address=None, registered_until=None)
        self.stored = StoredRecord(dataclasses.replace(record, **after), self.stored.key0, outcome)


@dataclasses.dataclass(frozen=True)
class Handled:
    """A response, and what was issued or repeated for it."""

    response: AccessResponse
    issued: Issued | None = None

    @property
    def code(self) -> int:
        return self.response.code if isinstance(self.response, AccessReject) else 0


class MemoryHome:
    """Home AAA, home agent and KDC in one object: one request in, one outcome out."""

    def __init__(
        self,
        store: MemoryStore,
        policy: HomeAgentPolicy,
        center: KeyDistributionCenter,
        allocator: Any,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.store = store
        self.policy = policy
        self.center = center
        self.registrar = Registrar(HomeAgent(policy))
        self.allocator = allocator
        self.entropy = entropy
        self.exponentiations = 0

    def handle(self, access: AccessRequest, peer: Peer, now: float) -> Handled:
        """Steps 4-9 of the cycle, the commit between decision and reply."""
        try:
            admitted = admit(
                access,
                peer,
                realm=self.policy.realm,
                home_agents=frozenset({self.policy.address}),
            )
            if isinstance(admitted, AccessReject):
                return Handled(admitted)
            structured = read_request(access, vendor_id=self.policy.vendor_id)
            spi = structured.request.mhae.spi
            admission = self.center.admit(self.store.find(spi), spi, clock=now)
            verdict = self.registrar.judge(structured, admission, peer)
            if isinstance(verdict, Agreeable):
                verdict = self._conclude(verdict)
            decision = self.registrar.decide(verdict, admission)
            prepared = self.center.prepare(decision, self.allocator, Secret(bytes(32)))
        except RemoteError as error:
            return Handled(AccessReject(error.reply_code))
        if prepared.change is not None:
            self.store.commit(prepared.change, now)
        outcome = prepared.settled.outcome
        response = self.registrar.respond(verdict.opened, prepared.settled)
        return Handled(response, outcome if isinstance(outcome, Issued) else None)

    def _conclude(self, agreeable: Agreeable) -> Grant | Deny:
        shares: dict[Pair, DhShare | None] = {}
        for wanted in agreeable.exponentiations:
            self.exponentiations += 1
            private = Secret(self.draw_private(wanted))
            try:
                group = wanted.group
                if not group.is_verified:
                    group = verify_user_group(group, os.urandom)
                shares[wanted.pair] = respond(DhJob(group, private, wanted.peer_value))
            except NotAcceptable:
                shares[wanted.pair] = None
        return self.registrar.home_agent.conclude(agreeable, shares)

    def draw_private(self, wanted: Exponentiation) -> bytes:
        return self.entropy(private_octets(wanted.group))


def identification(pair: list[int] | None) -> Identification | None:
    return Identification(*pair) if pair else None
