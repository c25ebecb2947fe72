"""What a foreign AAA does beside registrations: accounting to the homes, and requests from them.

Only what joins the parts to the configuration; each of them stands in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

import structlog

from aaa.config import ForeignConfig
from aaa.config.foreign import HomeServer
from aaa.exchange import Peer
from aaa.net.mobile_ip import resolve
from aaa.net.observing import Observer
from aaa.proxying import Route
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.ports import ACCOUNTING, DYNAMIC_AUTHORIZATION
from aaa.roles.foreign_aaa import Agent
from aaa.roles.foreign_aaa_dynauth import VisitedDomain
from aaa.serve.client_policy import secrets_of
from aaa.serve.configured_pools import home_pools, hop_to, realm_table
from aaa.serve.door import Door
from aaa.serve.foreign_accounting import AccountingProxy, accounting_name
from aaa.serve.foreign_dynauth import DynamicAuthorizationProxy
from aaa.serve.forwarding import Forwarder
from aaa.serve.peer_requests import Patience, PeerAddress, PeerRequests
from aaa.serve.pools import Pools, TimedPool, open_pools
from aaa.serve.process import split_address
from aaa.serve.radius_front import RadiusFront
from aaa.serve.radius_server import RadiusServer
from aaa.serve.radsec import TlsServers
from kdc.errors import LocalError

# Shorter than what our own home has for us (aaa.serve.home_dynauth), so that it asks again.
AGENT_PATIENCE: Final = Patience(deadline_s=2.5, timeout_s=0.5, retries=2)

log = structlog.get_logger("aaa.foreign")

FindRoute = Callable[[str], Route | None]


class ForeignServices:
    """Beside the server of Access-Requests, with the same clients."""

    def __init__(
        self,
        config: ForeignConfig,
        clients: Mapping[str, Agent | Peer],
        front: RadiusFront,
        over_tls: TlsServers,
        door: Door,
        counters: Counters,
    ) -> None:
        """Before `front` is reached over TLS; raises `LocalError`."""
        self._config = config
        self._front = front
        find_route = route_finder(config)
        self._accounting = AccountingProxy(
            clients,
            find_route,
            all_routes(config),
            Forwarder(
                _accounting_pools(config, over_tls, door.observer, counters),
                counters,
                "foreign.accounting",
                door,
            ),
            realm=config.foreign.realm,
            vendor_id=config.foreign.vendor_id,
        )
        addresses = {
            c.name: PeerAddress(resolve(*split_address(c.dynamic_authorization)), secrets_of(c))
            for c in config.client
            if c.dynamic_authorization is not None and secrets_of(c)
        }
        self._dynauth = DynamicAuthorizationProxy(
            VisitedDomain(
                config.foreign.realm,
                tuple(c for c in clients.values() if isinstance(c, Agent)),
                tuple(c for c in clients.values() if isinstance(c, Peer)),
            ),
            lambda server, realm: _is_home(find_route(realm), server),
            PeerRequests(
                addresses,
                counters,
                AGENT_PATIENCE,
                connections=front,
                visitors=frozenset(c.name for c in config.client if c.san),
                observer=door.observer,
            ),
            counters,
            vendor_id=config.foreign.vendor_id,
            observer=door.observer,
        )
        front.serve(ACCOUNTING, self._accounting.on_requests)
        over_tls.take_requests(self._dynauth.on_requests)
        self._from_homes = RadiusServer(
            asking_homes(config),
            counters,
            self._dynauth.on_requests,
            port=DYNAMIC_AUTHORIZATION,
            observer=door.observer,
        )

    def listen(self) -> None:
        """Raises `OSError` if an address cannot be bound."""
        foreign = self._config.foreign
        for address in foreign.accounting_listen:
            endpoint = self._front.listen(split_address(address), ACCOUNTING)
            log.info(ACCOUNTING.name, address=":".join(map(str, endpoint.address)))
        for address in foreign.dynamic_authorization_listen:
            endpoint = self._from_homes.listen(split_address(address))
            log.info(DYNAMIC_AUTHORIZATION.name, address=":".join(map(str, endpoint.address)))

    async def drain(self) -> None:
        """Takes nothing more in, and waits for what is under way."""
        self._from_homes.stop_receiving()
        await self._accounting.drain()
        await self._dynauth.drain()

    def close(self) -> None:
        self._accounting.close()
        self._dynauth.close()
        self._from_homes.close()


def all_routes(config: ForeignConfig) -> tuple[Route, ...]:
    """The ways to all homes; servers that have several pools to themselves count once."""
    routes = {
        each.pool.members: Route(each.pool.name, each.pool.members) for each in home_pools(config)
    }
    return tuple(routes.values())


def route_finder(config: ForeignConfig) -> FindRoute:
    """The way of a lowered realm; raises `LocalError`."""
    realms = realm_table(config)
    routes = {
        each.pool.name: Route(each.pool.name, each.pool.members) for each in home_pools(config)
    }

    def find(realm: str) -> Route | None:
        pool = realms.find(realm)
        return None if pool is None else routes[pool]

    return find


def _is_home(route: Route | None, server: str) -> bool:
    return route is not None and server in route.servers


def _accounting_pools(
    config: ForeignConfig, over_tls: TlsServers, observer: Observer, counters: Counters
) -> Pools:
    """The pools of the homes at their accounting ports: judged apart, as these may fail alone."""
    if not config.foreign.accounting_listen and not config.foreign.tls_listen:
        return open_pools({}, (), counters)
    return open_pools(
        {
            accounting_name(item.name): hop_to(item, accounting_address(item), over_tls)
            for item in config.home_server
        },
        map(_accounting_pool, home_pools(config)),
        counters,
        observer,
    )


def _accounting_pool(timed: TimedPool) -> TimedPool:
    pool = timed.pool
    members = tuple(map(accounting_name, pool.members))
    return replace(timed, pool=replace(pool, members=members))


def accounting_address(server: HomeServer) -> str:
    """The configured one, else the next port: 1813 beside 1812 (RFC 2866 §3)."""
    if server.accounting is not None:
        return server.accounting
    host, _, port = server.address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def asking_homes(config: ForeignConfig) -> ClientTable:
    """The home servers as clients of dynamic authorization; raises `LocalError`.

    Servers at one address are one party, each with its own secret: they must have the same realms.
    """
    if not config.foreign.dynamic_authorization_listen:
        return ClientTable(())
    pools = {
        item.name: {each.pool.name for each in home_pools(config) if item.name in each.pool.members}
        for item in config.home_server
    }
    found: dict[str, Client] = {}
    for item in config.home_server:
        if item.secret_file is None:
            continue  # its requests come back over our connection
        host = resolve(*split_address(item.address))[0]
        first = found.get(host)
        if first is None:
            found[host] = Client(item.name, ip_network(host), (item.secret_file,))
            continue
        if pools[first.name] != pools[item.name]:
            raise LocalError(
                f"home_server {first.name} and {item.name}: expected the same realms of two servers"
                " at one address, where dynamic_authorization_listen is set"
            )
        found[host] = replace(first, secrets=(*first.secrets, item.secret_file))
    return ClientTable(found.values())
