"""The process `aaa foreign`: a RADIUS proxy between foreign agents and their visitors' homes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog

from aaa.config import ForeignConfig
from aaa.net.mobile_ip import resolve
from aaa.net.radius_client import Server
from aaa.net.transactions import Transaction
from aaa.proxying import Refuse
from aaa.radius.attributes import decode_access_request
from aaa.radius.clients import ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.roles.foreign_aaa import Agent, route
from aaa.serve.client_policy import build_client, build_door
from aaa.serve.door import Door
from aaa.serve.forwarding import Forwarder, NextHop
from aaa.serve.process import split_address
from aaa.serve.radius_server import RadiusServer
from aaa.serve.watch import Watch, watching
from kdc.errors import LocalError

REFUSED: Final = "foreign.refused"  # one counter for each reason
COUNTERS_EVERY_S: Final = 60.0

log = structlog.get_logger("aaa.foreign")


class ForeignServer:
    """Joins the RADIUS server to the RADIUS client; the role between them decides."""

    def __init__(self, config: ForeignConfig, counters: Counters, door: Door) -> None:
        self._vendor_id = config.foreign.vendor_id
        self._realm = config.foreign.realm
        self._counters = counters
        self._door = door
        self._observer = door.observer
        self._agents = {
            c.name: Agent(c.name, c.fa_nai, c.nas_address, c.nas_identifier.encode())
            for c in config.client
        }
        self._homes: dict[str, str] = {}
        hops: dict[str, NextHop] = {}
        for item in config.home_server:
            address = resolve(*split_address(item.address))
            server = Server(address, item.timeout_s, item.retries)
            hops[item.name] = NextHop(server, item.secret_file)
            for realm in item.realms:
                if realm in self._homes:
                    raise LocalError(f"home_server {item.name}: {realm} has a server already")
                self._homes[realm] = item.name
        self.radius = RadiusServer(
            ClientTable(map(build_client, config.client)),
            counters,
            self._on_requests,
            observer=self._observer,
        )
        self._forwarder = Forwarder(hops, counters, "foreign", self._observer)

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in self._door.admit(transactions):
            self._on_request(transaction)

    def _on_request(self, transaction: Transaction) -> None:
        # Step 3
        try:
            access = decode_access_request(transaction.request, self._vendor_id)
        except MalformedPacket:
            self._refuse(transaction, Refuse("malformed"))
            return
        decision = route(
            access,
            transaction.request.attributes,
            agent=self._agents[transaction.client.name],
            own_realm=self._realm,
            homes=self._homes,
            entropy=os.urandom,
        )
        if isinstance(decision, Refuse):
            self._refuse(transaction, decision)
            return
        self._tell(transaction, "forwarded to", decision.server)
        self._forwarder.start(transaction, decision)

    def _tell(self, transaction: Transaction, what: str, which: str) -> None:
        if self._observer.on:
            name = transaction.client.name
            self._observer.decided(name, transaction.request, f"{what} {which}")

    def _refuse(self, transaction: Transaction, decision: Refuse) -> None:
        self._counters.add(f"{REFUSED}.{decision.reason}")
        self._tell(transaction, "refused:", decision.reason)
        self._door.reject(transaction, decision.attributes)

    async def drain(self) -> None:
        """Waits for what is under way; each ends by its own timeout."""
        await self._forwarder.drain()
        self._door.close()

    def close(self) -> None:
        self._forwarder.close()
        self.radius.close()


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
