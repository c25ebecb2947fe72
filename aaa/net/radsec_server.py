"""The server side of RADIUS over TLS (RFC 6614): from connections to verified requests and back.

It is to TLS what aaa.serve.radius_server is to UDP, and its transactions have the same shape.  What
a request is answered with is the caller's; nothing here knows of a registration.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aaa.net.packet_connection import SHUTDOWN_S, PacketConnection
from aaa.net.tls import TlsContexts
from aaa.net.tls_acceptor import TlsAcceptor
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.duplicates import DuplicateTable, RequestKey, Standing
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REQUEST,
    RADSEC_SECRET,
    STATUS_SERVER,
    Attributes,
    Packet,
    VerifiedRequest,
    decode,
    encode_response,
    verify_request,
)
from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from kdc.crypto.certificates import CertificateRefused

_REQUESTS: Final = frozenset({ACCESS_REQUEST, STATUS_SERVER})
_HERE: Final = ("", 0)  # a connection's table of duplicates is its own (RFC 6613 §2.6.1)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What peers and strangers may take of a server."""

    connections: int = 1024
    connections_per_peer: int = 16
    handshakes: int = 128  # under way
    handshake_s: float = 5.0
    in_flight: int = 256  # requests of one connection; reading stops there until half are done
    idle_s: float = 300.0  # a connection without a packet; a client's watchdog has 30 s
    stall_s: float = 10.0  # how long a client may leave its responses unread


@dataclass(slots=True, eq=False)
class RadsecTransaction:
    """One verified Access-Request of a peer, answered or forgotten exactly once."""

    connection: ServerConnection
    client: TlsPeer
    request: VerifiedRequest
    key: RequestKey
    _finished: bool = False

    def respond(self, code: int, attributes: Attributes) -> None:
        """Signs and sends; nothing if the connection or the client has gone on meanwhile."""
        if not self._finished:
            octets = encode_response(code, self.request, attributes, RADSEC_SECRET)
            self._finished = True
            self.connection.answer(self, code, octets)

    def forget(self) -> None:
        """No answer: the client gives up by its own deadline."""
        if not self._finished:
            self._finished = True
            self.connection.forget(self)


class ServerConnection(PacketConnection):
    """One accepted connection; `in_flight` counts the transactions that are not finished."""

    def __init__(self, server: RadsecServer, contexts: TlsContexts) -> None:
        super().__init__()
        self._server = server
        self.contexts = contexts  # those of its handshake
        self.peer: TlsPeer | None = None
        self.duplicates = DuplicateTable(maximum_entries=2 * 256)
        self.in_flight = 0
        self.stalled_since: float | None = None
        self._full = False  # no more requests before half of those in flight are done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer = self._server.admit(self)
        if self.peer is None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        self._work()

    def _work(self) -> None:
        """Takes as many packets as there is room for and hands them on in batches."""
        limit = self._server.limits.in_flight
        while self.peer is not None and self.is_open and not self._full:
            if self.stalled_since is not None:
                return
            if not self._server.on_readable(self, self.peer, limit - self.in_flight):
                return
            if self.in_flight >= limit and self._transport is not None:
                self._full = True
                self._transport.pause_reading()

    def take(self, maximum: int) -> list[Packet]:
        """Raises `MalformedPacket`."""
        packets = [decode(octets) for octets in self._stream.take(maximum)]
        if packets:
            self.last_received = self._loop.time()
        return packets

    def answer(self, transaction: RadsecTransaction, code: int, octets: bytes) -> None:
        now = self._loop.time()
        authenticator = transaction.request.authenticator
        if self.is_open and self.duplicates.answer(transaction.key, authenticator, octets, now):
            self._server.counters.add(names.of_response(code))
            self.send(octets)
        else:
            self._server.counters.add(names.ABANDONED)
        self._finish_one()

    def forget(self, transaction: RadsecTransaction) -> None:
        self.duplicates.forget(transaction.key, transaction.request.authenticator)
        self._finish_one()

    def _finish_one(self) -> None:
        self.in_flight -= 1
        if self._full and self.in_flight <= self._server.limits.in_flight // 2:
            self._full = False
            self._loop.call_soon(self._read_again)
        self._server.on_finished()

    def _read_again(self) -> None:
        if self.is_open and self._transport is not None and not self._server.stopping:
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


