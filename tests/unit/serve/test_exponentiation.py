"""The exponentiation pool: outcomes in order, queues that shed, and an event loop that turns on."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aaa.serve import exponentiation
from aaa.serve.exponentiation import ExponentiationPool
from kdc.crypto.dh import (
    FIXED_GROUPS,
    P256,
    PRIMALITY_ROUNDS,
    X25519,
    DhGroup,
    DhJob,
    DhKey,
    DhShare,
    agree,
    private_octets,
    respond,
    user_group,
)
from kdc.errors import NotAcceptable, Unavailable
from kdc.model import Secret
from tests.vectors_loader import octets, vectors

_SAFE = octets(next(v for v in vectors("derivation") if v["id"].endswith("user-safe"))["in"]["p"])
_LARGEST = FIXED_GROUPS[16].prime.to_bytes(512, "big")  # as a user-defined group
_drawn = random.Random(23)


class _Entropy:
    """Seeded octets for primality bases; counts the draws, and can hold them back."""

    def __init__(self) -> None:
        self.draws = 0
        self.gate = threading.Event()
        self.gate.set()
        self._random = random.Random(29)

    def __call__(self, count: int) -> bytes:
        assert self.gate.wait(30)
        self.draws += 1
        return self._random.randbytes(count)


@asynccontextmanager
async def _opened(entropy: _Entropy, **limits: int) -> AsyncIterator[ExponentiationPool]:
    pool = ExponentiationPool(entropy, **limits)
    try:
        yield pool
    finally:
        entropy.gate.set()
        await pool.close()


def _private(group: DhGroup) -> Secret:
    return Secret(_drawn.randbytes(private_octets(group)))


def _job(number: int) -> DhJob:
    group = FIXED_GROUPS[number]
    return DhJob(group, _private(group), DhKey.of(group, _private(group)).public_value)


def _user_job(prime: bytes = _SAFE, generator: int = 2, value: int = 4) -> DhJob:
    group = user_group(prime, bytes((generator,)))
    return DhJob(group, _private(group), value.to_bytes(len(prime), "big"))


def _bad_prime(index: int) -> bytes:
    """Refused by trial division: three divides it, whatever the index."""
    return (3 * (2**2046 + 2 * index + 1)).to_bytes(256, "big")


async def test_outcomes_keep_their_order_and_a_bad_job_fails_alone() -> None:
    jobs = [
        _job(X25519),
        DhJob(FIXED_GROUPS[X25519], _private(FIXED_GROUPS[X25519]), bytes(32)),
        _job(14),
        DhJob(FIXED_GROUPS[14], _private(FIXED_GROUPS[14]), bytes(256)),
        _job(P256),
        _user_job(),
        _user_job(_bad_prime(0)),
        _user_job(value=1),
        _job(1),
        _job(X25519),
    ]
    async with _opened(_Entropy()) as pool:
        outcomes = await pool.run(jobs)
        assert await pool.run([]) == []
    bad = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, NotAcceptable)]
    assert bad == [1, 3, 6, 7]
    for index in (0, 2, 4, 8, 9):
        assert outcomes[index] == respond(jobs[index])
    share = outcomes[5]
    assert isinstance(share, DhShare)
    peer = DhKey(jobs[5].group, jobs[5].private, b"")
    assert share.z == agree(peer, jobs[5].peer_value)


async def test_a_refusal_keeps_no_frame_that_holds_a_private_value() -> None:
    bad = [DhJob(FIXED_GROUPS[n], _private(FIXED_GROUPS[n]), b"") for n in (X25519, 14)]
    async with _opened(_Entropy()) as pool:
        for outcome in await pool.run([*bad, _user_job(_bad_prime(0))]):
            assert isinstance(outcome, NotAcceptable)
            assert outcome.__traceback__ is None
            assert outcome.__context__ is None  # the error behind it would keep frames as well


async def test_the_event_loop_turns_while_large_groups_are_computed() -> None:
    """A verdict of 4096 bits is made of calls of 15 ms: a loop that waits for them ticks slower."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    async with _opened(_Entropy(), field_threads=1) as pool:
        ticker = asyncio.create_task(tick())
        outcomes = await pool.run([_user_job(_LARGEST, value=9), *(_job(16) for _ in range(32))])
        ticker.cancel()
    assert all(isinstance(outcome, DhShare) for outcome in outcomes)
    assert len(gaps) > 100
    assert statistics.median(gaps) < 0.005
    assert max(gaps) < 0.25  # as long as a busy machine may take the core away


async def test_a_curve_does_not_wait_behind_large_groups() -> None:
    async with _opened(_Entropy()) as pool:
        jobs = [_user_job(_LARGEST), *(_job(16) for _ in range(64))]
        large = asyncio.create_task(pool.run(jobs))
        await asyncio.sleep(0)
        for _ in range(10):
            assert isinstance((await pool.run([_job(X25519)]))[0], DhShare)
        assert not large.done()
        assert len(await large) == 65


