"""What a home side's configuration becomes for its roles: policy, clients, peers."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from aaa.config.home import (
    ANY_REALM,
    HomeAgentClient,
    HomeAgentPolicySection,
    HomeClient,
    KnownForeignAgent,
)
from aaa.exchange import Peer
from aaa.policy import HomeNegotiation
from aaa.radius.clients import Client, ClientTable
from aaa.roles.home_agent import HomeAgentPolicy
from aaa.serve.client_policy import build_client
from kdc.model import Nai

Clients = Iterable[HomeClient | HomeAgentClient]


def build_policy(
    section: HomeAgentPolicySection,
    identity: tuple[Nai, IPv4Address],
    agents: Iterable[KnownForeignAgent],
    negotiation: HomeNegotiation,
) -> HomeAgentPolicy:
    """The policy of the home agent with this name and address."""
    known = tuple(agents)
    pinned = section.fa_key_trust == "pinned"
    nai, address = identity
    return HomeAgentPolicy(
        address=address,
        nai=nai,
        realm=section.realm,
        vendor_id=section.vendor_id,
        maximum_lifetime_s=section.maximum_lifetime_s,
        window_s=section.window_s,
        registrations_per_minute=section.registrations_per_minute,
        terms=negotiation.build_terms(section.default_suites),
        pinned_keys={a.nai: frozenset(a.pinned_keys) for a in known} if pinned else None,
        care_of_prefixes={a.nai: tuple(map(IPv4Network, a.care_of)) for a in known},
    )


def build_clients(clients: Clients) -> ClientTable:
    """The RADIUS clients by UDP; their secrets were read when the file was."""
    return ClientTable(udp_clients(clients))


def udp_clients(clients: Clients) -> list[Client]:
    """Those that may come by UDP; raises `LocalError`."""
    return [client for c in clients if (client := build_client(c, frozenset(c.realms))) is not None]


def build_peers(clients: Clients) -> dict[str, Peer]:
    """What each client may speak for, by its name."""
    return {
        c.name: Peer(c.name, frozenset(c.realms) - {ANY_REALM}, any_realm=ANY_REALM in c.realms)
        for c in clients
    }
