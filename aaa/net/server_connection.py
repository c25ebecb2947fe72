"""One connection that a server of RADIUS over TLS has accepted: reading, its bounds, and answers.

Whose it is and what is done with its packets is aaa.net.radsec_server's affair.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Protocol

from aaa.net.observing import Hop, Observer
from aaa.net.packet_connection import PacketConnection
from aaa.net.radsec_reverse import ReverseRequests
from aaa.net.radsec_transactions import Incoming, RadsecTransaction
from aaa.net.tls import TlsContexts
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCESS_REQUEST, Packet
from aaa.radius.tls_peers import TlsPeer
from aaa.radius.wire_forms import RADIUS_1_0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What peers and strangers may take of a server."""

    connections: int = 1024
    connections_per_peer: int = 16
    handshakes: int = 128  # under way
    handshake_s: float = 5.0
    in_flight: int = 256  # requests of one connection; reading stops there until half are done
    in_flight_by_token: int = 1024  # the same in RADIUS/1.1
    idle_s: float = 300.0  # a connection without a packet; a client's watchdog has 30 s
    stall_s: float = 10.0  # how long a client may leave its responses unread


class ConnectionOwner(Protocol):
    """Who is told what becomes of a connection."""

    stopping: bool
    observer: Observer

    def admit(self, connection: ServerConnection) -> TlsPeer | None:
        """Whose a connection is after its handshake, or None: it is closed then."""

    def on_readable(self, connection: ServerConnection, peer: TlsPeer, maximum: int) -> bool:
        """Works on at most `maximum` packets; False if there are no more or it has been closed."""

    def on_finished(self) -> None:
        """A transaction has been answered or forgotten."""

    def on_lost(self, connection: ServerConnection) -> None:
        """It is closed."""


class ServerConnection(PacketConnection):
    """One accepted connection: what comes goes to `owner`, as much of it as there is room for."""

    def __init__(
        self,
        owner: ConnectionOwner,
        contexts: TlsContexts,
        counters: Counters,
        limits: ServerLimits,
    ) -> None:
        super().__init__(contexts)
        self._owner = owner
        self._counters = counters
        self._limits = limits
        self.peer: TlsPeer | None = None
        self.incoming = Incoming(counters)
        self.reverse: ReverseRequests | None = None  # from the handshake on
        self.stalled_since: float | None = None
        self._full = False  # no more requests before half of those in flight are done

    @property
    def in_flight(self) -> int:
        """Transactions that are neither answered nor forgotten."""
        return self.incoming.in_flight

    @property
    def asked(self) -> int:
        """Requests of ours that it owes an answer to."""
        return self.reverse.pending if self.reverse is not None else 0

    @property
    def can_be_asked(self) -> bool:
        """Whether an answer would be read."""
        is_read = self.stalled_since is None and not self._full and not self._owner.stopping
        return self.is_open and is_read

    @property
    def _most_in_flight(self) -> int:
        is_old = self.form is RADIUS_1_0
        return self._limits.in_flight if is_old else self._limits.in_flight_by_token

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.reverse = ReverseRequests(self.form, self._put, self._counters, secrets.token_bytes)
        self.peer = self._owner.admit(self)
        if self.peer is None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.reverse is not None:
            self.reverse.lost()
        self._owner.on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        self._work()

    def _work(self) -> None:
        """Takes as many packets as there is room for and hands them on in batches."""
        limit = self._most_in_flight
        while self.peer is not None and self.is_open and not self._full:
            if self.stalled_since is not None:
                return
            if not self._owner.on_readable(self, self.peer, limit - self.in_flight):
                return
            if self.in_flight >= limit and self._transport is not None:
                self._full = True
                self._transport.pause_reading()

    def take(self, maximum: int) -> list[Packet]:
        """Raises `MalformedPacket`."""
        packets = [self.form.decode(octets) for octets in self._stream.take(maximum)]
        if packets:
            self.last_received = self._loop.time()
        return packets

    def answer(self, transaction: RadsecTransaction, code: int, octets: bytes) -> None:
        awaited = self.incoming.answered(transaction, octets, self._loop.time())
        if awaited and self.is_open:
            if transaction.request.code == ACCESS_REQUEST:
                self._counters.add(names.of_response(code))
            self._put(octets)
        else:
            self._counters.add(names.ABANDONED)
        self._finish_one()

    def _put(self, octets: bytes) -> None:
        self.send(octets)
        self.show(octets, "sent")

    def show(self, octets: bytes, what: str) -> None:
        """To whoever looks on."""
        if self._owner.observer.on and self.peer is not None:
            hop = Hop("TLS", self.peer.name, self.address)
            self._owner.observer.packet(hop, octets, what)

    def forget(self, transaction: RadsecTransaction) -> None:
        self.incoming.forgotten(transaction)
        self._finish_one()

    def _finish_one(self) -> None:
        if self._full and self.in_flight <= self._most_in_flight // 2:
            self._full = False
            self._loop.call_soon(self._read_again)
        self._owner.on_finished()

    def _read_again(self) -> None:
        if self.is_open and self._transport is not None and not self._owner.stopping:
            self._work()
            if not self._full and self.stalled_since is None:
                self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read: it shall not ask for more either."""
        self.stalled_since = self._loop.time()
        self.stop_reading()

    def resume_writing(self) -> None:
        self.stalled_since = None
        if not self._full:
            self._loop.call_soon(self._read_again)

    def stop_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
