"""Requests that the end which has accepted a TLS connection sends back over it, and the answers.

Dynamic authorization needs no way to a peer of its own where the peer has come to us
(draft-ietf-radext-reverse-coa).  Which connection a request takes is aaa.net.radsec_server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aaa.net.identifiers import identifiers_of
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import Attributes, Packet, VerifiedResponse, proxy_states
from aaa.radius.wire_forms import WireForm
from kdc.errors import LocalError, Unavailable

# A peer that does not answer such requests must not lose for ever those that it will answer: after
# so long no response is awaited any more.
LATE_S: Final = 60.0


@dataclass(slots=True, eq=False)
class _Sent:
    code: int
    authenticator: bytes
    proxy_states: tuple[bytes, ...] = field(repr=False)
    answered: asyncio.Future[VerifiedResponse]
    given_up_at: float | None = None


class ReverseRequests:
    """Those of one connection: its identifiers are others than those of the other direction."""

    def __init__(
        self,
        form: WireForm,
        send: Callable[[bytes], None],
        counters: Counters,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._form = form
        self._send = send
        self._counters = counters
        self._entropy = entropy
        self._identifiers = identifiers_of(form, entropy, has_watchdog=False)
        self._sent: dict[int, _Sent] = {}

    @property
    def pending(self) -> int:
        """Requests that somebody waits for, and those given up of which an answer may come."""
        return len(self._sent)

    async def exchange(
        self, code: int, attributes: Attributes, *, deadline_s: float
    ) -> VerifiedResponse:
        """The response to one request.

        Raises `NoAnswer` when the deadline has passed or the connection is lost, `Unavailable` with
        too many outstanding, and `LocalError` for attributes that do not fit.
        """
        if not self._identifiers.has_room:
            self._reclaim()
        if not self._identifiers.has_room:
            raise Unavailable("too many requests outstanding")
        identifier = self._identifiers.take()
        try:
            octets = self._form.encode_request(code, identifier, attributes, self._entropy)
        except LocalError:
            self._identifiers.give_back(identifier)
            raise
        sent = _Sent(code, octets[4:20], proxy_states(attributes), self._loop.create_future())
        self._sent[identifier] = sent
        self._counters.add(names.CLIENT_SENT)
        self._send(octets)
        try:
            async with asyncio.timeout(deadline_s):
                return await sent.answered
        except TimeoutError:
            self._counters.add(names.CLIENT_NO_ANSWER)
            raise NoAnswer("no answer in time") from None
        finally:
            sent.given_up_at = self._loop.time()

    def _reclaim(self) -> None:
        too_late = self._loop.time() - LATE_S
        for identifier, sent in list(self._sent.items()):
            if sent.given_up_at is not None and sent.given_up_at <= too_late:
                del self._sent[identifier]
                self._identifiers.give_back(identifier)

    def on_response(self, packet: Packet) -> None:
        """Raises what closes the connection (RFC 6613 §2.6.4)."""
        sent = self._sent.get(packet.identifier)
        if sent is None:
            self._counters.add(names.CLIENT_UNEXPECTED)
            return
        response = self._form.verify_response(packet, sent.authenticator, sent.code)
        del self._sent[packet.identifier]
        self._identifiers.give_back(packet.identifier)
        if sent.answered.done() or proxy_states(response.attributes) != sent.proxy_states:
            self._counters.add(names.CLIENT_UNEXPECTED)
            return
        sent.answered.set_result(response)

    def lost(self) -> None:
        """The connection is closed: nothing of what was sent will be answered."""
        for sent in self._sent.values():
            if not sent.answered.done():
                sent.answered.set_exception(NoAnswer("the connection was lost"))
        self._sent.clear()
