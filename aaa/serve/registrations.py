"""The batch pipeline of the home side (DESIGN section 2): load, judge, commit, answer.

Requests come in verified and well-formed; answers leave through each request's own callback, and
only after what they promise is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aaa.exchange import AccessReject, AccessResponse, Peer
from aaa.radius.counters import Counters
from aaa.roles.home_agent import Agreeable, Deny, Grant, Repeat, Verdict
from aaa.roles.home_agent_request import StructuredRequest
from aaa.roles.home_agent_terms import Exponentiation
from aaa.serve.batches import Batches
from aaa.serve.exponentiation import ExponentiationPool
from aaa.serve.registrar import Registrar
from kdc.crypto.dh import DhJob, DhShare, private_octets
from kdc.distribution import KeyDistribution
from kdc.errors import DENIED_RESOURCES, LocalError, RemoteError, RoamkeyError, Unavailable
from kdc.model import Pair, Secret
from kdc.records import Admission, Fate, Issued, Settled, VerifiedRegistration

MAXIMUM_WAITING: Final = 8192
# A foreign AAA asks again after 2 s and gives up after 2.5 (foreign.toml, deadline_s): while
# something has waited so long that it has been asked for again, what comes is refused at once, and
# what has waited until nobody wants it is not begun, for when requests come so much faster than
# they are worked on that the queue grew too long meanwhile.  Less would refuse what only waits for
# another KDC to take over, which takes up to 2 s (RemoteKeyDistribution, its watchdog).
REFUSING_AFTER_S: Final = 2.0
MAXIMUM_WAIT_S: Final = 2.5
MAXIMUM_CLOCK_ERROR_S: Final = 1.0  # PROTOCOL section 3: a node further off says 130
_ATTEMPTS: Final = 4
_JUDGED_A_TURN: Final = 32

BATCHES: Final = "home.batches"
REGISTRATIONS: Final = "home.registrations"
CONFLICTS: Final = "home.conflicts"
COMMIT_UNKNOWN: Final = "home.commit_unknown"
REFUSED: Final = "home.commit_refused"
SHED: Final = "home.shed"
UNANSWERABLE: Final = "home.unanswerable"  # what a mistake of ours keeps from its answer, alone


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way; `send` gets its response, or None where nothing may be said."""

    structured: StructuredRequest
    peer: Peer
    send: Callable[[AccessResponse | None], None]
    attempts: int = 0
    waits_since: float = 0.0  # monotonic
    answered: bool = False

    def answer(self, response: AccessResponse | None) -> None:
        """The first answer counts: a batch that fails later changes nothing of it."""
        if not self.answered:
            self.answered = True
            self.send(response)


