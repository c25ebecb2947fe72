"""One connection of a RADIUS client over TLS: its requests, the watchdog, what the server asks.

Which of several connections a request takes is aaa.net.radsec_client's affair.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from aaa.net.identifiers import Identifiers, identifiers_of
from aaa.net.observing import UNOBSERVED, Hop, Observer
from aaa.net.packet_connection import PacketConnection
from aaa.net.radsec_transactions import Incoming, RadsecTransaction
from aaa.net.tls import TlsContexts
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    RESPONSES,
    STATUS_SERVER,
    Attributes,
    Packet,
    VerifiedResponse,
    proxy_states,
)
from aaa.radius.tls_peers import TlsPeer

# So many requests given up without any response, and a connection takes no more: their identifiers
# are not free, or a late response would be taken for another request's.
RETIRED_AT: Final = 128
REQUESTS_IN_FLIGHT: Final = 256  # of the server's own; more are dropped
_PACKETS_A_TURN: Final = 1 << 16  # all that are there
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Watchdog:
    """When a connection is asked whether it lives (RFC 3539 §3.4, by Status-Server)."""

    idle_s: float = 30.0  # nothing has come for so long
    owed_s: float = 2.0  # a response is owed and nothing has come for so long
    answer_s: float = 2.0  # how long it may take to answer before it is closed


@dataclass(slots=True, eq=False)
class Request:
    """One request of a caller, wherever it is on its way."""

    code: int
    attributes: Attributes = field(repr=False)  # secrets, on the hop to a KDC
    proxy_states: tuple[bytes, ...] = field(repr=False)
    answered: asyncio.Future[VerifiedResponse]
    sends_left: int = 2  # once, and once more after the first connection has died
    link: Link | None = None  # on which it was sent and is not answered
    identifier: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    code: int
    authenticator: bytes
    request: Request | None  # None: the watchdog's, or given up


class LinkOwner(Protocol):
    """Who is told what becomes of a link."""

    @property
    def peer(self) -> TlsPeer:
        """The server at the other end."""

    @property
    def requests_taken(self) -> frozenset[int]:
        """Codes of the server's own requests that `on_requests` gets; others are passed over."""

    def on_requests(self, transactions: list[RadsecTransaction]) -> None:
        """Verified requests that the server has sent (draft-ietf-radext-reverse-coa)."""

    def admit(self, link: Link) -> bool:
        """After the handshake: whether it is the server that was meant."""

    def on_room(self) -> None:
        """It takes requests now, or may take another one."""

    def on_suspect(self) -> None:
        """It owes responses and has not said anything for too long."""

    def on_lost(self, link: Link, unanswered: list[Request]) -> None:
        """It is closed, and these requests have no response."""


