"""The batch pipeline of the home side (DESIGN section 2): load, judge, commit, answer.

Requests come in verified and well-formed; answers leave through each request's own callback, and
only after what they promise is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aaa.exchange import AccessReject, AccessResponse, Peer
from aaa.radius.counters import Counters
from aaa.roles.home_agent import StructuredRequest
from aaa.serve.registrar import Registrar, Settled
from kdc.errors import DENIED_RESOURCES, RemoteError, Unavailable
from kdc.records import UNSPENT_SPIS
from kdc.store import (
    CommitRefused,
    CommitResult,
    CommitUnknown,
    DatabaseUnavailable,
    Loaded,
    SpiTaken,
    Store,
)

BATCH_REGISTRATIONS: Final = 256
BATCHES_AT_ONCE: Final = 2
MAXIMUM_WAITING: Final = 8192
MAXIMUM_CLOCK_ERROR_S: Final = 1.0  # PROTOCOL section 3: a node further off says 130
_ATTEMPTS: Final = 4
_SETTLED_A_TURN: Final = 32
_ASSOCIATIONS: Final = 3

BATCHES: Final = "home.batches"
REGISTRATIONS: Final = "home.registrations"
CONFLICTS: Final = "home.conflicts"
COMMIT_UNKNOWN: Final = "home.commit_unknown"
REFUSED: Final = "home.commit_refused"
SHED: Final = "home.shed"


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way; `send` gets its response, or None where nothing may be said."""

    structured: StructuredRequest
    peer: Peer
    send: Callable[[AccessResponse | None], None]
    attempts: int = 0
    answered: bool = False

    def answer(self, response: AccessResponse | None) -> None:
        """The first answer counts: a batch that fails later changes nothing of it."""
        if not self.answered:
            self.answered = True
            self.send(response)


class RegistrationPipeline:
    """Gathers whatever is waiting into batches and never makes a lone request wait."""

    def __init__(
        self,
        store: Store,
        registrar: Registrar,
        counters: Counters,
        *,
        maximum_lifetime_s: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._counters = counters
        self._maximum_lifetime_s = maximum_lifetime_s
        self._clock = clock
        self._waiting: deque[Work] = deque()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, work: Work) -> None:
        """Takes the request in, or answers 130 at once where too many are waiting."""
        if len(self._waiting) >= MAXIMUM_WAITING:
            self._counters.add(SHED)
            work.answer(AccessReject(DENIED_RESOURCES))
            return
        self._waiting.append(work)

    def start_batches(self) -> None:
        """To be called once a turn, when the socket is drained."""
        while self._waiting and len(self._running) < BATCHES_AT_ONCE:
            count = min(len(self._waiting), BATCH_REGISTRATIONS)
            batch = [self._waiting.popleft() for _ in range(count)]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.start_batches()
        if not task.cancelled():
            task.result()  # a bug is told to the loop's handler, not swallowed

    async def drain(self) -> None:
        """Waits until everything that was taken in has been answered."""
        while not self.idle:
            self.start_batches()
            await asyncio.wait(self._running)

    async def _run(self, batch: list[Work]) -> None:
        """One batch to its end: what conflicts is judged anew, a few times at most."""
        self._counters.add(BATCHES)
        while batch:
            for work in batch:
                work.attempts += 1
            try:
                batch = await self._attempt(batch)
            except CommitRefused:
                # One item is poison; alone it fails alone.
                self._counters.add(REFUSED)
                if len(batch) == 1:
                    _answer_all(batch, AccessReject(DENIED_RESOURCES))
                    return
                for work in batch:
                    if not work.answered:
                        await self._run([work])
                return
            except DatabaseUnavailable:
                _answer_all(batch, AccessReject(DENIED_RESOURCES))
                return
            except CommitUnknown:
                # DESIGN section 4: no reply; the retransmission finds the row, or does not.
                self._counters.add(COMMIT_UNKNOWN, len(batch))
                _answer_all(batch, None)
                return
            except BaseException:
                # Cancelled, or a bug: nobody is to wait for an answer that will not come.
                _answer_all(batch, None)
                raise
            spent = [work for work in batch if work.attempts >= _ATTEMPTS]
            _answer_all(spent, AccessReject(DENIED_RESOURCES))
            batch = [work for work in batch if work.attempts < _ATTEMPTS]

    async def _attempt(self, batch: list[Work]) -> list[Work]:
        """Steps 5-9 for a batch; returns those in conflict.  Raises what the store raises."""
        # Step 5
        loaded = await self._store.load([w.structured.request.mhae.spi for w in batch])
        if abs(loaded.clock - self._clock()) > MAXIMUM_CLOCK_ERROR_S:
            _answer_all(batch, AccessReject(DENIED_RESOURCES))
            return []
        lifetimes = [
            min(work.structured.request.lifetime_s, self._maximum_lifetime_s) for work in batch
        ]
        await self._store.allocator.reserve(
            key0=len(batch) * UNSPENT_SPIS,
            associations=[
                loaded.clock + lifetime
                for lifetime in lifetimes
                if lifetime
                for _ in range(_ASSOCIATIONS)
            ],
        )
        settled = await self._settle(batch, loaded)
        changes = [(work, item) for work, item in settled if item.change is not None]
        # Step 8
        try:
            results = await self._store.commit(
                [item.change for _, item in changes if item.change is not None],
                clock=loaded.clock,
            )
        except SpiTaken:
            return [work for work, _ in changes]
        conflicts = []
        for (work, item), result in zip(changes, results, strict=True):
            if result is CommitResult.COMMITTED:
                self._counters.add(REGISTRATIONS)
                work.answer(item.response)
            else:
                self._counters.add(CONFLICTS)
                conflicts.append(work)
        return conflicts

    async def _settle(self, batch: list[Work], loaded: Loaded) -> list[tuple[Work, Settled]]:
        """Judges each; what needs no commit is answered here, a poison item fails alone."""
        settled = []
        for index, work in enumerate(batch):
            if index % _SETTLED_A_TURN == _SETTLED_A_TURN - 1:
                await asyncio.sleep(0)  # the socket and the other batches go on meanwhile
            stored = loaded.records.get(work.structured.request.mhae.spi)
            try:
                item = self._registrar.settle(
                    work.structured, stored, work.peer, self._store.allocator, now=loaded.clock
                )
            except Unavailable:
                work.answer(AccessReject(DENIED_RESOURCES))
            except RemoteError as error:
                work.answer(AccessReject(error.reply_code))
            else:
                settled.append((work, item))
                if item.change is None:
                    work.answer(item.response)
        return settled


def _answer_all(batch: list[Work], response: AccessResponse | None) -> None:
    for work in batch:
        work.answer(response)
