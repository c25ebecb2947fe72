"""Diffie-Hellman off the event loop: worker threads behind short queues that shed what is too much.

Curves, finite fields and verdicts on user-defined groups each have a queue and threads of their
own, so that none waits behind what costs a hundred times as much.  What is computed stands in
kdc.crypto.dh.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from kdc.crypto.dh import DhGroup, DhJob, DhShare, respond, share_verdict, verify_user_group
from kdc.errors import NotAcceptable, Unavailable

CURVE_LIMIT: Final = 1024  # jobs: about 0.1 s of one core
FIELD_LIMIT: Final = 256  # jobs: at most 1.5 s of one core, where all are of 4096 bits
VERDICT_LIMIT: Final = 4  # groups: about 1 s each, of 4096 bits
REMEMBERED: Final = 256  # good verdicts, and as many bad ones

Entropy = Callable[[int], bytes]
_T = TypeVar("_T")


class ExponentiationPool:
    """Worker threads for `respond`, of one event loop.

    `entropy` draws the bases of primality tests, in a thread.  A limit counts what is queued and
    under way; `field_threads` is how many cores large groups may take.
    """

    def __init__(
        self,
        entropy: Entropy,
        *,
        curve_limit: int = CURVE_LIMIT,
        field_limit: int = FIELD_LIMIT,
        verdict_limit: int = VERDICT_LIMIT,
        field_threads: int = 1,
    ) -> None:
        self._entropy = entropy
        self._curves = _Lane("dh-curve", curve_limit, threads=1)
        self._fields = _Lane("dh-field", field_limit, threads=field_threads)
        self._verdicts = _Verdicts(self._draw, verdict_limit)
        self._is_closing = False

    async def run(self, jobs: Sequence[DhJob]) -> list[DhShare | NotAcceptable]:
        """One outcome for each job, in order; a bad value or group fails its own job alone.

        Raises `Unavailable` at once, with nothing begun, where a queue has no room for its part of
        the jobs; and where the pool is closed before they are done.
        """
        curves = [job for job in jobs if job.group.is_elliptic]
        fields = [job for job in jobs if not job.group.is_elliptic]
        if self._is_closing or not (
            self._curves.has_room(len(curves))
            and self._fields.has_room(len(fields))
            and self._verdicts.has_room(fields)
        ):
            raise Unavailable("no room for more exponentiations")
        self._verdicts.begin(fields)
        self._curves.queued += len(curves)
        self._fields.queued += len(fields)
        try:
            on_curves, *in_fields = await asyncio.gather(
                self._run_curves(curves), *map(self._run_field, fields)
            )
        finally:
            # Cancelled: what had not begun never will, what has ends in milliseconds.
            self._curves.queued -= len(curves)
            self._fields.queued -= len(fields)
        elliptic, modular = iter(on_curves), (part[0] for part in in_fields)
        return [next(elliptic if job.group.is_elliptic else modular) for job in jobs]

    async def close(self) -> None:
        """Ends the threads, each after what it is at; raises `Unavailable` in what is queued."""
        self._is_closing = True
        for lane in (self._curves, self._fields, self._verdicts.lane):
            await asyncio.to_thread(lane.close)

    async def _run_curves(self, jobs: list[DhJob]) -> list[DhShare | NotAcceptable]:
        """All in one hand-over: crossing to a thread and back costs more than an exchange."""
        return await self._curves.submit(partial(self._respond_all, jobs)) if jobs else []

    async def _run_field(self, job: DhJob) -> list[DhShare | NotAcceptable]:
        """By itself, so that several threads can share a batch."""
        try:
            if not job.group.is_verified:
                job = replace(job, group=await self._verdicts.verify(job.group))
        except NotAcceptable as error:
            return [_without_traceback(error)]
        return await self._fields.submit(partial(self._respond_all, [job]))

    def _respond_all(self, jobs: list[DhJob]) -> list[DhShare | NotAcceptable]:
        """In a worker thread."""
        outcomes: list[DhShare | NotAcceptable] = []
        for job in jobs:
            if self._is_closing:
                raise Unavailable("the pool is closed")
            try:
                outcomes.append(respond(job))
            except NotAcceptable as error:
                outcomes.append(_without_traceback(error))
        return outcomes

    def _draw(self, octets: int) -> bytes:
        """Called for each round of a primality test, which so ends soon after `close`."""
        if self._is_closing:
            raise Unavailable("the pool is closed")
        return self._entropy(octets)


class _Lane:
    """A queue with its threads; `queued` is counted by the event loop alone."""

    def __init__(self, name: str, limit: int, *, threads: int) -> None:
        self.queued = 0
        self._limit = limit
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def has_room(self, count: int) -> bool:
        return count == 0 or self.queued + count <= self._limit

    def submit(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Raises `Unavailable` once it is closed."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._executor, function)
        except RuntimeError:
            raise Unavailable("no thread for exponentiations") from None

    def close(self) -> None:
        """Waits for the threads."""
        self._executor.shutdown()


class _Verdicts:
    """Which primes of user-defined groups are safe; each is judged once, however many ask.

    Remembered by P alone: a peer that sends one P with ever new G buys no further verdict.  Good
    and bad are apart, so that a flood of bad primes, which cost nothing to make, drives out no good
    one.
    """

    def __init__(self, entropy: Entropy, limit: int) -> None:
        self.lane = _Lane("dh-verdict", limit, threads=1)
        self._entropy = entropy
        self._good: OrderedDict[int, DhGroup] = OrderedDict()
        self._bad: OrderedDict[int, str] = OrderedDict()  # and the error's text
        self._pending: dict[int, asyncio.Future[DhGroup]] = {}

    def has_room(self, jobs: list[DhJob]) -> bool:
        """Whether every verdict that these need is known, on its way, or can be begun."""
        return self.lane.has_room(len(self._unknown(jobs)))

    def begin(self, jobs: list[DhJob]) -> None:
        """Begins the verdicts that are missing, before anything else can take the room."""
        for group in self._unknown(jobs).values():
            self._begin(group)

    async def verify(self, group: DhGroup) -> DhGroup:
        """The group with its verdict; raises `NotAcceptable`."""
        prime = group.prime
        if prime in self._bad:
            self._bad.move_to_end(prime)
            raise NotAcceptable(self._bad[prime])
        if prime in self._good:
            self._good.move_to_end(prime)
            return share_verdict(self._good[prime], group)
        pending = self._pending.get(prime) or self._begin(group)
        # Whoever asks may be cancelled; others wait for the same verdict.
        return share_verdict(await asyncio.shield(pending), group)

    def _begin(self, group: DhGroup) -> asyncio.Future[DhGroup]:
        pending = self.lane.submit(partial(verify_user_group, group, self._entropy))
        self.lane.queued += 1
        self._pending[group.prime] = pending
        pending.add_done_callback(partial(self._settle, group.prime))
        return pending

    def _unknown(self, jobs: list[DhJob]) -> dict[int, DhGroup]:
        known = (self._good, self._bad, self._pending)
        groups = (job.group for job in jobs if not job.group.is_verified)
        return {g.prime: g for g in groups if not any(g.prime in primes for primes in known)}

    def _settle(self, prime: int, pending: asyncio.Future[DhGroup]) -> None:
        self.lane.queued -= 1
        del self._pending[prime]
        error = pending.exception()
        if error is None:
            _remember(self._good, prime, pending.result())
        elif isinstance(error, NotAcceptable):
            _remember(self._bad, prime, str(error))


def _remember(cache: OrderedDict[int, _T], prime: int, verdict: _T) -> None:
    cache[prime] = verdict
    if len(cache) > REMEMBERED:
        cache.popitem(last=False)


def _without_traceback(error: NotAcceptable) -> NotAcceptable:
    """The frames of the traceback would keep a private value alive as long as the outcome."""
    return NotAcceptable(*error.args)
