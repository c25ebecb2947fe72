"""The process `aaa foreign`: a RADIUS proxy between foreign agents and their visitors' homes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from aaa.config import ForeignConfig
from aaa.config.foreign import ForeignClient, ForeignSection
from aaa.exchange import Peer
from aaa.net.transactions import Transaction
from aaa.proxying import Refuse, unroutable
from aaa.radius.attributes import decode_access_request
from aaa.radius.clients import ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.radius.routing import realm_of_request
from aaa.roles.foreign_aaa import Agent, route
from aaa.serve.client_policy import build_clients, build_door
from aaa.serve.configured_pools import home_pools, hop_to
from aaa.serve.door import Door
from aaa.serve.foreign_services import ForeignServices, route_finder
from aaa.serve.forwarding import Forwarder
from aaa.serve.pools import open_pools
from aaa.serve.process import on_hangup
from aaa.serve.radius_front import RadiusFront, tls_side
from aaa.serve.radsec import TlsServers
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
        self._find_route = route_finder(config)
        self._over_tls = TlsServers(
            config.tls,
            ((item, item.address) for item in config.home_server),
            counters,
            deadline_s=config.foreign.deadline_s,
            observer=door.observer,
        )
        hops = {
            item.name: hop_to(item, item.address, self._over_tls) for item in config.home_server
        }
        clients = ClientTable(build_clients(config.client))
        self.radius = RadiusFront(clients, counters, self._on_requests, door)
        ways = open_pools(hops, pools, counters, door.observer)
        self._forwarder = Forwarder(ways, counters, "foreign", door)
        self._services = ForeignServices(
            config, self._clients, self.radius, self._over_tls, door, counters
        )
        self.radius.add_tls(tls_side(config.foreign.tls_listen, config.tls, config.client))

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
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
        decision = route(
            access,
            transaction.request.attributes,
            client=self._clients[transaction.client.name],
            own_realm=self._realm,
            way=self._find_route(realm),
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

    def listen(self, by_udp: tuple[str, ...], by_tls: tuple[str, ...]) -> None:
        """Binds these and those of the services; raises `OSError` if one cannot be bound."""
        self.radius.listen_all(by_udp, by_tls, log)
        self._services.listen()

    def reload(self) -> None:
        """Reads the certificates again, for both directions; raises `LocalError`."""
        self.radius.reload()
        self._over_tls.reload()

    async def drain(self) -> None:
        """Takes nothing more in, and waits for what is under way; each ends by its deadline."""
        self.radius.stop_receiving()
        await self._forwarder.drain()
        await self._services.drain()
        self._door.close()  # before TLS waits for what we owe
        await self.radius.drain()

    async def close(self) -> None:
        self._services.close()
        self._forwarder.close()
        await self.radius.close()
        await self._over_tls.close()


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
        on_hangup(server.reload, log)
        async with watching(watch, server.radius.clients):
            await _serve(server, section, counters, stop=stop, ready=ready)
    finally:
        await server.close()
        log.info("counters", **counters.snapshot())


async def _serve(
    server: ForeignServer,
    section: ForeignSection,
    counters: Counters,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
) -> None:
    server.listen(section.listen, section.tls_listen)
    if ready is not None:
        ready()
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), COUNTERS_EVERY_S)
        except TimeoutError:
            log.info("counters", **counters.snapshot())
    await server.drain()