class RegistrationPipeline:
    """Gathers whatever is waiting into batches and never makes a lone request wait."""

    def __init__(  # noqa: PLR0913 - what it works with, and what a test replaces
        self,
        kdc: KeyDistribution,
        registrar: Registrar,
        exponentiations: ExponentiationPool,
        counters: Counters,
        *,
        entropy: Callable[[int], bytes],
        on_granted: Callable[[VerifiedRegistration, Issued], None] | None = None,
        on_shed: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_granted` is told of each grant that has been committed, before it is answered.

        `on_shed` is told whose request is refused for want of room, by the name of the peer.
        """
        self._kdc = kdc
        self._registrar = registrar
        self._exponentiations = exponentiations
        self._counters = counters
        self._entropy = entropy
        self._on_granted = on_granted
        self._on_shed = on_shed
        self._clock = clock
        self._monotonic = monotonic
        self._batches: Batches[Work] = Batches(self._run, lambda work: work.peer.name)
        self._slow: set[asyncio.Task[None]] = set()
        self._slow_records: set[int] = set()  # those of the requests under way alone

    def submit(self, work: Work) -> None:
        """Takes the request in, or answers 130 at once where it would wait too long.

        Each peer has a queue of its own: one that sends too much is refused, and no other.
        """
        work.waits_since = self._monotonic()
        oldest = self._batches.oldest_of(work.peer.name)
        is_late = oldest is not None and work.waits_since - oldest.waits_since > REFUSING_AFTER_S
        if is_late or not self._batches.has_room(work.peer.name, MAXIMUM_WAITING):
            self._shed([work])
            return
        self._batches.add(work)

    def _shed(self, batch: list[Work]) -> None:
        self._counters.add(SHED, len(batch))
        if self._on_shed is not None:
            for work in batch:
                self._on_shed(work.peer.name)
        _answer_all(batch, AccessReject(DENIED_RESOURCES, reason="too much is waiting"))

    def start_batches(self) -> None:
        """To be called once a turn, when the socket is drained."""
        self._batches.start()

    async def drain(self) -> None:
        """Waits until everything that was taken in has been answered."""
        self._batches.start()
        while under_way := self._batches.running | self._slow:
            await asyncio.wait(under_way)
            self._batches.start()

    async def _run(self, batch: list[Work]) -> None:
        """One batch to its end: what conflicts is judged anew, a few times at most."""
        begun = self._monotonic() - MAXIMUM_WAIT_S
        late = [work for work in batch if work.waits_since < begun]
        if late:
            self._shed(late)
            batch = [work for work in batch if work.waits_since >= begun]
        self._counters.add(BATCHES)
        try:
            while batch:
                batch = self._still_tried(await self._attempt(batch))
        except BaseException:
            # Cancelled, or a bug: nobody is to wait for an answer that will not come.
            _answer_all(batch, None)
            raise

    @staticmethod
    def _still_tried(conflicts: list[Work]) -> list[Work]:
        spent = [work for work in conflicts if work.attempts >= _ATTEMPTS]
        _answer_all(spent, AccessReject(DENIED_RESOURCES))
        return [work for work in conflicts if work.attempts < _ATTEMPTS]

    async def _attempt(self, batch: list[Work]) -> list[Work]:
        """Steps 5-9 for a batch; returns those in conflict."""
        for work in batch:
            work.attempts += 1
        admissions = await self._kdc.admit([work.structured.request for work in batch])
        judged, conflicts = self._one_of_each_record(await self._judge(batch, admissions))
        slow = [item for item in judged if not all(e.group.is_elliptic for e in _wanted(item))]
        for item in slow:
            # A large group takes as long as a hundred registrations: it leaves the batch.
            self._slow_records.add(item.record_id)
            task = asyncio.get_running_loop().create_task(self._finish_alone(item))
            self._slow.add(task)
            task.add_done_callback(self._on_slow_done)
        quick = [item for item in judged if item not in slow]
        await self._exponentiate(quick)
        return conflicts + await self._settle(quick)

    def _one_of_each_record(self, judged: list[_Judged]) -> tuple[list[_Judged], list[Work]]:
        """Those whose keys may be made, and those that come after another one of their record.

        Of one record one request can be committed; a hub that replays it a hundred times must not
        have a hundred exponentiations made.
        """
        taken: set[int] = set()
        kept, conflicts = [], []
        for item in judged:
            if isinstance(item.verdict, Repeat):
                kept.append(item)
            elif item.record_id in self._slow_records:
                item.work.answer(None)  # a retransmission finds what has been committed by then
            elif item.record_id in taken:
                self._counters.add(CONFLICTS)
                conflicts.append(item.work)
            else:
                taken.add(item.record_id)
                kept.append(item)
        return kept, conflicts

    async def _finish_alone(self, item: _Judged) -> None:
        try:
            await self._exponentiate([item])
            again = self._still_tried(await self._settle([item]))
        except BaseException:
            item.work.answer(None)
            raise
        finally:
            self._slow_records.discard(item.record_id)
        for work in again:
            work.waits_since = self._monotonic()  # it has been worked on since it came
        self._batches.put_back(again)
        self._batches.start()

    def _on_slow_done(self, task: asyncio.Task[None]) -> None:
        self._slow.discard(task)
        if not task.cancelled():
            task.result()  # a bug is told to the loop's handler

    async def _settle(self, items: list[_Judged]) -> list[Work]:
        """Steps 7 to 9 for those whose verdict is final; returns those in conflict."""
        final = [(item, item.verdict) for item in items if not isinstance(item.verdict, Agreeable)]
        if not final:
            return []
        fates = await self._kdc.settle(
            [self._registrar.decide(verdict, item.admission) for item, verdict in final]
        )
        conflicts = []
        for (item, verdict), fate in zip(final, fates, strict=True):
            if fate is Fate.CONFLICT:
                self._counters.add(CONFLICTS)
                conflicts.append(item.work)
            else:
                self._answer(item.work, verdict, fate)
        return conflicts

    def _answer(self, work: Work, verdict: Grant | Deny | Repeat, fate: Settled | Fate) -> None:
        if isinstance(fate, Settled):
            if isinstance(verdict, Grant) and isinstance(fate.outcome, Issued):
                self._counters.add(REGISTRATIONS)
                if self._on_granted is not None:
                    self._on_granted(verdict.verified, fate.outcome)
            # Step 9
            try:
                response = self._registrar.respond(verdict.opened, fate)
            except RoamkeyError:  # committed, and as a reply that was lost (PROTOCOL 5.5)
                self._counters.add(UNANSWERABLE)
                response = None
            work.answer(response)
        elif fate is Fate.UNKNOWN:
            # DESIGN section 4: no reply; the retransmission finds the row, or does not.
            self._counters.add(COMMIT_UNKNOWN)
            work.answer(None)
        else:
            if fate is Fate.REFUSED:
                self._counters.add(REFUSED)
            work.answer(AccessReject(DENIED_RESOURCES))

    async def _judge(self, batch: list[Work], admissions: list[Admission | Fate]) -> list[_Judged]:
        """Step 6 for each; what needs no commit is answered here, a poison item fails alone."""
        judged = []
        for index, (work, admission) in enumerate(zip(batch, admissions, strict=True)):
            if index % _JUDGED_A_TURN == _JUDGED_A_TURN - 1:
                await asyncio.sleep(0)  # the socket and the other batches go on meanwhile
            if isinstance(admission, Fate) or not self._is_in_time(admission):
                work.answer(AccessReject(DENIED_RESOURCES))
                continue
            try:
                verdict = self._registrar.judge(work.structured, admission, work.peer)
            except RemoteError as error:
                work.answer(AccessReject(error.reply_code, reason=str(error)))
            except LocalError:
                self._counters.add(UNANSWERABLE)
                work.answer(AccessReject(DENIED_RESOURCES))
            else:
                judged.append(_Judged(work, admission, verdict))
        return judged

    def _is_in_time(self, admission: Admission) -> bool:
        """PROTOCOL section 3: a node whose clock is not the database's says 130."""
        return abs(admission.clock - self._clock()) <= MAXIMUM_CLOCK_ERROR_S

    async def _exponentiate(self, items: list[_Judged]) -> None:
        """The Diffie-Hellman of these in one hand-over; then every verdict is final.

        Where it finds no room they are answered 130 and stay `Agreeable`.
        """
        waiting = [item for item in items if isinstance(item.verdict, Agreeable)]
        wanted = [(item, e) for item in waiting for e in _wanted(item)]
        if not wanted:
            return
        jobs = [
            DhJob(e.group, Secret(self._entropy(private_octets(e.group))), e.peer_value)
            for _, e in wanted
        ]
        try:
            results = await self._exponentiations.run(jobs)
        except Unavailable:
            self._shed([item.work for item in waiting])
            return
        shares: dict[int, dict[Pair, DhShare | None]] = {}
        for (item, e), result in zip(wanted, results, strict=True):
            share = result if isinstance(result, DhShare) else None
            shares.setdefault(id(item), {})[e.pair] = share
        for item in waiting:
            assert isinstance(item.verdict, Agreeable)
            try:
                item.verdict = self._registrar.home_agent.conclude(item.verdict, shares[id(item)])
            except RoamkeyError:  # stays `Agreeable`: nothing of it is committed
                self._counters.add(UNANSWERABLE)
                item.work.answer(AccessReject(DENIED_RESOURCES))


@dataclass(slots=True, eq=False)
class _Judged:
    """One request with its verdict, on its way to the KDC."""

    work: Work
    admission: Admission
    verdict: Verdict

    @property
    def record_id(self) -> int:
        assert self.admission.record is not None  # a verdict is of a record
        return self.admission.record.record_id


def _wanted(item: _Judged) -> tuple[Exponentiation, ...]:
    return item.verdict.exponentiations if isinstance(item.verdict, Agreeable) else ()


def _answer_all(batch: list[Work], response: AccessResponse | None) -> None:
    for work in batch:
        work.answer(response)
