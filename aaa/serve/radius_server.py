"""The server side of RADIUS over UDP: from datagrams to verified requests and back to octets.

What a request is answered with is the caller's; this file knows clients, signatures, duplicates
and Status-Server, and nothing of a registration.  Limits of clients are aaa.serve.door's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aaa.net.observing import OLD_SECRET, UNOBSERVED, UNSIGNED, Hop, Observer
from aaa.net.transactions import Transaction
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius import counters as names
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.duplicates import DuplicateTable, RequestKey, Standing
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    ACCESS_REQUEST,
    STATUS_SERVER,
    Attributes,
    Packet,
    VerifiedRequest,
    decode,
    encode_response,
    verify_request,
)
from aaa.radius.ports import AUTHENTICATION, Port
from kdc.model import Secret


@dataclass(slots=True, eq=False)
class UdpTransaction:
    """One verified request of a client, answered or forgotten exactly once."""

    server: RadiusServer
    endpoint: UdpEndpoint
    source: Address
    client: Client
    request: VerifiedRequest
    secret: Secret  # the one of the client's that it was signed with
    key: RequestKey

    def respond(self, code: int, attributes: Attributes) -> None:
        """Signs and sends, and keeps the octets for a retransmission."""
        self.server.respond(self, code, attributes)

    def forget(self) -> None:
        """No answer: a retransmission is worked on anew."""
        self.server.duplicates.forget(self.key, self.request.authenticator)


class RadiusServer:
    """`on_requests` gets the new verified requests of each drained batch; one kind of port."""

    def __init__(
        self,
        clients: ClientTable,
        counters: Counters,
        on_requests: Callable[[list[Transaction]], None],
        *,
        port: Port = AUTHENTICATION,
        observer: Observer = UNOBSERVED,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.duplicates = DuplicateTable(answered_for_s=port.answered_for_s)
        self.clients = clients  # may be replaced at any time
        self._port = port
        self._codes = port.codes
        self._counters = counters
        self._observer = observer
        self._on_requests = on_requests
        self._monotonic = monotonic
        self.endpoints: list[UdpEndpoint] = []

    @property
    def kind(self) -> str:
        """What this kind of port is for."""
        return self._port.name

    def listen(self, address: Address) -> UdpEndpoint:
        """Raises `OSError` if the address cannot be bound."""
        opened: list[UdpEndpoint] = []
        endpoint = UdpEndpoint.open(address, lambda batch: self._on_batch(opened[0], batch))
        opened.append(endpoint)
        self.endpoints.append(endpoint)
        return endpoint

    def _on_batch(self, endpoint: UdpEndpoint, batch: list[Datagram]) -> None:
        new: list[Transaction] = []
        now = self._monotonic()
        for octets, source in batch:
            transaction = self._admit(endpoint, octets, source, now)
            if transaction is not None:
                new.append(transaction)
        self._on_requests(new)

    def _admit(
        self, endpoint: UdpEndpoint, octets: bytes, source: Address, now: float
    ) -> UdpTransaction | None:
        """The order is that of cost: source, structure, signature, and only then any memory."""
        client = self.clients.find(source[0])
        if client is None:
            self._drop("", source, octets, names.UNKNOWN_CLIENT)
            return None
        verified = self._verify(client, octets)
        if isinstance(verified, str):
            self._drop(client.name, source, octets, verified)
            return None
        request, secret = verified
        if secret is not client.secrets[0]:
            self._observer.noticed(OLD_SECRET, client.name)
        key = RequestKey(source, endpoint.address, request.code, request.identifier)
        transaction = UdpTransaction(self, endpoint, source, client, request, secret, key)
        if request.code == STATUS_SERVER:
            self._answer_status(transaction)
        elif self._is_new(transaction, now):
            return transaction
        return None

    def _verify(self, client: Client, octets: bytes) -> tuple[VerifiedRequest, Secret] | str:
        """The request and the secret that it was signed with, or what is counted instead."""
        try:
            packet = decode(octets, signed=client.require_message_authenticator)
            if packet.code not in self._codes:
                return names.UNSUPPORTED
            return _verify(packet, client)
        except MalformedPacket:
            return names.MALFORMED
        except BadAuthenticator:
            return names.BAD_AUTHENTICATOR

    def _drop(self, client: str, source: Address, octets: bytes, why: str) -> None:
        self._counters.add(why)
        self._observer.dropped(Hop("UDP", client, source), octets, why)

    def _is_new(self, transaction: UdpTransaction, now: float) -> bool:
        """Whether it is to be worked on; a request that has been answered is answered again."""
        request, client = transaction.request, transaction.client
        standing = self.duplicates.on_request(
            transaction.key, request.authenticator, now, client.name
        )
        if standing is Standing.NEW:
            if not request.message_authenticator_at and request.code == ACCESS_REQUEST:
                self._observer.noticed(UNSIGNED, client.name)
            self._counters.add(names.REQUESTS)
            if self._observer.on:
                self._show(transaction, request.octets, "received")
            return True
        if isinstance(standing, bytes):
            self._counters.add(names.DUPLICATE_ANSWERED)
            self._show(transaction, request.octets, "received again, answered before")
            transaction.endpoint.send_many([(standing, transaction.source)])
            self._show(transaction, standing, "sent again")
        elif standing is Standing.IN_PROGRESS:
            self._counters.add(names.DUPLICATE_IN_PROGRESS)
            self._show(transaction, request.octets, "received again, in progress: dropped")
        else:
            self._drop(client.name, transaction.source, request.octets, names.OVERLOAD)
        return False

    def _answer_status(self, transaction: UdpTransaction) -> None:
        """Always and at once; the same request has the same answer, so that none is kept."""
        assert self._port.status_answer is not None
        self._counters.add(names.STATUS_SERVER)
        request = transaction.request
        octets = encode_response(self._port.status_answer, request, (), transaction.secret)
        self._show(transaction, request.octets, "received")
        transaction.endpoint.send_many([(octets, transaction.source)])
        self._show(transaction, octets, "sent")

    def _show(self, transaction: UdpTransaction, octets: bytes, what: str) -> None:
        if self._observer.on:
            hop = Hop("UDP", transaction.client.name, transaction.source)
            self._observer.packet(hop, octets, what)

    def respond(self, transaction: UdpTransaction, code: int, attributes: Attributes) -> None:
        # Step 10
        octets = encode_response(code, transaction.request, attributes, transaction.secret)
        kept = self.duplicates.answer(
            transaction.key, transaction.request.authenticator, octets, self._monotonic()
        )
        if not kept:
            self._counters.add(names.ABANDONED)
            return
        if transaction.request.code == ACCESS_REQUEST:
            self._counters.add(names.of_response(code))
        transaction.endpoint.send_many([(octets, transaction.source)])
        if self._observer.on:
            self._show(transaction, octets, "sent")

    def stop_receiving(self) -> None:
        for endpoint in self.endpoints:
            endpoint.stop_receiving()

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.close()


def _verify(packet: Packet, client: Client) -> tuple[VerifiedRequest, Secret]:
    """The request and the secret that it was signed with; raises as `verify_request`."""
    for secret in client.secrets[:-1]:
        try:
            return _verify_by(packet, client, secret), secret
        except BadAuthenticator:
            continue
    secret = client.secrets[-1]
    return _verify_by(packet, client, secret), secret


def _verify_by(packet: Packet, client: Client, secret: Secret) -> VerifiedRequest:
    return verify_request(
        packet, secret, require_message_authenticator=client.require_message_authenticator
    )
