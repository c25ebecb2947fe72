"""The process `aaa foreign`: a RADIUS proxy between foreign agents and their visitors' homes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from aaa.config import ForeignConfig
from aaa.config.foreign import ForeignClient
from aaa.exchange import Peer
from aaa.net.transactions import Transaction
from aaa.proxying import Refuse, Route, unroutable
from aaa.radius.attributes import decode_access_request
from aaa.radius.clients import ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.radius.routing import realm_of_request
from aaa.roles.foreign_aaa import Agent, route
from aaa.serve.client_policy import build_client, build_door
from aaa.serve.configured_pools import home_pools, realm_table, udp_hop
from aaa.serve.door import Door
from aaa.serve.forwarding import Forwarder
from aaa.serve.pools import udp_pools
from aaa.serve.process import split_address
from aaa.serve.radius_server import RadiusServer
from aaa.serve.watch import Watch, watching

COUNTERS_EVERY_S: Final = 60.0

log = structlog.get_logger("aaa.foreign")


class ForeignServer:
    """Joins the RADIUS server to the RADIUS client; the role between them decides."""

    def __init__(self, config: ForeignConfig, counters: Counters, door: Door) -> None:
        self._vendor_id = config.foreign.vendor_id
        self._realm = config.foreign.realm
        self._counters = counters
        self._door = door
        self._clients = {c.name: _client(c) for c in config.client}
        pools = home_pools(config)
        self._routes = {each.pool.name: Route(each.pool.name, each.pool.members) for each in pools}
        self._realms = realm_table(config)
        hops = {item.name: udp_hop(item, item.address) for item in config.home_server}
        self.radius = RadiusServer(
            ClientTable(map(build_client, config.client)),
            counters,
            self._on_requests,
            observer=door.observer,
        )
        ways = udp_pools(hops, pools, counters, door.observer)
        self._forwarder = Forwarder(ways, counters, "foreign", door)

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in self._door.admit(transactions):
            self._on_request(transaction)

    def _on_request(self, transaction: Transaction) -> None:
        # Step 3
        realm = realm_of_request(transaction.request.attributes)
        if realm is None:
            self._forwarder.refuse(transaction, unroutable("user_name"))
            return
        try:
            access = decode_access_request(transaction.request, self._vendor_id)
        except MalformedPacket:
            self._forwarder.refuse(transaction, Refuse("malformed"))
            return
        pool = self._realms.find(realm)
        decision = route(
            access,
            transaction.request.attributes,
            client=self._clients[transaction.client.name],
            own_realm=self._realm,
            way=None if pool is None else self._routes[pool],
            entropy=os.urandom,
        )
        if isinstance(decision, Refuse):
            self._forwarder.refuse(transaction, decision)
            return
        # The same registration goes to the same home, however often it is sent.
        self._forwarder.start(
            transaction,
            decision,
            key=access.registration_request,
            avoid=frozenset((transaction.client.name,)),
        )

    async def drain(self) -> None:
        """Waits for what is under way; each ends by the deadline of its pool."""
        await self._forwarder.drain()
        self._door.close()

    def close(self) -> None:
        self._forwarder.close()
        self.radius.close()


def _client(client: ForeignClient) -> Agent | Peer:
    if client.fa_nai is None or client.nas_address is None or client.nas_identifier is None:
        return Peer(client.name, frozenset(client.realms or ()))
    return Agent(client.name, client.fa_nai, client.nas_address, client.nas_identifier.encode())


async def serve_foreign(
    config: ForeignConfig,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
    trace: bool = False,
) -> None:
    """Serves until `stop`, waits for what is under way, and returns."""
    counters = Counters()
    section = config.foreign
    watch = Watch(log, vendor_id=section.vendor_id, trace=trace)
    door = build_door(config.client, counters, watch, section.reject_delay_s)
    server = ForeignServer(config, counters, door)
    try:
        async with watching(watch, server.radius.clients):
            await _serve(server, config, counters, stop=stop, ready=ready)
    finally:
        server.close()
        log.info("counters", **counters.snapshot())


async def _serve(
    server: ForeignServer,
    config: ForeignConfig,
    counters: Counters,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
) -> None:
    for address in config.foreign.listen:
        endpoint = server.radius.listen(split_address(address))
        log.info("listening", address=":".join(map(str, endpoint.address)))
    if ready is not None:
        ready()
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), COUNTERS_EVERY_S)
        except TimeoutError:
            log.info("counters", **counters.snapshot())
    server.radius.stop_receiving()
    await server.drain()
