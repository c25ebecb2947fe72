"""What a configured RADIUS client becomes: who may sign, and how much it may ask."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from aaa.config.clients import LimitedClient
from aaa.radius.admission import RateLimit, RateLimits
from aaa.radius.clients import Client
from aaa.radius.counters import Counters
from aaa.serve.door import Door
from aaa.serve.watch import Watch
from kdc.model import Secret


def build_client(client: LimitedClient, realms: frozenset[str] = frozenset()) -> Client | None:
    """By UDP, or None for one that comes over TLS alone; its secrets were read when the file was.

    Raises `LocalError` for a secret that is not fit.
    """
    if client.by_udp is None:
        return None
    network, _ = client.by_udp
    return Client(
        client.name,
        ip_network(network),
        secrets_of(client),
        realms,
        require_message_authenticator=client.require_message_authenticator,
    )


def secrets_of(client: LimitedClient) -> tuple[Secret, ...]:
    """Those by UDP, the current one first; none where it comes over TLS alone."""
    both = (client.secret_file, client.previous_secret_file)
    return tuple(secret for secret in both if secret is not None)


def build_clients(clients: Iterable[LimitedClient]) -> list[Client]:
    """Those that may come by UDP; raises `LocalError`."""
    return [client for each in clients if (client := build_client(each)) is not None]


def limit_of(requests_per_second: float, burst: int | None = None) -> RateLimit:
    """A burst that is not given is what comes in two seconds."""
    return RateLimit(requests_per_second, burst or max(1, round(2 * requests_per_second)))


def build_limits(clients: Iterable[LimitedClient]) -> dict[str, RateLimit]:
    """The limits of those that have one, by name."""
    return {
        client.name: limit_of(client.requests_per_second, client.burst)
        for client in clients
        if client.requests_per_second
    }


def build_door(
    clients: Iterable[LimitedClient], counters: Counters, watch: Watch, reject_delay_s: float
) -> Door:
    """What stands before those who answer, with the limits of `clients`."""
    return Door(
        counters,
        limits=RateLimits(build_limits(clients)),
        reject_delay_s=reject_delay_s,
        observer=watch,
    )