class Link(PacketConnection):
    """One connection to one server; it takes requests once a first Status-Server is answered.

    In TLS 1.3 the handshake ends before the server has looked at our certificate: without that
    first answer a server that refuses us would eat requests.
    """

    def __init__(
        self,
        owner: LinkOwner,
        contexts: TlsContexts,
        counters: Counters,
        watchdog: Watchdog,
        entropy: Callable[[int], bytes],
        observer: Observer = UNOBSERVED,
    ) -> None:
        super().__init__(contexts)
        self._owner = owner
        self._counters = counters
        self._watchdog = watchdog
        self._entropy = entropy
        self._observer = observer
        self._idle_s = watchdog.idle_s * (1 + random.uniform(-_JITTER, _JITTER))  # noqa: S311
        self._identifiers: Identifiers = identifiers_of(self.form, entropy, has_watchdog=True)
        self._incoming = Incoming(counters)
        self._sent: dict[int, _Sent] = {}
        self._given_up = 0
        self._asked_at: float | None = None  # when a watchdog was sent that is not answered
        self._asked_as: int | None = None  # its identifier
        self._owed_since: float | None = None
        self._is_unread = False  # the server leaves what we send where it is
        self._ticker: asyncio.TimerHandle | None = None
        self.usable_since: float | None = None
        self.suspect = False

    @property
    def usable(self) -> bool:
        return self.usable_since is not None

    @property
    def pending(self) -> int:
        """Requests that somebody waits for."""
        return len(self._sent) - self._given_up - (self._asked_as is not None)

    @property
    def retired(self) -> bool:
        return self._given_up >= RETIRED_AT

    @property
    def takes_requests(self) -> bool:
        return self.usable and self._identifiers.has_room and not self.retired and self.is_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._owner.admit(self):
            self.abort()
            return
        self._identifiers = identifiers_of(self.form, self._entropy, has_watchdog=True)
        self._ask()
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._ticker is not None:
            self._ticker.cancel()
        unanswered = [sent.request for sent in self._sent.values() if sent.request is not None]
        self._sent.clear()
        for request in unanswered:
            request.link = None
        self._owner.on_lost(self, unanswered)

    def transmit(self, request: Request) -> None:
        """Sends it under an identifier of this connection; only while `takes_requests`."""
        identifier = self._identifiers.take()
        octets = self._write(request.code, identifier, request.attributes, request)
        request.link, request.identifier = self, identifier
        request.sends_left -= 1
        if self._owed_since is None:
            self._owed_since = self._loop.time()
        self._counters.add(names.CLIENT_SENT)
        self._put(octets)

    def _put(self, octets: bytes) -> None:
        self.send(octets)
        self._show(octets, "sent")

    def _show(self, octets: bytes, what: str) -> None:
        if self._observer.on:
            self._observer.packet(self._hop, octets, what)

    @property
    def _hop(self) -> Hop:
        return Hop("TLS", self._owner.peer.name, self.address)

    def _write(
        self, code: int, identifier: int, attributes: Attributes, request: Request | None
    ) -> bytes:
        octets = self.form.encode_request(code, identifier, attributes, self._entropy)
        self._sent[identifier] = _Sent(code, octets[4:20], request)
        return octets

    def give_up(self, request: Request) -> None:
        """Nobody waits for it any more; its identifier stays taken until its response comes."""
        request.link = None
        sent = self._sent[request.identifier]
        self._sent[request.identifier] = _Sent(sent.code, sent.authenticator, None)
        self._given_up += 1
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self.retired and not self.pending:
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        requests: list[RadsecTransaction] = []
        try:
            for octets in self._stream.take(_PACKETS_A_TURN):
                packet = self.form.decode(octets, signed=False)
                if packet.code in self._owner.requests_taken:
                    requests += self._begin(packet)
                elif packet.code in RESPONSES:
                    self._on_response(packet)
                else:
                    self._counters.add(names.UNSUPPORTED)
            if requests:
                self._owner.on_requests(requests)
        except MalformedPacket:
            self._drop(names.CLIENT_MALFORMED)
        except BadAuthenticator:
            self._drop(names.CLIENT_BAD_AUTHENTICATOR)

    def _drop(self, why: str) -> None:
        """Closes the connection; what of it was wrong is among what had come."""
        self._counters.add(why)
        self._observer.dropped(self._hop, b"", why)
        self.abort()

    def _begin(self, packet: Packet) -> list[RadsecTransaction]:
        """The transaction of a request, if it is a new one and there is room for it.

        Reading does not stop where there is none: the responses to us come the same way.  Nothing
        is answered to a server that does not read, or its requests alone would fill our memory.
        Nor is a request a sign of life: one that asks and answers nothing is as good as dead.
        """
        request = self.form.verify_request(packet)
        self._show(request.octets, "received")
        if self._is_unread or self._incoming.in_flight >= REQUESTS_IN_FLIGHT:
            self._counters.add(names.OVERLOAD)
            return []
        begun = self._incoming.begin(self, self._owner.peer, request, self._loop.time())
        if isinstance(begun, bytes):
            self._put(begun)
        elif begun is not None:
            self._counters.add(names.REQUESTS)
            return [begun]
        return []

    def pause_writing(self) -> None:
        self._is_unread = True

    def resume_writing(self) -> None:
        self._is_unread = False

    def answer(self, transaction: RadsecTransaction, code: int, octets: bytes) -> None:  # noqa: ARG002 - counted by who accepts connections
        awaited = self._incoming.answered(transaction, octets, self._loop.time())
        if awaited and self.is_open:
            self._put(octets)
        else:
            self._counters.add(names.ABANDONED)

    def forget(self, transaction: RadsecTransaction) -> None:
        self._incoming.forgotten(transaction)

    def _on_response(self, packet: Packet) -> None:
        """Raises what closes the connection (RFC 6613 §2.6.4)."""
        sent = self._sent.get(packet.identifier)
        if sent is None:
            self._counters.add(names.CLIENT_UNEXPECTED)
            return
        response = self.form.verify_response(packet, sent.authenticator, sent.code)
        self._show(response.octets, "received")
        del self._sent[packet.identifier]
        was_watchdog = packet.identifier == self._asked_as
        if was_watchdog:
            self._asked_at = self._asked_as = None
        self._on_life()
        if was_watchdog:
            if self.usable_since is None:
                self.usable_since = self.last_received
        else:
            self._identifiers.give_back(packet.identifier)
            if sent.request is None:
                self._given_up -= 1
            else:
                self._conclude(sent.request, response)
            self._close_if_retired()
        self._owner.on_room()

    def _conclude(self, request: Request, response: VerifiedResponse) -> None:
        request.link = None
        if request.answered.done():
            return
        if proxy_states(response.attributes) != request.proxy_states:
            # Not an answer to what was sent (RFC 2865 §5.33); the caller's deadline goes on.
            self._counters.add(names.CLIENT_UNEXPECTED)
            return
        request.answered.set_result(response)

    def _on_life(self) -> None:
        self.last_received = self._loop.time()
        self._owed_since = self.last_received if self.pending else None
        self.suspect = False

    def _ask(self) -> None:
        if self._asked_as is not None:
            return
        self._asked_as = self._identifiers.take_for_watchdog()
        self._asked_at = self._loop.time()
        self._put(self._write(STATUS_SERVER, self._asked_as, (), None))

    def _tick(self) -> None:
        """Looks whether it is time to ask, or to believe that nobody is there."""
        watchdog, now = self._watchdog, self._loop.time()
        if self._asked_at is not None:
            silent_s = now - max(self._asked_at, self.last_received)
            if silent_s >= watchdog.answer_s:
                self._counters.add(names.RADSEC_CLIENT_SILENT)
                self.abort()
                return
        elif self._owed_since is not None and now - self._owed_since >= watchdog.owed_s:
            self.suspect = True
            self._ask()
            self._owner.on_suspect()
        elif now - self.last_received >= self._idle_s:
            self._ask()
        every_s = min(self._idle_s, watchdog.owed_s, watchdog.answer_s) / 4
        self._ticker = self._loop.call_later(every_s, self._tick)
