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
from aaa.config.home import HomeAgentPolicySection, HomeAgentServer
from aaa.net.mobile_ip import resolve
from aaa.net.radius_client import Server
from aaa.radius.counters import Counters
from aaa.serve.forwarding import Exchanger, NextHop
from aaa.serve.home_policy import build_clients, build_peers, build_policy
from aaa.serve.home_server import HomeAgents, HomeServer
from aaa.serve.housekeeping import keep_house, tell_counters
from aaa.serve.process import on_hangup, split_address
from aaa.serve.radius_front import tls_side
from aaa.serve.radsec import TlsServers
from aaa.serve.registering import HomeAgentService
from kdc.center import KeyDistributionCenter
from kdc.distribution import LocalKeyDistribution
from kdc.store import Store

log = structlog.get_logger("aaa.home")


async def serve_home(
    config: HomeConfig, *, stop: asyncio.Event, ready: Callable[[], None] | None = None
) -> None:
    """Serves until `stop`, then answers what it has taken in and returns.

    Raises `LocalError` (database, KEK, schema) before it has bound any address.
    """
    counters = Counters()
    over_tls = TlsServers(config.tls, counters)
    async with local_home_agent(config, counters) as local:
        server = HomeServer(
            build_clients(config.client),
            build_peers(config.client),
            HomeAgents(
                local,
                {item.address: item.name for item in config.home_agent},
                {item.name: _next_hop(item, over_tls) for item in config.home_agent},
            ),
            counters,
            realm=config.home.realm,
            vendor_id=config.home.vendor_id,
        )
        server.radius.add_tls(tls_side(config.home.tls_listen, config.tls, config.client))

        def reload() -> None:
            server.radius.reload()
            over_tls.reload()

        on_hangup(reload, log)
        try:
            await serve_radius(server, config.home, counters, log, stop=stop, ready=ready)
        finally:
            await over_tls.close()


def _next_hop(agent: HomeAgentServer, over_tls: TlsServers) -> NextHop | Exchanger:
    """How a home agent in another process is asked."""
    address = split_address(agent.server)
    if agent.secret_file is None:
        deadline_s = agent.timeout_s * (1 + agent.retries)
        return over_tls.open(agent.name, agent.san, address, deadline_s)
    server = Server(resolve(*address), agent.timeout_s, agent.retries)
    return NextHop(server, agent.secret_file)


@asynccontextmanager
async def local_home_agent(
    config: HomeConfig, counters: Counters
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
    section: HomeAgentPolicySection,
    counters: Counters,
    log: structlog.stdlib.BoundLogger,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
) -> None:
    """Binds, serves until `stop`, drains and closes."""
    try:
        server.radius.listen_all(section.listen, section.tls_listen, log)
        if ready is not None:
            ready()
        await stop.wait()
        await server.drain()
    finally:
        await server.close()
        log.info("counters", **counters.snapshot())
