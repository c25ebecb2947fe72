"""A home agent at work, whatever it is reached through and wherever its KDC is (steps 5 to 10)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from aaa.config import KeyOutletSettings
from aaa.exchange import (
    AccessAccept,
    AccessChallenge,
    AccessReject,
    AccessRequest,
    AccessResponse,
    Peer,
)
from aaa.net.observing import SHED, UNOBSERVED, Observer
from aaa.net.transactions import Transaction
from aaa.radius.attributes import encode_access_response
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCESS_REJECT
from aaa.roles.home_agent import HomeAgent, HomeAgentPolicy
from aaa.roles.home_agent_request import read_request
from aaa.serve.door import Door
from aaa.serve.exponentiation import ExponentiationPool
from aaa.serve.key_outlet import SaOutlet
from aaa.serve.registrar import Registrar
from aaa.serve.registrations import RegistrationPipeline, Work
from kdc.distribution import KeyDistribution
from kdc.errors import DENIED_RESOURCES, MEANINGS, LocalError, RemoteError
from kdc.keyuse.table import DEFAULT_OVERLAP_S, Endpoint, Grant
from kdc.keyuse.traffic import Party
from kdc.model import SecurityAssociation, alias_nai
from kdc.records import Issued, VerifiedRegistration

TOO_LONG: Final = "home.response_too_long"
DENIALS: Final = "home.denials"  # one counter for each code: home.denials.131


class HomeAgentService:
    """Takes admitted Access-Requests and answers them once what they promise is committed."""

    def __init__(
        self,
        policy: HomeAgentPolicy,
        kdc: KeyDistribution,
        counters: Counters,
        *,
        keys: KeyOutletSettings | None = None,
        overlap_s: float = DEFAULT_OVERLAP_S,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.policy = policy
        self._outlet = SaOutlet(keys, Party.HOME_AGENT, counters, overlap_s=overlap_s)
        self._exponentiations = ExponentiationPool(os.urandom)
        self._pipeline = RegistrationPipeline(
            kdc,
            Registrar(HomeAgent(policy)),
            self._exponentiations,
            counters,
            entropy=os.urandom,
            on_granted=self._hand_on if keys is not None else None,
            on_shed=partial(observer.noticed, SHED),
        )

    def open(self) -> None:
        """At the start, inside the event loop.  Raises `LocalError` for a file of keys."""
        self._outlet.open()

    def _hand_on(self, verified: VerifiedRegistration, issued: Issued) -> None:
        """KEY1 and KEY2 for other software, by the record that they are of."""
        binding = str(verified.record.record_id)
        if not issued.associations:
            self._outlet.deregistered(binding)
            return
        held = tuple(
            SecurityAssociation(
                item.pair,
                item.spi,
                item.lifetime_s,
                item.key_name,
                item.mode,
                item.derivation,
                item.suites,
                item.keys,
            )
            for item in issued.associations
            if item.keys is not None
        )
        alias = alias_nai(issued.alias, self.policy.realm)
        endpoints = {
            Party.MOBILE_NODE: Endpoint(verified.record.nai, issued.home_address),
            Party.FOREIGN_AGENT: Endpoint(verified.fa_nai, verified.care_of_address),
            Party.HOME_AGENT: Endpoint(self.policy.nai, self.policy.address),
        }
        self._outlet.installed(Grant(binding, held, endpoints, alias))

    def revoked(self, spi: int) -> None:
        """An operator has ended this association: other software holds its keys no longer."""
        self._outlet.revoked(spi)

    def submit(
        self, access: AccessRequest, peer: Peer, send: Callable[[AccessResponse | None], None]
    ) -> None:
        """Step 1 of 5.3, which costs nothing but reading; the rest goes with the next batch."""
        try:
            structured = read_request(access, vendor_id=self.policy.vendor_id)
        except RemoteError as error:
            send(AccessReject(error.reply_code, reason=str(error)))
            return
        self._pipeline.submit(Work(structured, peer, send))

    def start_batches(self) -> None:
        """To be called once a turn, when the socket is drained."""
        self._pipeline.start_batches()

    async def drain(self) -> None:
        """Waits until everything that was taken in has been answered."""
        await self._pipeline.drain()

    async def close(self) -> None:
        await self._exponentiations.close()
        await self._outlet.close()


class Answering:
    """Turns responses into the answers of RADIUS transactions, and counts them."""

    def __init__(self, vendor_id: int, counters: Counters, door: Door) -> None:
        self._vendor_id = vendor_id
        self._counters = counters
        self._door = door

    def answer(self, transaction: Transaction, response: AccessResponse | None) -> None:
        """None is no answer: a retransmission is worked on anew."""
        if self._door.observer.on:
            name = transaction.client.name
            self._door.observer.decided(name, transaction.request, describe_response(response))
        if response is None:
            transaction.forget()
            return
        if isinstance(response, AccessReject):
            self._counters.add(f"{DENIALS}.{response.code}")
        try:
            code, attributes = encode_access_response(response, self._vendor_id)
            # Whoever finds no room here has guessed nothing, and is to know it at once.
            if code == ACCESS_REJECT and not _is_for_want_of_room(response):
                self._door.reject(transaction, attributes)
            else:
                transaction.respond(code, attributes)
        except LocalError:
            # Longer than a packet: as a response that was lost, and nobody else's is.
            self._counters.add(TOO_LONG)
            transaction.forget()


def _is_for_want_of_room(response: AccessResponse) -> bool:
    return isinstance(response, AccessReject) and response.code == DENIED_RESOURCES


def describe_response(response: AccessResponse | None) -> str:
    """What was decided, for the operator: the denial code and the rule, never a value."""
    match response:
        case None:
            return "no answer"
        case AccessAccept():
            return "granted"
        case AccessChallenge():
            code = response.registration_reply[1]  # RFC 5944 §3.4
            return f"denied with {code}, {MEANINGS.get(code, 'see the reply')}"
        case AccessReject():
            reason = response.reason or MEANINGS.get(response.code, "not routable")
            return f"denied with {response.code}, {reason}"
