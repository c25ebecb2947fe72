"""The client side of RADIUS over UDP: one request out, retransmitted, one authentic response back.

What the attributes say is the caller's; where to send is decided before (no failover here).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aaa.net.observing import UNOBSERVED, Hop, Observer
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import BadAuthenticator, MalformedPacket, NoAnswer
from aaa.radius.packet import (
    Attributes,
    VerifiedResponse,
    decode,
    encode_request,
    proxy_states,
    verify_response,
)
from kdc.errors import Unavailable
from kdc.model import Secret

IDENTIFIERS: Final = 256  # a source port has no more requests outstanding (RFC 2865 §2.5)
MAXIMUM_SOURCE_SOCKETS: Final = 64  # to one server: 16,384 outstanding
_JITTER: Final = 0.1  # RFC 5080 §2.2.1, RAND: not all clients at once


@dataclass(frozen=True, slots=True)
class Server:
    """Where to send: a numeric (host, port), and when again, by RFC 5080 §2.2.1.

    After `timeout_s` (IRT) it is sent a second time, each further wait is twice the last one up
    to `maximum_timeout_s` (MRT), and there are at most 1 + retries sends (MRC).
    """

    address: Address
    timeout_s: float = 3.0
    retries: int = 3
    maximum_timeout_s: float = 16.0

    @property
    def deadline_s(self) -> float:
        """MRD where a caller names none: as long as sends without backoff would take."""
        return self.timeout_s * (1 + self.retries)


@dataclass(slots=True, eq=False)
class _Pending:
    octets: bytes  # the same for each retransmission
    proxy_states: tuple[bytes, ...]
    secret: Secret
    server: Server
    retries_left: int
    wait_s: float  # RT, the last one
    ends_at: float  # by the loop's clock
    answered: asyncio.Future[VerifiedResponse]
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Source:
    """One source socket toward one server, its identifiers taken longest-unused first."""

    endpoint: UdpEndpoint
    free: deque[int] = field(default_factory=lambda: deque(range(IDENTIFIERS)))
    pending: dict[int, _Pending] = field(default_factory=dict)


class RadiusClient:
    """Requests to any number of servers; further source sockets open as identifiers run out."""

    def __init__(
        self,
        counters: Counters,
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        bind_host: str | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._counters = counters
        self._entropy = entropy
        self._bind_host = bind_host
        self._observer = observer
        self._sources: dict[Address, list[_Source]] = {}

    async def exchange(
        self,
        code: int,
        attributes: Attributes,
        secret: Secret,
        server: Server,
        *,
        deadline_s: float | None = None,
    ) -> VerifiedResponse:
        """The authentic response to one request.

        Raises `NoAnswer` when `deadline_s`, or else the server's, has passed, `Unavailable` with
        too many outstanding, and `LocalError` for attributes that do not fit.  A response that does
        not verify, or whose Proxy-States are not those sent, is ignored and counted.  Cancelling
        frees the identifier.
        """
        loop = asyncio.get_running_loop()
        source = self._reserve(server.address)
        identifier = source.free.popleft()
        try:
            pending = _Pending(
                octets=encode_request(code, identifier, self._entropy(16), attributes, secret),
                proxy_states=proxy_states(attributes),
                secret=secret,
                server=server,
                retries_left=server.retries,
                wait_s=server.timeout_s * (1 + _rand()),
                ends_at=loop.time() + (server.deadline_s if deadline_s is None else deadline_s),
                answered=loop.create_future(),
            )
            source.pending[identifier] = pending
            self._counters.add(names.CLIENT_SENT)
            self._transmit(source, pending)
            return await pending.answered
        finally:
            self._release(source, identifier)

    def _reserve(self, address: Address) -> _Source:
        sources = self._sources.setdefault(address, [])
        for source in sources:
            if source.free:
                return source
        if len(sources) >= MAXIMUM_SOURCE_SOCKETS:
            raise Unavailable("too many requests outstanding")
        host = self._bind_host or ("::" if ":" in address[0] else "0.0.0.0")  # noqa: S104
        try:
            endpoint = UdpEndpoint.open(
                (host, 0), lambda batch: self._on_batch(source, address, batch)
            )
        except OSError:
            raise Unavailable("no source socket") from None
        source = _Source(endpoint)
        sources.append(source)
        return source

    def _release(self, source: _Source, identifier: int) -> None:
        pending = source.pending.pop(identifier, None)
        if pending is not None and pending.timer is not None:
            pending.timer.cancel()
        source.free.append(identifier)

    def _transmit(self, source: _Source, pending: _Pending) -> None:
        source.endpoint.send_many([(pending.octets, pending.server.address)])
        if self._observer.on:
            self._observer.packet(Hop("UDP", "", pending.server.address), pending.octets, "sent")
        loop = asyncio.get_running_loop()
        at = pending.ends_at
        if pending.retries_left:
            at = min(at, loop.time() + pending.wait_s)
        pending.timer = loop.call_at(at, self._on_timeout, source, pending)

    def _on_timeout(self, source: _Source, pending: _Pending) -> None:
        if pending.answered.done():
            return
        if not pending.retries_left or asyncio.get_running_loop().time() >= pending.ends_at:
            self._counters.add(names.CLIENT_NO_ANSWER)
            pending.answered.set_exception(NoAnswer("no authentic response"))
            return
        pending.retries_left -= 1
        pending.wait_s = _next_wait_s(pending.wait_s, pending.server.maximum_timeout_s)
        self._counters.add(names.CLIENT_RETRANSMITTED)
        self._transmit(source, pending)

    def _on_batch(self, source: _Source, server: Address, batch: list[Datagram]) -> None:
        for octets, address in batch:
            if address != server:
                self._counters.add(names.CLIENT_UNEXPECTED)
                continue
            self._on_response(source, octets, address)

    def _on_response(self, source: _Source, octets: bytes, address: Address) -> None:
        """The reply that is awaited, or one more that is ignored and counted."""
        try:
            packet = decode(octets, signed=False)
            pending = source.pending.get(packet.identifier)
            if pending is None or pending.answered.done():
                self._ignore(names.CLIENT_UNEXPECTED, octets, address)
                return
            response = verify_response(
                packet, pending.octets[4:20], pending.secret, request_code=pending.octets[0]
            )
        except MalformedPacket:
            self._ignore(names.CLIENT_MALFORMED, octets, address)
            return
        except BadAuthenticator:
            self._ignore(names.CLIENT_BAD_AUTHENTICATOR, octets, address)
            return
        if proxy_states(response.attributes) != pending.proxy_states:
            # A Proxy-State nobody sent is how CVE-2024-3596 moves octets into a response.
            self._ignore(names.CLIENT_UNEXPECTED, octets, address)
            return
        if self._observer.on:
            self._observer.packet(Hop("UDP", "", address), octets, "received")
        pending.answered.set_result(response)

    def _ignore(self, why: str, octets: bytes, address: Address) -> None:
        self._counters.add(why)
        self._observer.dropped(Hop("UDP", "", address), octets, why)

    def close(self) -> None:
        """Closes all sockets; requests outstanding end in `NoAnswer`."""
        for sources in self._sources.values():
            for source in sources:
                for pending in source.pending.values():
                    if not pending.answered.done():
                        pending.answered.set_exception(NoAnswer("closed"))
                source.endpoint.close()
        self._sources.clear()


def _rand() -> float:
    return random.uniform(-_JITTER, _JITTER)  # noqa: S311 - RFC 5080: need not be unforeseeable


def _next_wait_s(last_s: float, maximum_s: float) -> float:
    """RT = 2*RTprev + RAND*RTprev, or MRT + RAND*MRT where that is more than MRT."""
    wait_s = last_s * (2 + _rand())
    return wait_s if wait_s <= maximum_s else maximum_s * (1 + _rand())
