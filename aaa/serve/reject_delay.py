"""Holds plain Access-Rejects back for a while: who guesses, guesses slowly.

FreeRADIUS does the same (reject_delay).  A request is in progress meanwhile, so that its
retransmissions are dropped.  What is refused for want of room is not for here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from aaa.net.transactions import Transaction
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCESS_REJECT, Attributes
from kdc.errors import LocalError

MAXIMUM_DELAYED: Final = 4096
# Half of what one connection over TLS may have in flight: the other half goes on.
MAXIMUM_DELAYED_OF_CLIENT: Final = 128
DELAYED: Final = "radius.rejects_delayed"
NOT_DELAYED: Final = "radius.rejects_not_delayed"  # too many were held back already
TOO_LONG: Final = "radius.reject_too_long"


@dataclass(frozen=True, slots=True)
class _Delayed:
    due: float
    transaction: Transaction
    attributes: Attributes


class RejectDelay:
    """In order of arrival, each `delay_s` after its decision; 0 holds nothing back."""

    def __init__(self, counters: Counters, delay_s: float) -> None:
        self._counters = counters
        self._delay_s = delay_s
        self._waiting: deque[_Delayed] = deque()
        self._of_client: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def reject(self, transaction: Transaction, attributes: Attributes) -> None:
        """Answers with an Access-Reject, in a while; with less if it does not fit a packet."""
        if not self._delay_s:
            self._send(transaction, attributes)
            return
        name = transaction.client.name
        held = self._of_client.get(name, 0)
        if len(self._waiting) >= MAXIMUM_DELAYED or held >= MAXIMUM_DELAYED_OF_CLIENT:
            self._counters.add(NOT_DELAYED)
            self._send(transaction, attributes)
            return
        self._counters.add(DELAYED)
        loop = asyncio.get_running_loop()
        due = loop.time() + self._delay_s
        self._waiting.append(_Delayed(due, transaction, attributes))
        self._of_client[name] = held + 1
        if self._timer is None:
            self._timer = loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0].due <= loop.time():
            self._send_first()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0].due, self._on_timer)

    def _send_first(self) -> None:
        delayed = self._waiting.popleft()
        name = delayed.transaction.client.name
        left = self._of_client.pop(name) - 1
        if left:
            self._of_client[name] = left
        self._send(delayed.transaction, delayed.attributes)

    def _send(self, transaction: Transaction, attributes: Attributes) -> None:
        """Without the attributes if they do not fit beside the Proxy-States of the request."""
        for fewer in (attributes, ()):
            try:
                transaction.respond(ACCESS_REJECT, fewer)
            except LocalError:
                continue
            return
        self._counters.add(TOO_LONG)
        transaction.forget()

    def flush(self) -> None:
        """At the end: sends what waits at once, and holds nothing back from then on."""
        self._delay_s = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._send_first()
