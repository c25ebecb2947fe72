"""What a configured RADIUS client becomes: who may sign, and how much it may ask."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from aaa.config.clients import RadiusClient
from aaa.radius.admission import RateLimit, RateLimits
from aaa.radius.clients import Client
from aaa.radius.counters import Counters
from aaa.serve.door import Door
from aaa.serve.watch import Watch


def build_client(client: RadiusClient, realms: frozenset[str] = frozenset()) -> Client:
    """Its secrets were read when the file was.  Raises `LocalError` for one that is not fit."""
    previous = client.previous_secret_file
    return Client(
        client.name,
        ip_network(client.address),
        (client.secret_file,) if previous is None else (client.secret_file, previous),
        realms,
        require_message_authenticator=client.require_message_authenticator,
    )


def build_limits(clients: Iterable[RadiusClient]) -> RateLimits:
    """The limits of those that have one, by name."""
    return RateLimits(
        {
            client.name: RateLimit(
                client.requests_per_second,
                client.burst or max(1, round(2 * client.requests_per_second)),
            )
            for client in clients
            if client.requests_per_second
        }
    )


def build_door(
    clients: Iterable[RadiusClient], counters: Counters, watch: Watch, reject_delay_s: float
) -> Door:
    """What stands before those who answer, with the limits of `clients`."""
    return Door(
        counters, limits=build_limits(clients), reject_delay_s=reject_delay_s, observer=watch
    )
