"""The process `aaa home-agent`: a RADIUS server behind the home AAA, its KDC elsewhere over TLS.

A foreign agent may also be its client, where there are no AAA servers between (Fig. 2).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from aaa.config import HomeAgentConfig
from aaa.net.radsec_client import RadsecClient
from aaa.radius.counters import Counters
from aaa.serve.client_policy import build_door
from aaa.serve.home import serve_radius
from aaa.serve.home_policy import build_clients, build_peers, build_policy
from aaa.serve.home_server import HomeAgents, HomeServer
from aaa.serve.housekeeping import tell_counters
from aaa.serve.process import on_hangup
from aaa.serve.radius_front import tls_side
from aaa.serve.radsec import limits_within, read_contexts, targets, watchdog_within
from aaa.serve.registering import HomeAgentService
from aaa.serve.remote_kdc import RemoteKeyDistribution
from aaa.serve.watch import Watch, watching

log = structlog.get_logger("aaa.home_agent")


async def serve_home_agent(
    config: HomeAgentConfig, *, stop: asyncio.Event, ready: Callable[[], None] | None = None
) -> None:
    """Serves until `stop`, then answers what it has taken in and returns.

    Raises `LocalError` (certificates, a file of keys) before it has bound any address.
    """
    counters = Counters()
    section = config.home_agent
    client = RadsecClient(
        targets(config.kdc),
        read_contexts(config.tls),
        counters,
        limits=limits_within(section.kdc_deadline_s),
        watchdog=watchdog_within(section.kdc_deadline_s),
    )
    kdc = RemoteKeyDistribution(
        client.exchange,
        home_agent=section.name,
        realm=section.realm,
        vendor_id=section.vendor_id,
        clock=time.time,
    )
    policy = build_policy(
        section, (section.nai, section.address), config.foreign_agent, config.negotiation
    )
    watch = Watch(log, vendor_id=section.vendor_id)
    service = HomeAgentService(
        policy, kdc, counters, keys=config.keys, overlap_s=section.overlap_s, observer=watch
    )
    server = HomeServer(
        build_clients(config.client),
        build_peers(config.client),
        HomeAgents(service),
        counters,
        realm=section.realm,
        vendor_id=section.vendor_id,
        door=build_door(config.client, counters, watch, section.reject_delay_s),
    )
    server.radius.add_tls(tls_side(section.tls_listen, config.tls, config.client))
    telling = asyncio.create_task(tell_counters(counters, log))

    def reload() -> None:
        server.radius.reload()
        client.reload(read_contexts(config.tls))

    on_hangup(reload, log)
    try:
        service.open()
        async with watching(watch, server.radius.clients):
            await serve_radius(server, section, log, stop=stop, ready=ready)
    finally:
        telling.cancel()
        await server.close()
        await service.close()
        await client.close()
        log.info("counters", **counters.snapshot())
