"""From what an operator wrote about servers to what pools take: next hops, pools, realms."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from aaa.config import ForeignConfig
from aaa.config.home import HomeAgentServer
from aaa.config.servers import UdpServer
from aaa.net.mobile_ip import resolve
from aaa.net.radius_client import Server
from aaa.radius.pools import HealthPolicy, Pool, Strategy
from aaa.radius.routing import RealmTable
from aaa.serve.pools import NextHop, TimedPool
from aaa.serve.process import split_address


def udp_hop(server: UdpServer, address: str) -> tuple[NextHop, HealthPolicy]:
    """Where the server is, looked up now, and how it is watched; raises `LocalError`."""
    where = Server(resolve(*split_address(address)), server.timeout_s, server.retries)
    policy = HealthPolicy(
        status_server=server.status_server,
        probe_interval_s=server.probe_interval_s,
        revive_after_s=server.revive_after_s,
    )
    return NextHop(where, server.secret_file), policy


def home_pools(config: ForeignConfig) -> tuple[TimedPool, ...]:
    """The pools of the file, and one for each realm that stands beside its servers."""
    default_s = config.foreign.deadline_s
    written = [
        TimedPool(
            Pool(item.name, item.servers, Strategy(item.strategy)),
            default_s if item.deadline_s is None else item.deadline_s,
        )
        for item in config.pool
    ]
    short = [
        TimedPool(Pool(_short_name(realm), members), default_s)
        for realm, members in _servers_by_realm(config).items()
    ]
    return (*written, *short)


def realm_table(config: ForeignConfig) -> RealmTable:
    """Which of `home_pools` a realm has; raises `LocalError`."""
    written = [(realm, item.name) for item in config.pool for realm in item.realms]
    return RealmTable(
        [*written, *((realm, _short_name(realm)) for realm in _servers_by_realm(config))]
    )


def _servers_by_realm(config: ForeignConfig) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for server in config.home_server:
        for realm in server.realms:
            found[realm] = (*found.get(realm, ()), server.name)
    return found


def _short_name(realm: str) -> str:
    return f"the servers of {realm}"


def agent_pools(
    agents: Iterable[HomeAgentServer], deadline_s: float
) -> dict[IPv4Address, TimedPool]:
    """One pool for each home agent: those of one address, in the order of the file."""
    members: dict[IPv4Address, tuple[str, ...]] = {}
    for agent in agents:
        members[agent.address] = (*members.get(agent.address, ()), agent.name)
    return {
        address: TimedPool(Pool(str(address), names), deadline_s)
        for address, names in members.items()
    }
