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
    """Where a peer takes requests by UDP, and the secrets shared with it.

    `secrets` has the current one first: two during a rotation, of which the peer may know but one.
    """

    address: Address
    secrets: tuple[Secret, ...]


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
        self._unanswered: dict[str, Secret] = {}  # by peer, what it left unanswered last

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

        By UDP, what was not answered under one secret is followed by the other of a rotation.
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
        secret = self._secret_of(peer_name, peer)
        try:
            return await self._client.exchange(
                code, attributes, secret, server, deadline_s=self._patience.deadline_s
            )
        except NoAnswer:
            # RFC 2865 §3: whoever does not know the secret is silent.
            self._unanswered[peer_name] = secret
            raise

    def _secret_of(self, peer_name: str, peer: PeerAddress) -> Secret:
        """The current one, but for the one after it where a peer was last silent to it."""
        unanswered = self._unanswered.get(peer_name)
        if unanswered is None or unanswered not in peer.secrets:
            return peer.secrets[0]
        return peer.secrets[(peer.secrets.index(unanswered) + 1) % len(peer.secrets)]

    def close(self) -> None:
        """Requests outstanding by UDP end in `NoAnswer`."""
        self._client.close()
