"""The batch pipeline on a home side in memory: one request's fate is never another's."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import pytest

from aaa.exchange import AccessAccept, AccessReject, AccessResponse
from aaa.radius.counters import Counters
from aaa.roles.foreign_agent import Relayed
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent import HomeAgent
from aaa.roles.home_agent_request import read_request
from aaa.roles.mobile_node_terms import MnTerms
from aaa.serve.exponentiation import ExponentiationPool
from aaa.serve.registrar import Registrar
from aaa.serve.registrations import (
    CONFLICTS,
    MAXIMUM_WAIT_S,
    MAXIMUM_WAITING,
    REFUSING_AFTER_S,
    SHED,
    UNANSWERABLE,
    RegistrationPipeline,
    Work,
)
from kdc.crypto.dh import DhJob
from kdc.errors import DENIED_RESOURCES, LocalError, RemoteError
from kdc.model import Mode, Pair, Secret
from kdc.negotiation import OfferPlan, Policy
from kdc.records import Admission, Decision, Fate, RepeatDecision, Settled
from kdc.wire.registration import RegistrationRequest
from tests.protocol.world import VISITED, World

LARGE = MnTerms(plans={Pair.MN_HA: OfferPlan(Mode.STATEFUL, (14,))})


class MemoryDistribution:
    """The KDC of a world as a pipeline asks it, compare-and-set and all."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def admit(self, requests: Sequence[RegistrationRequest]) -> list[Admission | Fate]:
        home, now = self.world.home, self.world.now
        spis = [request.mhae.spi for request in requests]
        return [home.center.admit(home.store.find(spi), spi, clock=now) for spi in spis]

    async def settle(self, decisions: Sequence[Decision]) -> list[Settled | Fate]:
        return [self._settle(decision) for decision in decisions]

    def _settle(self, decision: Decision) -> Settled | Fate:
        home = self.world.home
        repeats = isinstance(decision, RepeatDecision)
        if not repeats and decision.record.revision != home.store.record.revision:
            return Fate.CONFLICT
        try:
            prepared = home.center.prepare(decision, home.allocator, Secret(bytes(32)))
        except RemoteError:
            return Fate.UNAVAILABLE
        if prepared.change is not None:
            home.store.commit(prepared.change, self.world.now)
        return prepared.settled


class CountingPool(ExponentiationPool):
    """The real threads, and how many exponentiations they were asked for."""

    def __init__(self) -> None:
        super().__init__(os.urandom)
        self.asked = 0

    async def run(self, jobs: Sequence[DhJob]) -> Any:
        self.asked += len(jobs)
        return await super().run(jobs)


class Stage:
    """A pipeline of one world, and what it has answered."""

    def __init__(self, world: World, registrar: Registrar | None = None) -> None:
        self.world = world
        self.counters = Counters()
        self.pool = CountingPool()
        self.answers: dict[int, AccessResponse | None] = {}
        self.monotonic = 50.0
        self.shed: list[str] = []
        self.pipeline = RegistrationPipeline(
            MemoryDistribution(world),
            registrar or Registrar(HomeAgent(world.policy)),
            self.pool,
            self.counters,
            entropy=os.urandom,
            on_shed=self.shed.append,
            clock=lambda: world.now,
            monotonic=lambda: self.monotonic,
        )

    def submit(self, number: int, relayed: Relayed) -> None:
        structured = read_request(relayed.access, vendor_id=self.world.policy.vendor_id)

        def send(response: AccessResponse | None) -> None:
            assert number not in self.answers, "answered twice"
            self.answers[number] = response

        self.pipeline.submit(Work(structured, VISITED, send))

    async def finish(self) -> None:
        await asyncio.wait_for(self.pipeline.drain(), 20)
        await self.pool.close()


def relayed_by(world: World, agent: int = 0) -> Relayed:
    return world.relay(world.agents[agent], world.request(world.agents[agent]).octets)


def test_many_copies_of_a_request_are_one_exponentiation() -> None:
    """A hub that replays a request costs one exponentiation and one commit, whatever it sends."""

    async def play() -> Stage:
        world = World(mn_terms=MnTerms())
        stage, relayed = Stage(world), relayed_by(world)
        for number in range(100):
            stage.submit(number, relayed)
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert stage.pool.asked == 1
    assert len(stage.world.store.registrations) == 1
    assert stage.counters.snapshot()[CONFLICTS] == 99
    replies = {answer for answer in stage.answers.values() if isinstance(answer, AccessAccept)}
    assert len(stage.answers) == 100 and len(replies) == 1, "duplicates get the same octets"


