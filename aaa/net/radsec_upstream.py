"""One server of a RADIUS client over TLS: its connections, opened, judged, kept and opened again.

Which server a request goes to is aaa.net.radsec_client's affair.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from aaa.net.limited_log import LimitedLog
from aaa.net.packet_connection import SHUTDOWN_S
from aaa.net.radsec_link import Link, Request
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.tls import TlsContexts
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.ports import DYNAMIC_AUTHORIZATION
from aaa.radius.tls_peers import TlsPeer
from kdc.crypto.certificates import CertificateRefused

_STABLE_S: Final = 5.0  # a connection that has served so long was no failed attempt
_MAXIMUM_DOUBLINGS: Final = 32

log = structlog.get_logger("aaa.radsec")


@dataclass(frozen=True, slots=True)
class RadsecTarget:
    """A server: who its certificate must say it is, and where it is, by name or number."""

    peer: TlsPeer
    address: Address


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long the client waits for what, and how much it holds."""

    deadline_s: float = 8.0  # of a request, however often it is sent
    connect_s: float = 2.0  # TCP and the handshake
    backoff_s: float = 0.1  # before a second attempt; doubled for each further one
    backoff_maximum_s: float = 30.0
    connections: int = 4  # to one server, each with 255 requests
    waiting: int = 4096  # requests that no connection has taken yet


class Dispatcher(Protocol):
    """Who has requests for the connections."""

    on_requests: Callable[[list[RadsecTransaction]], None] | None

    def on_room(self) -> None:
        """A request that waits may find a connection now, or has to look for another server."""

    def on_suspect(self, upstream: Upstream) -> None:
        """A connection owes responses and has not said anything for too long."""

    def on_unanswered(self, requests: list[Request]) -> None:
        """Their connection is closed."""


class Upstream:
    """The connections to one target.  Once demanded, one is kept: lost, it is opened again."""

    def __init__(
        self,
        target: RadsecTarget,
        dispatcher: Dispatcher,
        contexts: TlsContexts,
        counters: Counters,
        limits: ClientLimits,
        make_link: Callable[[Upstream, TlsContexts], Link],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._dispatcher = dispatcher
        self._contexts = contexts
        self._counters = counters
        self._limits = limits
        self._make_link = make_link
        self._links: list[Link] = []
        self._opening: asyncio.Task[None] | None = None
        self._failures = 0  # since a connection last served for `_STABLE_S`
        self._not_before = 0.0
        self._closing = False
        self._limited = LimitedLog(log)

    @property
    def links(self) -> list[Link]:
        return self._links

    @property
    def peer(self) -> TlsPeer:
        return self._target.peer

    @property
    def requests_taken(self) -> frozenset[int]:
        nobody = self._dispatcher.on_requests is None or self._closing
        return frozenset() if nobody else DYNAMIC_AUTHORIZATION.requests

    def on_requests(self, transactions: list[RadsecTransaction]) -> None:
        assert self._dispatcher.on_requests is not None
        self._dispatcher.on_requests(transactions)

    @property
    def healthy(self) -> list[Link]:
        """Connections that serve, whether or not they have room."""
        return [each for each in self._links if each.usable and each.is_open and not each.suspect]

    @property
    def hopeful(self) -> bool:
        """Whether it is worth to wait for it: it is being reached and has not failed of late."""
        return self._failures == 0 and (self._opening is not None or self._is_greeting())

    def _is_greeting(self) -> bool:
        return any(each.is_open and not each.usable for each in self._links)

    def demand(self) -> None:
        """Opens a connection, if one more may be and none is on its way."""
        if self._closing or self._opening is not None or self._is_greeting():
            return
        if sum(not each.retired for each in self._links) < self._limits.connections:
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        """One attempt, not before its time; `on_lost` or a failure here leads to the next."""
        await asyncio.sleep(self._not_before - self._loop.time())
        contexts = self._contexts
        host, port = self._target.address
        dns_names = (each for each in self._target.peer.names if isinstance(each, str))
        failed = False
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await self._loop.create_connection(
                    lambda: self._make_link(self, contexts),
                    host,
                    port,
                    ssl=contexts.client,
                    server_hostname=min(dns_names, default=""),
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
        except OSError:  # refused, no such name, no handshake, or too late
            self._counters.add(names.RADSEC_CLIENT_FAILED)
            self._back_off()
            failed = True
        self._opening = None
        if failed or not self._links:  # it may have been lost before we came here
            self.demand()
            self._dispatcher.on_room()

    def _back_off(self) -> None:
        """The next attempt between half of the interval and all of it; twice that the next time."""
        interval_s = min(
            self._limits.backoff_s * 2.0**self._failures, self._limits.backoff_maximum_s
        )
        self._failures = min(self._failures + 1, _MAXIMUM_DOUBLINGS)
        self._not_before = self._loop.time() + interval_s * random.uniform(0.5, 1)  # noqa: S311

    def admit(self, link: Link) -> bool:
        """Whether the certificate has a name of the server that is meant (RFC 6614 §2.3)."""
        if self._closing:
            return False
        refused = self._refusal(link)
        if refused is not None:
            self._counters.add(refused)
            name = self._target.peer.name
            self._limited.tell(
                "server refused",
                name,
                reason=refused,
                address=link.address[0],
                names=link.names_shown,
            )
            return False
        self._links.append(link)
        self._counters.add(names.RADSEC_CLIENT_OPENED)
        return True

    def _refusal(self, link: Link) -> str | None:
        """Which counter says why a connection is not used; None where it is."""
        if not link.agreed:
            return names.RADSEC_CLIENT_NO_VERSION
        if link.is_our_own(self._contexts):
            return names.RADSEC_CLIENT_SELF
        return None if self._is_meant(link) else names.RADSEC_CLIENT_WRONG_NAME

    def _is_meant(self, link: Link) -> bool:
        name = self._target.peer.matches(link.certificate.names)
        if name is None or link.resumed:
            return False
        if link.contexts is not self._contexts:
            try:
                link.certificate.check_server(self._contexts.trust, name)
            except CertificateRefused:
                return False
        return True

    def on_room(self) -> None:
        self._dispatcher.on_room()

    def on_suspect(self) -> None:
        self._dispatcher.on_suspect(self)

    def on_lost(self, link: Link, unanswered: list[Request]) -> None:
        self._counters.add(names.RADSEC_CLIENT_LOST)
        if link in self._links:
            self._links.remove(link)
        since = link.usable_since
        if since is not None and self._loop.time() - since >= _STABLE_S:
            self._failures = 0
        self._back_off()
        if not self.healthy:
            self.demand()
        self._dispatcher.on_unanswered(unanswered)
        self._dispatcher.on_room()

    def reload(self, contexts: TlsContexts) -> None:
        self._contexts = contexts
        for link in list(self._links):
            if self._refusal(link) is not None:
                self._counters.add(names.RADSEC_CLIENT_REVOKED)
                link.abort()

    async def close(self) -> None:
        self._closing = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in list(self._links)))
