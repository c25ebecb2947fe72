"""Requests to those who usually ask us: over the connection that a peer has opened, else by UDP.

Dynamic authorization goes this way (RFC 5176), from a home to a visited domain and from there to an
agent.  What is asked, and what becomes of no answer, is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.udp import Address
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import Attributes, VerifiedResponse
from kdc.model import Secret


class Connections(Protocol):
    """Those that peers have opened to us over TLS, by the peer's name."""

    def has_connection(self, peer_name: str) -> bool:
        """Whether one is open now."""

    async def exchange(
        self, peer_name: str, code: int, attributes: Attributes, *, deadline_s: float
    ) -> VerifiedResponse:
        """The authentic response; raises `NoAnswer` and `Unavailable`."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer takes requests by UDP, and the secret shared with it."""

    address: Address
    secret: Secret


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a peer has in all, and by UDP until the second send; `retries` follow the first."""

    deadline_s: float
    timeout_s: float
    retries: int


class PeerRequests:
    """Requests to peers by name; `addresses` may be replaced at any time.

    `visitors` are the names of peers that may open `connections`.
    """

    def __init__(
        self,
        addresses: Mapping[str, PeerAddress],
        counters: Counters,
        patience: Patience,
        *,
        connections: Connections | None = None,
        visitors: frozenset[str] = frozenset(),
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.addresses = addresses
        self._patience = patience
        self._connections = connections
        self._visitors = visitors
        self._client = RadiusClient(counters, observer=observer)

    def reaches(self, peer_name: str) -> bool:
        """Whether there is a way to a peer now."""
        return self._is_connected(peer_name) or peer_name in self.addresses

    def _is_connected(self, peer_name: str) -> bool:
        return self._connections is not None and self._connections.has_connection(peer_name)

    def may_reach(self, peer_name: str) -> bool:
        """Whether there may be a way to a peer, now or later."""
        return peer_name in self._visitors or peer_name in self.addresses

    async def exchange(self, peer_name: str, code: int, attributes: Attributes) -> VerifiedResponse:
        """The authentic response of a peer.

        Raises `NoAnswer` after all retransmissions and where there is no way, `Unavailable` with
        too many outstanding, and `LocalError` for attributes that do not fit.
        """
        if self._connections is not None and self._connections.has_connection(peer_name):
            return await self._connections.exchange(
                peer_name, code, attributes, deadline_s=self._patience.deadline_s
            )
        peer = self.addresses.get(peer_name)
        if peer is None:
            raise NoAnswer("no way to the peer")
        server = Server(peer.address, self._patience.timeout_s, self._patience.retries)
        return await self._client.exchange(
            code, attributes, peer.secret, server, deadline_s=self._patience.deadline_s
        )

    def close(self) -> None:
        """Requests outstanding by UDP end in `NoAnswer`."""
        self._client.close()
