"""foreign.toml: a foreign AAA, its foreign agents and the homes that it knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from aaa.config.clients import LimitedClient, RejectDelay
from aaa.config.fields import (
    Addresses,
    AnyAddress,
    FaNai,
    Realms,
    SocketAddress,
    VendorId,
)
from aaa.config.servers import Deadline, HopServer
from aaa.config.tls import Listening, TlsSettings, check_servers, check_ways
from aaa.policy import NotEmpty
from aaa.radius.routing import parse_pattern
from kdc.config import LogSettings, Realm, StrictModel, Text, parser_of
from kdc.model import DEFAULT_VENDOR_ID

RoutedRealm = Annotated[
    str, parser_of(parse_pattern, 'a realm, such as home.example, a suffix, ".example", or "*"')
]


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("expected each of them once")
    return names


class ForeignSection(Listening):
    """[foreign]; `deadline_s` is shorter than the time after which clients ask again."""

    realm: Realm
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    deadline_s: Deadline = 2.5
    accounting_listen: Addresses = ()
    dynamic_authorization_listen: Addresses = ()
    reject_delay_s: RejectDelay = 1.0


class ForeignClient(LimitedClient):
    """[[client]] of foreign.toml: a foreign agent and all that it may say it is, or a proxy.

    A proxy before us has `realms`, those that it may speak for, and none of the other three.  One
    client is not to take what the others need of us and of the homes: 500 a second is what 30,000
    nodes do that come back each minute.
    """

    requests_per_second: float = Field(default=500, ge=0, le=1_000_000)
    fa_nai: FaNai | None = None
    nas_address: AnyAddress | None = None
    nas_identifier: Text | None = None
    realms: Realms | None = None

    @model_validator(mode="after")
    def _is_agent_or_proxy(self) -> Self:
        identity = (self.fa_nai, self.nas_address, self.nas_identifier)
        if identity.count(None) != (0 if self.realms is None else len(identity)):
            raise ValueError(
                "expected fa_nai, nas_address and nas_identifier of a foreign agent, or realms"
                " alone of a proxy"
            )
        return self


class HomeServer(HopServer):
    """[[home_server]] of foreign.toml; `realms` spares a [[pool]] of its own.

    Several servers with the same realm stand in for each other in the order of the file.
    """

    address: SocketAddress
    accounting: SocketAddress | None = None  # None: the next port
    realms: Annotated[tuple[RoutedRealm, ...], AfterValidator(_each_once)] = ()


class HomePool(StrictModel):
    """[[pool]] of foreign.toml: servers that can stand in for each other."""

    name: Text
    servers: Annotated[tuple[Text, ...], NotEmpty, AfterValidator(_each_once)]
    realms: Annotated[tuple[RoutedRealm, ...], NotEmpty, AfterValidator(_each_once)]
    strategy: Literal["failover", "consistent-hash"] = "failover"
    deadline_s: Deadline | None = None  # None: that of [foreign]


class ForeignConfig(StrictModel):
    """foreign.toml."""

    foreign: ForeignSection
    tls: TlsSettings | None = None
    client: tuple[ForeignClient, ...] = ()
    home_server: tuple[HomeServer, ...] = ()
    pool: tuple[HomePool, ...] = ()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        check_ways(self.foreign, self.tls, self.client)
        check_servers(self.tls, self.home_server)
        return self

    @model_validator(mode="after")
    def _has_whole_pools(self) -> Self:
        servers = {server.name for server in self.home_server}
        named = {name for pool in self.pool for name in pool.servers}
        _check_names("home_server", (server.name for server in self.home_server))
        _check_names("pool", (pool.name for pool in self.pool))
        for pool in self.pool:
            for name in pool.servers:
                if name not in servers:
                    raise ValueError(f"expected {name} of pool {pool.name} as a [[home_server]]")
        for server in self.home_server:
            if not server.realms and server.name not in named:
                raise ValueError(
                    f"expected realms of home_server {server.name}, or a [[pool]] that names it"
                )
        by_server = {realm for server in self.home_server for realm in server.realms}
        routes = Counter(realm for pool in self.pool for realm in pool.realms) + Counter(by_server)
        for realm, count in routes.items():
            if count > 1:
                raise ValueError(
                    f"expected {realm} in one [[pool]], or as a realm of [[home_server]] alone"
                )
        return self


def _check_names(section: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"expected each {section} to have a name of its own: {name}")
