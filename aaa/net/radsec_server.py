"""The server side of RADIUS over TLS (RFC 6614): from connections to verified requests and back.

It is to TLS what aaa.serve.radius_server is to UDP, and its transactions have the same shape.  What
a request is answered with is the caller's; nothing here knows of a registration.  What one
connection reads, holds and sends is aaa.net.server_connection's affair.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import structlog

from aaa.net.cycles import EndedConnections
from aaa.net.limited_log import LimitedLog
from aaa.net.observing import UNOBSERVED, Hop, Observer
from aaa.net.packet_connection import SHUTDOWN_S
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.server_connection import ServerConnection, ServerLimits
from aaa.net.tls import TlsContexts
from aaa.net.tls_acceptor import TlsAcceptor
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import BadAuthenticator, MalformedPacket, NoAnswer
from aaa.radius.packet import (
    RESPONSES,
    STATUS_SERVER,
    Attributes,
    Packet,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.radius.ports import AUTHENTICATION, Port
from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from kdc.crypto.certificates import CertificateRefused

log = structlog.get_logger("aaa.radsec")


class RadsecServer:
    """`on_requests` gets the verified requests of what one connection had to read.

    Which codes those are, and what answers a Status-Server, is for `port` to say.
    """

    def __init__(  # noqa: PLR0913 - what it works with, and what a test replaces
        self,
        peers: TlsPeerTable,
        contexts: TlsContexts,
        counters: Counters,
        on_requests: Callable[[list[RadsecTransaction]], None],
        *,
        port: Port = AUTHENTICATION,
        limits: ServerLimits | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers = peers
        self._contexts = contexts
        self._on_requests = on_requests
        self._port = port
        self._codes = port.codes
        self.counters = counters
        self.observer = observer
        self.limits = limits or ServerLimits()
        self.stopping = False
        self._limited = LimitedLog(log)  # who comes again and again has one line in a while
        self._connections: set[ServerConnection] = set()
        self._idle = asyncio.Event()  # set whenever no transaction may be in flight
        self._ended = EndedConnections()
        self._acceptor = TlsAcceptor(
            self._handshake,
            counters,
            maximum=self.limits.handshakes,
            has_room=lambda: len(self._connections) < self.limits.connections,
            ended=self._ended,
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
            lambda: ServerConnection(self, contexts, self.counters, self.limits),
            accepted,
            ssl=contexts.server,
            ssl_handshake_timeout=self.limits.handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def admit(self, connection: ServerConnection) -> TlsPeer | None:
        """Whose a connection is after its handshake, or None: it is closed then."""
        peer = self._judge(connection)
        if isinstance(peer, TlsPeer) and (self.stopping or not self._has_room_for(peer)):
            peer = names.RADSEC_NO_ROOM
        if not isinstance(peer, TlsPeer):
            self.counters.add(peer)
            where = connection.address[0]
            self._limited.tell("refused", where, reason=peer, names=connection.names_shown)
            return None
        self._connections.add(connection)
        self.counters.add(names.RADSEC_OPENED)
        version = connection.form.version
        self._limited.tell(
            "connected", peer.name, variant=version, level=logging.INFO, version=version
        )
        return peer

    def _judge(self, connection: ServerConnection) -> TlsPeer | str:
        """The peer by the names and, if its handshake was with an older trust, by today's.

        Else the name of the counter that says why it is nobody's.
        """
        if not connection.agreed:
            return names.RADSEC_NO_VERSION
        if connection.is_our_own(self._contexts):
            return names.RADSEC_SELF
        if connection.resumed:
            return names.RADSEC_UNKNOWN_PEER
        if connection.contexts is not self._contexts:
            try:
                connection.certificate.check_client(self._contexts.trust)
            except CertificateRefused:
                return names.RADSEC_UNKNOWN_PEER
        return self._peers.find(connection.certificate.names) or names.RADSEC_UNKNOWN_PEER

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
                connection.form.verify_request(packet)
                for packet in packets
                if packet.code in self._codes
            ]
            if len(requests) < len(packets):
                self._take_others(connection, packets)
        except MalformedPacket:
            self._drop(connection, peer, names.MALFORMED)
            return False
        except BadAuthenticator:
            self._drop(connection, peer, names.BAD_AUTHENTICATOR)
            return False
        if self.observer.on:
            for request in requests:
                hop = Hop("TLS", peer.name, connection.address)
                self.observer.packet(hop, request.octets, "received")
        admitted = [self._begin(connection, peer, request) for request in requests]
        transactions = [transaction for transaction in admitted if transaction is not None]
        if transactions:
            self.counters.add(names.REQUESTS, len(transactions))
            self._on_requests(transactions)
        return bool(packets)

    def _drop(self, connection: ServerConnection, peer: TlsPeer, why: str) -> None:
        """Closes a connection; what of it was wrong is among what had come."""
        self.counters.add(why)
        self.observer.dropped(Hop("TLS", peer.name, connection.address), b"", why)
        connection.abort()

    def _take_others(self, connection: ServerConnection, packets: list[Packet]) -> None:
        """Responses to requests of ours, and what is nothing to us: it is passed over."""
        for packet in packets:
            if packet.code in self._codes:
                continue
            if packet.code in RESPONSES and connection.reverse is not None:
                connection.show(packet.octets, "received")
                connection.reverse.on_response(packet)
            else:
                self.counters.add(names.UNSUPPORTED)

    def _begin(
        self, connection: ServerConnection, peer: TlsPeer, request: VerifiedRequest
    ) -> RadsecTransaction | None:
        if request.code == STATUS_SERVER and self._port.status_answer is not None:  # RFC 5997 §3
            self.counters.add(names.STATUS_SERVER)
            answer = connection.form.encode_response(self._port.status_answer, request, ())
            connection.send(answer)
            if self.observer.on:
                self.observer.packet(Hop("TLS", peer.name, connection.address), answer, "sent")
            return None
        begun = connection.incoming.begin(connection, peer, request, self._loop.time())
        if isinstance(begun, bytes):
            connection.send(begun)
            return None
        return begun

    def has_connection(self, peer_name: str) -> bool:
        """Whether `exchange` has a way to the peer of this name now."""
        return self._best_of(peer_name) is not None

    async def exchange(
        self, peer_name: str, code: int, attributes: Attributes, deadline_s: float
    ) -> VerifiedResponse:
        """The response of a peer that has come to us to one request, by a connection of its own.

        Raises `NoAnswer` without a connection, when it is lost, or when the deadline has passed,
        `Unavailable` with too many outstanding, and `LocalError` for attributes that do not fit.
        """
        best = self._best_of(peer_name)
        if best is None or best.reverse is None:
            raise NoAnswer("no connection of this peer")
        return await best.reverse.exchange(code, attributes, deadline_s=deadline_s)

    def _best_of(self, peer_name: str) -> ServerConnection | None:
        """The one with the fewest requests of ours, of those the one last heard of."""
        return min(
            (
                each
                for each in self._connections
                if each.peer is not None and each.peer.name == peer_name and each.can_be_asked
            ),
            key=lambda each: (each.asked, -each.last_received),
            default=None,
        )

    def on_lost(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        self._ended.add()
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
                log.warning("closed", reason=names.RADSEC_REVOKED, **connection.description)
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
