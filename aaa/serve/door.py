"""Between the transports and those who answer: limits for each client, and how a refusal leaves.

It is the same for both processes and for every transport; what is refused is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aaa.net.observing import OVER_LIMIT, UNOBSERVED, Observer
from aaa.net.transactions import Transaction
from aaa.radius.admission import RateLimits
from aaa.radius.counters import Counters
from aaa.radius.packet import Attributes
from aaa.serve.reject_delay import RejectDelay

LIMITED: Final = "radius.over_limit"


class Door:
    """`limits` by the names of clients; they may be replaced at any time."""

    def __init__(
        self,
        counters: Counters,
        *,
        limits: RateLimits | None = None,
        reject_delay_s: float = 0.0,
        observer: Observer = UNOBSERVED,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or RateLimits()
        self.observer = observer
        self._counters = counters
        self._rejects = RejectDelay(counters, reject_delay_s)
        self._monotonic = monotonic

    def admit(self, transactions: list[Transaction]) -> list[Transaction]:
        """Those that may be worked on; the others are dropped, and judged anew if sent again."""
        now = self._monotonic()
        return [each for each in transactions if self._has_token(each, now)]

    def _has_token(self, transaction: Transaction, now: float) -> bool:
        name = transaction.client.name
        if self.limits.take(name, now):
            return True
        transaction.forget()
        self._counters.add(LIMITED)
        self.observer.noticed(OVER_LIMIT, name)
        if self.observer.on:
            self.observer.decided(name, transaction.request, "dropped, over the limit")
        return False

    def reject(self, transaction: Transaction, attributes: Attributes) -> None:
        """A plain Access-Reject, made here, after the delay."""
        self._rejects.reject(transaction, attributes)

    def close(self) -> None:
        """Sends at once what is held back."""
        self._rejects.flush()
