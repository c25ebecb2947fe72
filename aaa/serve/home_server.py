"""The RADIUS side of a home: admits, and hands to the home agent in process or behind it.

It is the home AAA, and with nobody behind it also the front of a home agent's own process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from typing import Final

from aaa.exchange import AccessReject, Peer
from aaa.net.transactions import Transaction
from aaa.proxying import Refuse
from aaa.radius.attributes import decode_access_request
from aaa.radius.clients import ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import proxy_states
from aaa.roles.home_aaa import Admitted, admit, route
from aaa.serve.door import Door
from aaa.serve.forwarding import Forwarder
from aaa.serve.pools import Hop, TimedPool, open_pools
from aaa.serve.radius_front import RadiusFront
from aaa.serve.registering import Answering, HomeAgentService
from kdc.errors import DENIED_POORLY_FORMED, RemoteError

REFUSED: Final = "home.refused"  # one counter for each reason
MAXIMUM_PROXY_STATES: Final = 32
# 4,096 less header, signature, a reply of 3,072 in its pieces, and all other attributes: 600, of
# which each Proxy-State's own two octets are taken.
_PROXY_STATE_OCTETS: Final = 600 - 2 * MAXIMUM_PROXY_STATES


@dataclass(frozen=True, slots=True)
class HomeAgents:
    """Those that a home serves: one in this process, others by RADIUS, by address."""

    local: HomeAgentService | None = None
    remote: Mapping[IPv4Address, TimedPool] = field(default_factory=dict)
    hops: Mapping[str, Hop] = field(default_factory=dict)

    @property
    def addresses(self) -> frozenset[IPv4Address]:
        local = {self.local.policy.address} if self.local is not None else set()
        return frozenset(local | set(self.remote))


class HomeServer:
    """Joins RADIUS, by UDP and TLS, to home agents."""

    def __init__(  # noqa: PLR0913 - what it joins
        self,
        clients: ClientTable,
        peers: Mapping[str, Peer],
        agents: HomeAgents,
        counters: Counters,
        *,
        realm: str,
        vendor_id: int,
        door: Door | None = None,
    ) -> None:
        """Without a `door` no client has a limit, no refusal waits and nothing is told."""
        self.door = door or Door(counters)
        self._observer = self.door.observer
        self.radius = RadiusFront(clients, counters, self._on_requests, self.door)
        self.peers = peers  # may be replaced at any time, with `radius.clients`
        self._agents = agents
        self._addresses = agents.addresses
        self._realm, self._vendor_id = realm, vendor_id
        self._counters = counters
        self._answering = Answering(vendor_id, counters, self.door)
        pools = open_pools(agents.hops, agents.remote.values(), counters, self._observer)
        self._forwarder = Forwarder(pools, counters, "home", self.door)

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            try:
                self._on_request(transaction)
            except (MalformedPacket, RemoteError) as error:
                denial = AccessReject(error.reply_code, reason=str(error))
                self._answering.answer(transaction, denial)
        if self._agents.local is not None:
            self._agents.local.start_batches()

    def _on_request(self, transaction: Transaction) -> None:
        """Steps 4 and 5; raises what is wrong with the request."""
        states = proxy_states(transaction.request.attributes)
        if len(states) > MAXIMUM_PROXY_STATES or sum(map(len, states)) > _PROXY_STATE_OCTETS:
            # They are echoed: what would leave no room for a reply must not be granted.
            self._counters.add(f"{REFUSED}.proxy_states")
            denial = AccessReject(DENIED_POORLY_FORMED, reason="too many Proxy-States to echo")
            self._answering.answer(transaction, denial)
            return
        access = decode_access_request(transaction.request, self._vendor_id)
        # Step 4
        admitted = admit(
            access,
            self.peers[transaction.client.name],
            realm=self._realm,
            home_agents=self._addresses,
        )
        if isinstance(admitted, AccessReject):
            self._answering.answer(transaction, admitted)
        elif admitted.home_agent in self._agents.remote:
            self._forward(transaction, admitted)
        elif self._agents.local is not None:
            if self._observer.on:
                told = "admitted for the home agent of this process"
                self._observer.decided(transaction.client.name, transaction.request, told)
            self._agents.local.submit(
                access, admitted.peer, partial(self._answering.answer, transaction)
            )

    def _forward(self, transaction: Transaction, admitted: Admitted) -> None:
        # Step 5
        decision = route(
            admitted,
            transaction.request.attributes,
            pool=self._agents.remote[admitted.home_agent].pool.name,
            entropy=os.urandom,
        )
        if isinstance(decision, Refuse):
            self._forwarder.refuse(transaction, decision)
        else:
            self._forwarder.start(transaction, decision)

    async def drain(self) -> None:
        """Takes nothing more in, and waits until everything taken has been answered."""
        self.radius.stop_receiving()
        await self._forwarder.drain()
        if self._agents.local is not None:
            await self._agents.local.drain()
        self.door.close()  # before TLS waits for what we owe
        await self.radius.drain()

    async def close(self) -> None:
        self._forwarder.close()
        await self.radius.close()
