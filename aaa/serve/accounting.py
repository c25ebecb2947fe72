"""Accounting from a foreign agent: each record is sent until it is answered, or for ten minutes.

What a record says is the caller's; retransmission within one try is the RADIUS client's, and every
further try is a new packet with the time waited in it (RFC 2866 §5.2).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCOUNTING_REQUEST, Attributes, VerifiedResponse
from aaa.serve.fair_queue import FairQueue
from kdc.accounting import AccountingStatus
from kdc.errors import LocalError, Unavailable

MAXIMUM_WAITING: Final = 8192  # records; Interim-Updates only have half of it
UNDER_WAY: Final = 256
UNDER_WAY_TO_A_HOME: Final = 16  # one that does not answer holds up no other
GIVE_UP_AFTER_S: Final = 600.0
SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
_JITTER: Final = 0.2
ANSWERED: Final = "accounting.answered"
LOST: Final = "accounting.lost"

Exchange = Callable[[int, Attributes], Awaitable[VerifiedResponse]]

log = structlog.get_logger("aaa.accounting")


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: AccountingRequest
    since: float  # monotonic


class Accounting:
    """Records on their way to one server, inside the event loop.

    `exchange` sends a request and returns its verified answer, as `RadiusClient.exchange`.
    """

    def __init__(
        self,
        exchange: Exchange,
        vendor_id: int,
        counters: Counters,
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        shortest_pause_s: float = SHORTEST_PAUSE_S,
        maximum_waiting: int = MAXIMUM_WAITING,
    ) -> None:
        self._exchange = exchange
        self._vendor_id = vendor_id
        self._counters = counters
        self._give_up_after_s = give_up_after_s
        self._shortest_pause_s = shortest_pause_s
        self._maximum_waiting = maximum_waiting
        self._waiting: FairQueue[_Waiting] = FairQueue(UNDER_WAY_TO_A_HOME)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_held = False
        self._is_closed = False
        self._is_silent = False
        self._lost = 0  # since the server was silent

    def begin(self, request: AccountingRequest) -> None:
        """Accounting-On: nothing else is sent before it is through.

        It ends the sessions of an earlier process, and must not end one that begins now.
        """
        self._is_held = True
        self._start(self._begin(_Waiting(request, time.monotonic())))

    async def _begin(self, waiting: _Waiting) -> None:
        try:
            await self._send(waiting)
        finally:
            self._is_held = False
            self._start_workers()

    def submit(self, request: AccountingRequest) -> None:
        """Sends it as soon as may be; with too many waiting an old one is lost, or this.

        An old one of the home that has most waiting.
        """
        is_interim = request.status is AccountingStatus.INTERIM_UPDATE
        if is_interim and 2 * len(self._waiting) >= self._maximum_waiting:
            self._lose(1)  # the next one tells as much
            return
        if len(self._waiting) >= self._maximum_waiting:
            self._waiting.drop_oldest()
            self._lose(1)
        self._waiting.append(_home_of(request), _Waiting(request, time.monotonic()))
        self._start_workers()

    async def close(self, last: AccountingRequest, *, within_s: float) -> None:
        """Waits for what is under way, sends `last`, and gives up on the rest after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._send(_Waiting(last, time.monotonic()))
        except TimeoutError:
            self._is_closed = True
            under_way = len(self._tasks)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._lose(len(self._waiting) + under_way + 1)  # with `last`
            log.warning("accounting lost at the end", records=self._lost)

    def _start_workers(self) -> None:
        if self._is_held or self._is_closed:
            return
        for _ in range(min(len(self._waiting), UNDER_WAY - len(self._tasks))):
            self._start(self._work())

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while (taken := self._waiting.take()) is not None:
            home, waiting = taken
            try:
                await self._send(waiting)
            finally:
                self._waiting.done(home)

    async def _send(self, waiting: _Waiting) -> None:
        until = waiting.since + self._give_up_after_s
        pause_s = self._shortest_pause_s
        while True:
            waited_s = time.monotonic() - waiting.since
            request = replace(waiting.request, delay_time_s=int(waited_s))
            try:
                attributes = encode_accounting_request(request, self._vendor_id)
                await self._exchange(ACCOUNTING_REQUEST, attributes)
            except (NoAnswer, Unavailable):
                self._fell_silent()
            except LocalError as error:
                self._lose(1)
                log.warning("accounting not sent", reason=str(error))
                return
            else:
                self._answered()
                return
            if time.monotonic() + pause_s >= until:
                self._lose(1)
                return
            await asyncio.sleep(pause_s * (1 + random.uniform(-_JITTER, _JITTER)))  # noqa: S311
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _answered(self) -> None:
        self._counters.add(ANSWERED)
        if self._is_silent:
            log.info("accounting goes on", lost=self._lost)
            self._is_silent = False
            self._lost = 0

    def _fell_silent(self) -> None:
        if not self._is_silent:
            log.warning("accounting server silent", waiting=len(self._waiting))
            self._is_silent = True

    def _lose(self, count: int) -> None:
        self._lost += count
        self._counters.add(LOST, count)


def _home_of(request: AccountingRequest) -> bytes:
    """The realm that it goes to; empty where no user is named."""
    _, _, realm = (request.user_name or b"").rpartition(b"@")
    return realm.lower()