class RadsecServer:
    """`on_requests` gets the verified Access-Requests of what one connection had to read."""

    def __init__(
        self,
        peers: TlsPeerTable,
        contexts: TlsContexts,
        counters: Counters,
        on_requests: Callable[[list[RadsecTransaction]], None],
        *,
        limits: ServerLimits | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers = peers
        self._contexts = contexts
        self._on_requests = on_requests
        self.counters = counters
        self.limits = limits or ServerLimits()
        self.stopping = False
        self._connections: set[ServerConnection] = set()
        self._idle = asyncio.Event()  # set whenever no transaction may be in flight
        self._acceptor = TlsAcceptor(
            self._handshake,
            counters,
            maximum=self.limits.handshakes,
            has_room=lambda: len(self._connections) < self.limits.connections,
        )
        self._sweep_every_s = min(self.limits.idle_s, self.limits.stall_s) / 4
        self._sweeper = self._loop.call_later(self._sweep_every_s, self._sweep)

    def listen(self, address: Address) -> Address:
        """The address bound, port filled in; raises `OSError` if it cannot be."""
        return self._acceptor.listen(address)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Transactions handed out and neither answered nor forgotten."""
        return sum(connection.in_flight for connection in self._connections)

    async def _handshake(self, accepted: socket.socket) -> None:
        contexts = self._contexts
        await self._loop.connect_accepted_socket(
            lambda: ServerConnection(self, contexts),
            accepted,
            ssl=contexts.server,
            ssl_handshake_timeout=self.limits.handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def admit(self, connection: ServerConnection) -> TlsPeer | None:
        """Whose a connection is after its handshake, or None: it is closed then."""
        peer = self._judge(connection)
        if peer is None:
            self.counters.add(names.RADSEC_UNKNOWN_PEER)
            return None
        if self.stopping or not self._has_room_for(peer):
            self.counters.add(names.RADSEC_NO_ROOM)
            return None
        self._connections.add(connection)
        self.counters.add(names.RADSEC_OPENED)
        return peer

    def _judge(self, connection: ServerConnection) -> TlsPeer | None:
        """The peer by the names and, if its handshake was with an older trust, by today's."""
        if connection.resumed:
            return None
        if connection.contexts is not self._contexts:
            try:
                connection.certificate.check_client(self._contexts.trust)
            except CertificateRefused:
                return None
        return self._peers.find(connection.certificate.names)

    def _has_room_for(self, peer: TlsPeer) -> bool:
        if len(self._connections) >= self.limits.connections:
            return False
        its = [each for each in self._connections if each.peer == peer]
        if len(its) < self.limits.connections_per_peer:
            return True
        # A peer that lost its connections without a word must not be locked out by their remains.
        oldest = min(its, key=lambda each: each.last_received)
        if self._loop.time() - oldest.last_received < self.limits.idle_s / 4:
            return False
        self.counters.add(names.RADSEC_IDLE)
        oldest.abort()
        return True

    def on_readable(self, connection: ServerConnection, peer: TlsPeer, maximum: int) -> bool:
        """Works on at most `maximum` packets; False if there are no more or it has been closed.

        RFC 6613 §2.6.4: what a UDP server would drop closes the connection, unknown codes apart;
        nothing of a batch that such a packet is in is worked on.
        """
        try:
            packets = connection.take(maximum)
            requests = [
                verify_request(packet, RADSEC_SECRET)
                for packet in packets
                if packet.code in _REQUESTS
            ]
        except MalformedPacket:
            self.counters.add(names.MALFORMED)
            connection.abort()
            return False
        except BadAuthenticator:
            self.counters.add(names.BAD_AUTHENTICATOR)
            connection.abort()
            return False
        if len(requests) < len(packets):
            self.counters.add(names.UNSUPPORTED, len(packets) - len(requests))
        admitted = [self._begin(connection, peer, request) for request in requests]
        transactions = [transaction for transaction in admitted if transaction is not None]
        if transactions:
            self.counters.add(names.REQUESTS, len(transactions))
            self._on_requests(transactions)
        return bool(packets)

    def _begin(
        self, connection: ServerConnection, peer: TlsPeer, request: VerifiedRequest
    ) -> RadsecTransaction | None:
        if request.code == STATUS_SERVER:  # RFC 5997 §3: answered with an Access-Accept
            self.counters.add(names.STATUS_SERVER)
            connection.send(encode_response(ACCESS_ACCEPT, request, (), RADSEC_SECRET))
            return None
        key = RequestKey(_HERE, _HERE, request.code, request.identifier)
        standing = connection.duplicates.on_request(key, request.authenticator, self._loop.time())
        if isinstance(standing, bytes):
            self.counters.add(names.DUPLICATE_ANSWERED)
            connection.send(standing)
            return None
        if standing is not Standing.NEW:
            overload = standing is Standing.OVERLOAD
            self.counters.add(names.OVERLOAD if overload else names.DUPLICATE_IN_PROGRESS)
            return None
        connection.in_flight += 1
        return RadsecTransaction(connection, peer, request, key)

    def on_lost(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        self.on_finished()

    def on_finished(self) -> None:
        if self.stopping:
            self._idle.set()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            stalled = connection.stalled_since
            if stalled is not None and now - stalled >= self.limits.stall_s:
                self.counters.add(names.RADSEC_STALLED)
                connection.abort()
            elif not connection.in_flight and (
                now - connection.last_received >= self.limits.idle_s
            ):
                self.counters.add(names.RADSEC_IDLE)
                connection.abort()
        self._sweeper = self._loop.call_later(self._sweep_every_s, self._sweep)

    def reload(self, contexts: TlsContexts, peers: TlsPeerTable) -> None:
        """Takes these for new connections, and closes those that they would not let in.

        A peer whose entry has changed loses its connections too, and comes back under the new one.
        """
        self._contexts, self._peers = contexts, peers
        for connection in list(self._connections):
            if self._judge(connection) != connection.peer:
                self.counters.add(names.RADSEC_REVOKED)
                connection.abort()

    def stop_receiving(self) -> None:
        """No further connection and no further request; what is in flight can still be answered."""
        self.stopping = True
        self._acceptor.stop_listening()
        for connection in self._connections:
            connection.stop_reading()

    async def drain(self, within_s: float) -> bool:
        """After `stop_receiving`: whether all that was in flight has been finished in time."""
        try:
            async with asyncio.timeout(within_s):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes all connections once what was sent is with the clients."""
        self.stop_receiving()
        self._sweeper.cancel()
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))