def test_copies_of_a_request_with_a_large_group_are_one_exponentiation() -> None:
    async def play() -> Stage:
        world = World(mn_terms=LARGE)
        stage, relayed = Stage(world), relayed_by(world)
        stage.submit(0, relayed)
        for number in range(1, 50):
            stage.pipeline.start_batches()
            await asyncio.sleep(0)
            stage.submit(number, relayed)
        await asyncio.wait_for(stage.pipeline.drain(), 20)
        stage.submit(50, relayed)
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert stage.pool.asked == 1
    assert len(stage.world.store.registrations) == 1
    accepted = [answer for answer in stage.answers.values() if isinstance(answer, AccessAccept)]
    assert isinstance(stage.answers[50], AccessAccept), "the retransmission finds the outcome"
    assert len(stage.answers) == 51 and len(set(accepted)) == 1


class BrokenRegistrar(Registrar):
    """A mistake of ours in the work on requests that come through one agent."""

    def __init__(self, home_agent: HomeAgent, *, place: str, nai: bytes) -> None:
        super().__init__(home_agent)
        self._place, self._nai = place, nai

    def judge(self, structured: Any, admission: Any, peer: Any) -> Any:
        self._fail("judge", structured.access.fa_nai.octets)
        return super().judge(structured, admission, peer)

    def respond(self, opened: Any, settled: Any) -> Any:
        self._fail("respond", opened.structured.access.fa_nai.octets)
        return super().respond(opened, settled)

    def _fail(self, place: str, nai: bytes) -> None:
        if (place, nai) == (self._place, self._nai):
            raise LocalError("a mistake of ours")


@pytest.mark.parametrize(("place", "answer"), [("judge", DENIED_RESOURCES), ("respond", None)])
def test_a_mistake_in_one_request_is_no_other_requests(place: str, answer: int | None) -> None:
    """The others of its batch are answered as if it had not been there."""

    async def play() -> Stage:
        good, bad = World(), World(seed=2)
        nai = bad.agents[1].identity.nai.octets
        stage = Stage(good, BrokenRegistrar(HomeAgent(good.policy), place=place, nai=nai))
        two = {world.store.record.unspent[0]: world for world in (good, bad)}
        stage.pipeline = RegistrationPipeline(
            Both(two),
            BrokenRegistrar(HomeAgent(good.policy), place=place, nai=nai),
            stage.pool,
            stage.counters,
            entropy=os.urandom,
            clock=lambda: good.now,
        )
        stage.submit(0, relayed_by(bad, 1))
        stage.submit(1, relayed_by(good))
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert isinstance(stage.answers[1], AccessAccept)
    assert stage.answers[0] == (None if answer is None else AccessReject(answer))
    assert stage.counters.snapshot()[UNANSWERABLE] == 1


class Both:
    """Two records, each of a world of its own, behind one KDC."""

    def __init__(self, worlds: dict[int, World]) -> None:
        for number, world in enumerate(worlds.values(), 1):
            world.store.replace_record(record_id=number)
        self._by_spi = {spi: MemoryDistribution(world) for spi, world in worlds.items()}

    async def admit(self, requests: Sequence[RegistrationRequest]) -> list[Admission | Fate]:
        return [(await self._by_spi[request.mhae.spi].admit([request]))[0] for request in requests]

    async def settle(self, decisions: Sequence[Decision]) -> list[Settled | Fate]:
        return [(await self._by_spi[decision.spi].settle([decision]))[0] for decision in decisions]


def test_a_mistake_after_the_exponentiation_is_the_one_requests() -> None:
    class Broken(HomeAgent):
        def conclude(self, agreeable: Any, shares: Any) -> Any:
            raise LocalError("a mistake of ours")

    async def play() -> Stage:
        world = World(mn_terms=MnTerms())
        stage = Stage(world, Registrar(Broken(world.policy)))
        stage.submit(0, relayed_by(world))
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert stage.answers == {0: AccessReject(DENIED_RESOURCES)}
    assert stage.world.store.registrations == []


