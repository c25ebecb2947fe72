"""The process `aaa home`: the home AAA, home agent and KDC in it or home agents behind it.

It loads, decides, commits and sends; every decision stands in a role.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from aaa.config import HomeConfig
from aaa.net.observing import Observer
from aaa.radius.counters import Counters
from aaa.serve.client_policy import build_door
from aaa.serve.configured_pools import agent_pools, udp_hop
from aaa.serve.home_policy import build_clients, build_peers, build_policy
from aaa.serve.home_server import HomeAgents, HomeServer
from aaa.serve.housekeeping import keep_house, tell_counters
from aaa.serve.process import split_address
from aaa.serve.registering import HomeAgentService
from aaa.serve.watch import Watch, watching
from kdc.center import KeyDistributionCenter
from kdc.distribution import LocalKeyDistribution
from kdc.store import Store

log = structlog.get_logger("aaa.home")


async def serve_home(
    config: HomeConfig,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
    trace: bool = False,
) -> None:
    """Serves until `stop`, then answers what it has taken in and returns.

    Raises `LocalError` (database, KEK, schema) before it has bound any address.
    """
    counters = Counters()
    watch = Watch(log, vendor_id=config.home.vendor_id, trace=trace)
    async with local_home_agent(config, counters, watch) as local:
        server = HomeServer(
            build_clients(config.client),
            build_peers(config.client),
            HomeAgents(
                local,
                agent_pools(config.home_agent, config.home.agent_deadline_s),
                {item.name: udp_hop(item, item.server) for item in config.home_agent},
            ),
            counters,
            realm=config.home.realm,
            vendor_id=config.home.vendor_id,
            door=build_door(config.client, counters, watch, config.home.reject_delay_s),
        )
        async with watching(watch, server.radius.clients):
            await serve_radius(server, config.home.listen, counters, log, stop=stop, ready=ready)


@asynccontextmanager
async def local_home_agent(
    config: HomeConfig, counters: Counters, observer: Observer
) -> AsyncIterator[HomeAgentService | None]:
    """The home agent of this process with its database, or None where all are behind it."""
    home, database = config.home, config.database
    if database is None or home.nai is None or home.address is None:
        telling = asyncio.create_task(tell_counters(counters, log))
        try:
            yield None
        finally:
            telling.cancel()
        return
    async with Store.opened(
        database,
        entropy=os.urandom,
        overlap_s=home.overlap_s,
        dynamic_addresses=home.dynamic_addresses,
    ) as store:
        service = HomeAgentService(
            build_policy(home, (home.nai, home.address), config.foreign_agent, config.negotiation),
            LocalKeyDistribution(store, KeyDistributionCenter(os.urandom)),
            counters,
            keys=config.keys,
            overlap_s=home.overlap_s,
            observer=observer,
        )
        housekeeping = asyncio.create_task(keep_house(store, counters, log))
        try:
            service.open()
            yield service
        finally:
            housekeeping.cancel()
            await service.close()


async def serve_radius(
    server: HomeServer,
    listen: tuple[str, ...],
    counters: Counters,
    log: structlog.stdlib.BoundLogger,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
) -> None:
    """Binds, serves until `stop`, drains and closes."""
    try:
        for address in listen:
            endpoint = server.radius.listen(split_address(address))
            log.info("listening", address=":".join(map(str, endpoint.address)))
        if ready is not None:
            ready()
        await stop.wait()
        await server.drain()
    finally:
        server.close()
        log.info("counters", **counters.snapshot())
