"""The process `aaa home`: home AAA, home agent and KDC in one, over RADIUS.

It loads, decides, commits and sends; every decision stands in a role.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network
from typing import Final

import structlog

from aaa.config import HomeConfig
from aaa.exchange import AccessReject, AccessResponse, Peer
from aaa.radius.attributes import decode_access_request, encode_access_response
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.roles.home_aaa import admit
from aaa.roles.home_agent import HomeAgent, HomeAgentPolicy, read_request
from aaa.serve.process import split_address
from aaa.serve.radius_server import RadiusServer, Transaction
from aaa.serve.registrar import Registrar
from aaa.serve.registrations import RegistrationPipeline, Work
from kdc.center import KeyDistributionCenter
from kdc.errors import RemoteError
from kdc.store import Store

SWEEP_EVERY_S: Final = 30.0
COUNTERS_EVERY_S: Final = 60.0
DENIALS: Final = "home.denials"  # one counter for each code: home.denials.131

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
        suites=tuple(home.default_suites),
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
    """Joins the RADIUS server to the registration pipeline."""

    def __init__(self, config: HomeConfig, store: Store, counters: Counters) -> None:
        self._policy = build_policy(config)
        self._counters = counters
        center = KeyDistributionCenter(os.urandom)
        registrar = Registrar(HomeAgent(self._policy), center, store.cui_key)
        self.pipeline = RegistrationPipeline(
            store, registrar, counters, maximum_lifetime_s=self._policy.maximum_lifetime_s
        )
        self.radius = RadiusServer(build_clients(config), counters, self._on_requests)
        self._peers: dict[str, Peer] = {
            c.name: Peer(c.name, frozenset(c.realms)) for c in config.client
        }

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            self._on_request(transaction)
        self.pipeline.start_batches()

    def _on_request(self, transaction: Transaction) -> None:
        """Steps 4 and 5.3's 0 and 1: everything that costs nothing but reading."""
        try:
            access = decode_access_request(transaction.request, self._policy.vendor_id)
        except MalformedPacket as error:
            self._answer(transaction, AccessReject(error.reply_code))
            return
        peer = self._peers[transaction.client.name]
        try:
            # Step 4
            admitted = admit(
                access,
                peer,
                realm=self._policy.realm,
                home_agents=frozenset({self._policy.address}),
            )
            if isinstance(admitted, AccessReject):
                self._answer(transaction, admitted)
                return
            structured = read_request(access, vendor_id=self._policy.vendor_id)
        except RemoteError as error:
            self._answer(transaction, AccessReject(error.reply_code))
            return
        self.pipeline.submit(
            Work(structured, peer, lambda response: self._answer(transaction, response))
        )

    def _answer(self, transaction: Transaction, response: AccessResponse | None) -> None:
        if response is None:
            transaction.forget()
            return
        if isinstance(response, AccessReject):
            self._counters.add(f"{DENIALS}.{response.code}")
        code, attributes = encode_access_response(response, self._policy.vendor_id)
        transaction.respond(code, attributes)


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
            for address in config.home.listen:
                endpoint = server.radius.listen(split_address(address))
                log.info("listening", address=":".join(map(str, endpoint.address)))
            housekeeping = asyncio.create_task(_keep_house(store, counters))
            if ready is not None:
                ready()
            try:
                await stop.wait()
                server.radius.stop_receiving()
                await server.pipeline.drain()
            finally:
                housekeeping.cancel()
        finally:
            server.radius.close()
            log.info("counters", **counters.snapshot())


async def _keep_house(store: Store, counters: Counters) -> None:
    """Sweeps what has expired and tells the counters, until cancelled."""
    elapsed_s = 0.0
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        elapsed_s += SWEEP_EVERY_S
        try:
            await store.sweep()
        except RemoteError:
            log.warning("sweep postponed: the database is not reachable")
        if elapsed_s >= COUNTERS_EVERY_S:
            elapsed_s = 0.0
            log.info("counters", **counters.snapshot())
