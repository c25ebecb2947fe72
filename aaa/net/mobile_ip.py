"""The mobile node's side of UDP 434 (RFC 5944 §3.6.1.2): one request out, replies in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aaa.net.udp import Address, Datagram, UdpEndpoint

_QUEUED_REPLIES = 64


class MobileIpSocket:
    """A socket toward one foreign agent; datagrams of anyone else are not seen."""

    def __init__(self, foreign_agent: Address) -> None:
        self._foreign_agent = foreign_agent
        self._replies: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_REPLIES)
        self._endpoint: UdpEndpoint | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, foreign_agent: Address, *, bind: Address | None = None
    ) -> AsyncIterator[MobileIpSocket]:
        """Raises `OSError` if no socket can be bound."""
        self = cls(foreign_agent)
        wildcard = "::" if ":" in foreign_agent[0] else "0.0.0.0"  # noqa: S104 - the route decides
        self._endpoint = UdpEndpoint.open(bind or (wildcard, 0), self._on_batch)
        try:
            yield self
        finally:
            self._endpoint.close()

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            if source == self._foreign_agent and not self._replies.full():
                self._replies.put_nowait(octets)

    def send(self, octets: bytes) -> None:
        assert self._endpoint is not None
        self._endpoint.send_many([(octets, self._foreign_agent)])

    async def receive(self, timeout_s: float) -> bytes | None:
        """The next datagram of the agent, or None after `timeout_s`."""
        try:
            return await asyncio.wait_for(self._replies.get(), timeout_s)
        except TimeoutError:
            return None


def resolve(host: str, port: int) -> Address:
    """A numeric address for a name; raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    address = found[0][4]
    return str(address[0]), int(address[1])