def test_who_is_told_which_pair_failed() -> None:
    """The FA-HA pair fails: the node is told, gives up no suite, and offers the same again."""
    default = World().home_terms
    policies = dict(default.policies)
    policies[Pair.FA_HA] = dataclasses.replace(policies[Pair.FA_HA], suites=frozenset())
    world = World(
        mn_terms=MnTerms(),
        home_terms=dataclasses.replace(default, policies=policies),
        fa_terms=FaTerms({pair: Policy() for pair in Pair}, OfferPlan(Mode.STATEFUL)),
    )
    first = world.offers()
    _, answer = world.exchange_with(world.agents[0], first)
    assert getattr(answer, "failed_pair", None) is Pair.FA_HA, answer
    (again,) = world.offers()
    assert again.payload.proposals[0].transforms == first[0].payload.proposals[0].transforms
    assert again.payload.proposals[0].number == 1
    assert again.octets != first[0].octets, "its public value is fresh"


def test_what_would_wait_longer_than_its_client_is_refused_at_once() -> None:
    async def play() -> Stage:
        stage = Stage(World())
        relayed = relayed_by(stage.world)
        stage.submit(0, relayed)
        stage.monotonic += REFUSING_AFTER_S
        stage.submit(1, relayed)  # just in time
        stage.monotonic += 0.01
        stage.submit(2, relayed)
        assert stage.answers == {2: AccessReject(DENIED_RESOURCES)}
        assert stage.counters[SHED] == 1 and stage.shed == [VISITED.name]
        await asyncio.wait_for(stage.pipeline.drain(), 20)
        stage.monotonic += 100  # nobody waits: however long it was quiet, the next is worked on
        stage.submit(3, relayed)
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert all(isinstance(stage.answers[number], AccessAccept) for number in (0, 1, 3))


def test_what_has_waited_too_long_is_not_begun() -> None:
    """Those that came while nothing was old, and were more than could be done in time."""

    async def play() -> Stage:
        stage = Stage(World())
        relayed = relayed_by(stage.world)
        stage.submit(0, relayed)
        stage.monotonic += REFUSING_AFTER_S
        stage.submit(1, relayed)
        stage.monotonic += MAXIMUM_WAIT_S - REFUSING_AFTER_S + 0.01
        await stage.finish()
        return stage

    stage = asyncio.run(play())
    assert stage.answers[0] == AccessReject(DENIED_RESOURCES)
    assert isinstance(stage.answers[1], AccessAccept)
    assert stage.counters[SHED] == 1
    assert len(stage.world.store.registrations) == 1


def test_more_than_may_wait_are_refused_at_once() -> None:
    async def play() -> None:
        stage = Stage(World())
        relayed = relayed_by(stage.world)
        structured = read_request(relayed.access, vendor_id=stage.world.policy.vendor_id)
        answers: list[AccessResponse | None] = []
        for _ in range(MAXIMUM_WAITING + 3):
            stage.pipeline.submit(Work(structured, VISITED, answers.append))
        assert answers == [AccessReject(DENIED_RESOURCES)] * 3
        await stage.pool.close()

    asyncio.run(play())


def test_a_peer_that_sends_too_much_is_refused_and_no_other() -> None:
    async def play() -> None:
        stage = Stage(World())
        relayed = relayed_by(stage.world)
        structured = read_request(relayed.access, vendor_id=stage.world.policy.vendor_id)
        flood: list[AccessResponse | None] = []
        quiet: list[AccessResponse | None] = []
        for _ in range(MAXIMUM_WAITING):
            stage.pipeline.submit(Work(structured, VISITED, flood.append))
        stage.monotonic += REFUSING_AFTER_S + 0.01
        other = dataclasses.replace(VISITED, name="quiet")
        stage.pipeline.submit(Work(structured, other, quiet.append))
        stage.pipeline.submit(Work(structured, VISITED, flood.append))
        assert (quiet, flood) == ([], [AccessReject(DENIED_RESOURCES)])
        stage.pipeline.start_batches()
        while not quiet:  # noqa: ASYNC110 - it is another task that answers
            await asyncio.sleep(0.001)
        assert isinstance(quiet[0], AccessAccept) and len(flood) < MAXIMUM_WAITING // 2
        await stage.finish()

    asyncio.run(play())
