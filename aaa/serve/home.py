"""The process `aaa home`: home AAA, home agent and KDC in one, over RADIUS.

It loads, decides, commits and sends; every decision stands in a role.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network, ip_network

import structlog

from aaa.config import HomeConfig
from aaa.exchange import AccessReject, Peer
from aaa.radius.attributes import decode_access_request
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.roles.home_aaa import admit
from aaa.roles.home_agent import HomeAgentPolicy
from aaa.serve.housekeeping import keep_house
from aaa.serve.process import split_address
from aaa.serve.radius_server import RadiusServer, Transaction
from aaa.serve.registering import Answering, HomeAgentService
from kdc.center import KeyDistributionCenter
from kdc.distribution import LocalKeyDistribution
from kdc.errors import RemoteError
from kdc.store import Store

log = structlog.get_logger("aaa.home")


def build_policy(config: HomeConfig) -> HomeAgentPolicy:
    """The home agent's policy as the operator wrote it."""
    home = config.home
    agents = config.foreign_agent
    pinned = home.fa_key_trust == "pinned"
    return HomeAgentPolicy(
        address=home.address,
        nai=home.nai,
        realm=home.realm,
        vendor_id=home.vendor_id,
        maximum_lifetime_s=home.maximum_lifetime_s,
        window_s=home.window_s,
        registrations_per_minute=home.registrations_per_minute,
        terms=config.negotiation.build_terms(home.default_suites),
        pinned_keys={a.nai: frozenset(a.pinned_keys) for a in agents} if pinned else None,
        care_of_prefixes={a.nai: tuple(map(IPv4Network, a.care_of)) for a in agents},
    )


def build_clients(config: HomeConfig) -> ClientTable:
    """The RADIUS clients; their secrets were read when the file was."""
    return ClientTable(
        Client(c.name, ip_network(c.address), c.secret_file, frozenset(c.realms))
        for c in config.client
    )


class HomeServer:
    """The home AAA with the home agent in its own process."""

    def __init__(self, config: HomeConfig, store: Store, counters: Counters) -> None:
        policy = build_policy(config)
        kdc = LocalKeyDistribution(store, KeyDistributionCenter(os.urandom))
        self.home_agent = HomeAgentService(
            policy, kdc, counters, keys=config.keys, overlap_s=config.home.overlap_s
        )
        self.radius = RadiusServer(build_clients(config), counters, self._on_requests)
        self._policy = policy
        self._answering = Answering(policy.vendor_id, counters)
        self._peers: dict[str, Peer] = {
            c.name: Peer(c.name, frozenset(c.realms)) for c in config.client
        }

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            try:
                self._on_request(transaction)
            except (MalformedPacket, RemoteError) as error:
                self._answering.answer(transaction, AccessReject(error.reply_code))
        self.home_agent.start_batches()

    def _on_request(self, transaction: Transaction) -> None:
        """Step 4; raises what is wrong with the request."""
        access = decode_access_request(transaction.request, self._policy.vendor_id)
        # Step 4
        admitted = admit(
            access,
            self._peers[transaction.client.name],
            realm=self._policy.realm,
            home_agents=frozenset({self._policy.address}),
        )
        if isinstance(admitted, AccessReject):
            self._answering.answer(transaction, admitted)
            return
        self.home_agent.submit(access, admitted.peer, partial(self._answering.answer, transaction))


async def serve_home(
    config: HomeConfig, *, stop: asyncio.Event, ready: Callable[[], None] | None = None
) -> None:
    """Serves until `stop`, then answers what it has taken in and returns.

    Raises `LocalError` (database, KEK, schema) before it has bound any address.
    """
    counters = Counters()
    async with Store.opened(
        config.database,
        entropy=os.urandom,
        overlap_s=config.home.overlap_s,
        dynamic_addresses=config.home.dynamic_addresses,
    ) as store:
        server = HomeServer(config, store, counters)
        try:
            server.home_agent.open()
            for address in config.home.listen:
                endpoint = server.radius.listen(split_address(address))
                log.info("listening", address=":".join(map(str, endpoint.address)))
            housekeeping = asyncio.create_task(keep_house(store, counters, log))
            if ready is not None:
                ready()
            try:
                await stop.wait()
                server.radius.stop_receiving()
                await server.home_agent.drain()
            finally:
                housekeeping.cancel()
        finally:
            server.radius.close()
            await server.home_agent.close()
            log.info("counters", **counters.snapshot())
