"""The process `aaa home`: the home AAA, home agent and KDC in it or home agents behind it.

It loads, decides, commits and sends; every decision stands in a role.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from aaa.config import HomeConfig
from aaa.config.home import HomeAgentPolicySection
from aaa.net.observing import Observer
from aaa.radius.counters import Counters
from aaa.serve.client_policy import build_door
from aaa.serve.configured_pools import agent_pools, hop_to
from aaa.serve.endings import Endings
from aaa.serve.home_policy import build_clients, build_peers, build_policy
from aaa.serve.home_server import HomeAgents, HomeServer
from aaa.serve.home_services import HomeServices
from aaa.serve.housekeeping import keep_house, tell_counters
from aaa.serve.process import on_hangup
from aaa.serve.radius_front import tls_side
from aaa.serve.radsec import TlsServers
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
    home = config.home
    watch = Watch(log, vendor_id=home.vendor_id, trace=trace)
    async with local_home_agent(config, counters, watch) as local:
        over_tls = TlsServers(
            config.tls,
            ((item, item.server) for item in config.home_agent),
            counters,
            deadline_s=home.agent_deadline_s,
            observer=watch,
        )
        server = HomeServer(
            build_clients(config.client),
            build_peers(config.client),
            HomeAgents(
                local.service if local is not None else None,
                agent_pools(config.home_agent, home.agent_deadline_s),
                {item.name: hop_to(item, item.server, over_tls) for item in config.home_agent},
            ),
            counters,
            realm=home.realm,
            vendor_id=home.vendor_id,
            door=build_door(config.client, counters, watch, home.reject_delay_s),
        )
        services = None
        if local is not None:
            services = HomeServices(config, local.store, server, watch, counters)
        server.radius.add_tls(tls_side(home.tls_listen, config.tls, config.client))
        on_hangup(partial(_reload, server, over_tls), log)
        try:
            async with watching(watch, server.radius.clients):
                if services is not None:
                    await services.start()
                await serve_radius(server, home, log, stop=stop, ready=ready)
                if services is not None:
                    await services.drain()
        finally:
            if services is not None:
                services.close()
            await server.close()
            await over_tls.close()
            log.info("counters", **counters.snapshot())


def _reload(server: HomeServer, over_tls: TlsServers) -> None:
    """Raises `LocalError`; what was read before then stays in force."""
    server.radius.reload()
    over_tls.reload()


@dataclass(frozen=True, slots=True)
class LocalHome:
    """The home agent of this process, and the database that it has beside it."""

    service: HomeAgentService
    store: Store


@asynccontextmanager
async def local_home_agent(
    config: HomeConfig, counters: Counters, observer: Observer
) -> AsyncIterator[LocalHome | None]:
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
        housekeeping = asyncio.create_task(keep_house(store, database, counters, log))
        endings = None
        try:
            service.open()
            if config.keys is not None:
                endings = asyncio.create_task(Endings(store, service.revoked).run())
            yield LocalHome(service, store)
        finally:
            housekeeping.cancel()
            if endings is not None:
                endings.cancel()
            await service.close()


async def serve_radius(
    server: HomeServer,
    section: HomeAgentPolicySection,
    log: structlog.stdlib.BoundLogger,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
) -> None:
    """Binds, serves until `stop`, and drains."""
    server.radius.listen_all(section.listen, section.tls_listen, log)
    if ready is not None:
        ready()
    await stop.wait()
    await server.drain()
