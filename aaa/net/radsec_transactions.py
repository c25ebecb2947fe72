"""Requests that have come by one TLS connection, from their verification to their answer.

Either end of a connection may send some (dynamic authorization goes back the way a client has
come); who reads the connection is aaa.net.radsec_server and radsec_link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.duplicates import DuplicateTable, RequestKey, Standing
from aaa.radius.packet import Attributes, VerifiedRequest
from aaa.radius.tls_peers import TlsPeer
from aaa.radius.wire_forms import WireForm

# TLS repeats nothing: what is kept is for clients that do, and a peer has many connections.
_KEPT_OCTETS: Final = 512 * 1024
_HERE: Final = ("", 0)  # a connection's table of duplicates is its own (RFC 6613 §2.6.1)


class Answerer(Protocol):
    """The connection by which a request has come."""

    @property
    def form(self) -> WireForm: ...

    def answer(self, transaction: RadsecTransaction, code: int, octets: bytes) -> None:
        """Sends the response, if there is still somebody who waits for it."""

    def forget(self, transaction: RadsecTransaction) -> None:
        """There will be no response."""


@dataclass(slots=True, eq=False)
class RadsecTransaction:
    """One verified request of a peer, answered or forgotten exactly once."""

    connection: Answerer
    client: TlsPeer
    request: VerifiedRequest
    key: RequestKey
    _finished: bool = False

    def respond(self, code: int, attributes: Attributes) -> None:
        """Writes and sends; nothing if the connection or the client has gone on meanwhile."""
        if not self._finished:
            octets = self.connection.form.encode_response(code, self.request, attributes)
            self._finished = True
            self.connection.answer(self, code, octets)

    def forget(self) -> None:
        """No answer: the client gives up by its own deadline."""
        if not self._finished:
            self._finished = True
            self.connection.forget(self)


class Incoming:
    """The transactions of one connection; `in_flight` counts those that are not finished."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._duplicates = DuplicateTable(maximum_entries=2 * 256, maximum_octets=_KEPT_OCTETS)
        self.in_flight = 0

    def begin(
        self, connection: Answerer, peer: TlsPeer, request: VerifiedRequest, now: float
    ) -> RadsecTransaction | bytes | None:
        """A new transaction, the octets that have answered it before, or nothing to do."""
        key = RequestKey(_HERE, _HERE, request.code, request.identifier)
        if connection.form.is_deduplicated:
            standing = self._duplicates.on_request(key, request.authenticator, now)
            if isinstance(standing, bytes):
                self._counters.add(names.DUPLICATE_ANSWERED)
                return standing
            if standing is not Standing.NEW:
                overload = standing is Standing.OVERLOAD
                self._counters.add(names.OVERLOAD if overload else names.DUPLICATE_IN_PROGRESS)
                return None
        self.in_flight += 1
        return RadsecTransaction(connection, peer, request, key)

    def answered(self, transaction: RadsecTransaction, octets: bytes, now: float) -> bool:
        """Whether the client still waits for it."""
        self.in_flight -= 1
        if not transaction.connection.form.is_deduplicated:
            return True
        return self._duplicates.answer(
            transaction.key, transaction.request.authenticator, octets, now
        )

    def forgotten(self, transaction: RadsecTransaction) -> None:
        self.in_flight -= 1
        self._duplicates.forget(transaction.key, transaction.request.authenticator)