async def test_a_full_queue_sheds_at_once_and_serves_again_when_it_has_room() -> None:
    entropy = _Entropy()
    entropy.gate.clear()
    async with _opened(entropy, curve_limit=4, field_limit=3, verdict_limit=1) as pool:
        held = asyncio.create_task(pool.run([_user_job()] * 3))
        await asyncio.sleep(0)
        for too_many in ([_job(14)], [_job(X25519)] * 5, [_job(14), _job(X25519)]):
            with pytest.raises(Unavailable) as shed:
                await asyncio.wait_for(pool.run(too_many), 1)
            assert shed.value.reply_code == 130
        assert len(await pool.run([_job(X25519)] * 4)) == 4  # another queue, not full
        assert not held.done()
        entropy.gate.set()
        assert len(await held) == 3
        assert len(await pool.run([_job(1)] * 3)) == 3


async def test_verdicts_have_a_queue_of_their_own() -> None:
    entropy = _Entropy()
    entropy.gate.clear()
    async with _opened(entropy, verdict_limit=1) as pool:
        held = asyncio.create_task(pool.run([_user_job()]))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await pool.run([_job(X25519), _user_job(_bad_prime(0))])
        assert isinstance((await pool.run([_job(14)]))[0], DhShare)  # a fixed group needs none
        entropy.gate.set()
        await held
        assert isinstance((await pool.run([_user_job(_bad_prime(0))]))[0], NotAcceptable)


async def test_one_prime_is_judged_once_whatever_its_generator() -> None:
    entropy = _Entropy()
    async with _opened(entropy, verdict_limit=1) as pool:
        generators = range(2, 12)
        runs = [pool.run([_user_job(generator=g)]) for g in generators]
        for [share] in await asyncio.gather(*runs):
            assert isinstance(share, DhShare)
        assert entropy.draws == PRIMALITY_ROUNDS
        job = _user_job(generator=13)
        [share] = await pool.run([job])
        assert isinstance(share, DhShare)
        x = int.from_bytes(job.private.reveal(), "big")
        assert int.from_bytes(share.public_value, "big") == pow(13, x, job.group.prime)
        assert entropy.draws == PRIMALITY_ROUNDS


async def test_a_bad_verdict_is_remembered_too() -> None:
    entropy = _Entropy()
    prime = (2**2047 + 2895).to_bytes(256, "big")  # prime, (P-1)/2 is not: it costs one base
    async with _opened(entropy) as pool:
        for _ in range(3):
            [outcome] = await pool.run([_user_job(prime)])
            assert isinstance(outcome, NotAcceptable)
            assert outcome.reply_code == 129
    assert entropy.draws == 1


async def test_a_flood_of_bad_primes_drives_out_no_good_one() -> None:
    entropy = _Entropy()
    async with _opened(entropy, verdict_limit=64) as pool:
        await pool.run([_user_job()])
        for start in range(0, exponentiation.REMEMBERED + 64, 64):
            flood = [_user_job(_bad_prime(start + index)) for index in range(64)]
            assert all(isinstance(o, NotAcceptable) for o in await pool.run(flood))
        assert len(pool._verdicts._bad) == exponentiation.REMEMBERED
        assert isinstance((await pool.run([_user_job()]))[0], DhShare)
    assert entropy.draws == PRIMALITY_ROUNDS


async def test_one_who_gives_up_leaves_room_and_others_their_verdict() -> None:
    entropy = _Entropy()
    entropy.gate.clear()
    async with _opened(entropy, field_limit=2, verdict_limit=1) as pool:
        impatient = asyncio.create_task(pool.run([_user_job()]))
        patient = asyncio.create_task(pool.run([_user_job(generator=3)]))
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await pool.run([_job(14)])
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert isinstance((await pool.run([_job(14)]))[0], DhShare)
        entropy.gate.set()
        assert isinstance((await patient)[0], DhShare)
    assert entropy.draws == PRIMALITY_ROUNDS


async def test_closing_ends_what_is_queued_and_every_thread() -> None:
    entropy = _Entropy()
    pool = ExponentiationPool(entropy)
    entropy.gate.clear()
    waiting = [asyncio.create_task(pool.run(jobs)) for jobs in ([_user_job()], [_job(16)] * 250)]
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await pool.run([_job(X25519)])
    entropy.gate.set()
    async with asyncio.timeout(30):
        await closing
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert not [t for t in threading.enumerate() if t.name.startswith("dh-")]
    assert entropy.draws <= 1


async def test_a_bug_in_a_verdict_is_told_and_not_remembered() -> None:
    class Broken(_Entropy):
        def __call__(self, count: int) -> bytes:
            if not self.draws:
                self.draws = 1
                raise ZeroDivisionError
            return super().__call__(count)

    async with _opened(Broken()) as pool:
        with pytest.raises(ZeroDivisionError):
            await pool.run([_user_job()])
        assert isinstance((await pool.run([_user_job()]))[0], DhShare)
