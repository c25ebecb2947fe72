"""The client side of RADIUS over TLS (RFC 6614): requests to the first of the servers that lives.

A connection dies with its requests unanswered: each is sent once more, on the next connection
there is.  The caller hears an authentic response or `NoAnswer`, by a deadline.  What one server or
connection does is aaa.net.radsec_upstream's and radsec_link's; what attributes say the caller's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radsec_link import Link, Request, Watchdog
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.radsec_upstream import ClientLimits, RadsecTarget, Upstream
from aaa.net.tls import TlsContexts
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    RADSEC_SECRET,
    Attributes,
    VerifiedResponse,
    encode_request,
    proxy_states,
)
from kdc.errors import LocalError, Unavailable

_UNSENT: Final = bytes(16)  # the authenticator of an encoding that only shows whether it fits


class RadsecClient:
    """Requests to `targets`, the first one first; connections are made on demand and then kept."""

    def __init__(  # noqa: PLR0913 - what it works with, and what a test replaces
        self,
        targets: Sequence[RadsecTarget],
        contexts: TlsContexts,
        counters: Counters,
        *,
        limits: ClientLimits | None = None,
        watchdog: Watchdog | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """Raises `LocalError` without a target."""
        if not targets:
            raise LocalError("expected at least one server")
        self._loop = asyncio.get_running_loop()
        # Gets the Disconnect- and CoA-Requests that servers send over these connections, each with
        # the target's peer; without it they are counted and not answered.
        self.on_requests: Callable[[list[RadsecTransaction]], None] | None = None
        self._counters = counters
        self._limits = limits or ClientLimits()
        timing = watchdog or Watchdog()

        def make_link(upstream: Upstream, contexts: TlsContexts) -> Link:
            return Link(upstream, contexts, counters, timing, entropy, observer)

        self._upstreams = [
            Upstream(target, self, contexts, counters, self._limits, make_link)
            for target in targets
        ]
        self._waiting: OrderedDict[Request, None] = OrderedDict()
        self._closing = False

    async def exchange(
        self, code: int, attributes: Attributes, *, deadline_s: float | None = None
    ) -> VerifiedResponse:
        """The authentic response to one request, of any code that is one.

        Raises `NoAnswer` when the deadline has passed or two connections have died under it,
        `Unavailable` with too many waiting, and `LocalError` for attributes that do not fit.  The
        server may have worked on a request that has no answer, and twice on one that has.
        """
        encode_request(code, 0, _UNSENT, attributes, RADSEC_SECRET)
        if self._closing:
            raise NoAnswer("closed")
        request = Request(code, attributes, proxy_states(attributes), self._loop.create_future())
        within_s = self._limits.deadline_s if deadline_s is None else deadline_s
        timer = self._loop.call_later(within_s, self._fail, request, "no answer in time")
        try:
            if self._waiting or not self._place(request):
                if len(self._waiting) >= self._limits.waiting:
                    raise Unavailable("too many requests outstanding")
                self._waiting[request] = None
            return await request.answered
        finally:
            timer.cancel()
            self._waiting.pop(request, None)
            if request.link is not None:
                request.link.give_up(request)

    def _fail(self, request: Request, reason: str) -> None:
        if not request.answered.done():
            self._counters.add(names.CLIENT_NO_ANSWER)
            request.answered.set_exception(NoAnswer(reason))

    def _place(self, request: Request) -> bool:
        """Sends it on the best connection there is, or sees to it that there will be one."""
        for upstream in self._upstreams:
            healthy = upstream.healthy
            if self._send(request, healthy):
                return True
            if healthy:  # all identifiers are taken
                upstream.demand()
        for upstream in self._upstreams:
            if not upstream.links:
                upstream.demand()
            if upstream.hopeful or upstream.healthy:
                return False
        # Nothing but connections that are late with their answers, or nothing at all.
        return any(self._send(request, upstream.links) for upstream in self._upstreams)

    def _send(self, request: Request, links: list[Link]) -> bool:
        for link in links:
            if link.takes_requests:
                link.transmit(request)
                return True
        return False

    def connect(self) -> None:
        """Opens a connection to each server without a request, and keeps it from then on.

        Whoever is to be asked over it has to be there before (draft-ietf-radext-reverse-coa).
        """
        for upstream in self._upstreams:
            upstream.demand()

    def on_room(self) -> None:
        """Places what waits, in order, as far as there is a connection for it."""
        while self._waiting:
            request = next(iter(self._waiting))
            if not request.answered.done() and not self._place(request):
                return
            self._waiting.pop(request, None)

    def on_suspect(self, upstream: Upstream) -> None:
        """The next server is made ready before this one is given up."""
        following = self._upstreams[self._upstreams.index(upstream) + 1 :]
        if following and not any(each.healthy for each in self._upstreams):
            following[0].demand()

    def on_unanswered(self, requests: list[Request]) -> None:
        """They go first, in their order; who has been sent twice fails (RFC 6613 §2.6.1)."""
        for request in reversed(requests):
            if self._closing:
                self._fail(request, "closed")
            elif not request.sends_left:
                self._fail(request, "two connections were lost")
            elif not request.answered.done():
                self._counters.add(names.RADSEC_CLIENT_RESENT)
                self._waiting[request] = None
                self._waiting.move_to_end(request, last=False)

    def reload(self, contexts: TlsContexts) -> None:
        """Takes these for new connections and closes those whose server they would not accept."""
        for upstream in self._upstreams:
            upstream.reload(contexts)

    async def close(self) -> None:
        """Closes all connections; requests outstanding end in `NoAnswer`."""
        self._closing = True
        for request in list(self._waiting):
            self._fail(request, "closed")
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams))
