"""A client gets what it is configured for, whatever the others do."""

from __future__ import annotations

import random

import pytest

from aaa.radius.admission import RateLimit, RateLimits
from kdc.errors import LocalError


def _taken(limits: RateLimits, client: str, times: list[float]) -> int:
    return sum(limits.take(client, now) for now in times)


def test_a_burst_then_the_rate() -> None:
    limits = RateLimits({"fa1": RateLimit(10, 5)})
    assert _taken(limits, "fa1", [100.0] * 20) == 5
    assert _taken(limits, "fa1", [100.25] * 20) == 2  # 2.5 tokens: the half is kept
    assert _taken(limits, "fa1", [100.3125] * 20) == 1
    assert _taken(limits, "fa1", [1000.0] * 20) == 5  # never more than the burst


def test_what_one_spends_is_not_anothers_and_who_has_no_limit_has_none() -> None:
    limits = RateLimits({"fa1": RateLimit(1, 1), "fa2": RateLimit(1, 1)})
    assert _taken(limits, "fa1", [0.0] * 9) == 1
    assert _taken(limits, "fa2", [0.0] * 9) == 1
    assert _taken(limits, "hub", [0.0] * 9) == 9


def test_refusals_cost_nothing() -> None:
    """A client that asks far too often still gets its rate, not less."""
    limits = RateLimits({"fa1": RateLimit(10, 1)})
    every_millisecond = [n / 1000 for n in range(10_000)]
    assert _taken(limits, "fa1", every_millisecond) in (99, 100, 101)


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    limits = RateLimits({"fa1": RateLimit(10, 2)})
    assert _taken(limits, "fa1", [5.0, 5.0, 4.0, 5.0, 4.9]) == 2


def test_never_more_than_burst_and_rate_allow() -> None:
    draw = random.Random(7)
    limits, now, granted = RateLimits({"c": RateLimit(50, 20)}), 0.0, 0
    for _ in range(5000):
        now += draw.expovariate(200)
        granted += limits.take("c", now)
        assert granted <= 20 + 50 * now + 1e-6
    assert granted >= 50 * now - 20


def test_replaced_limits_hold_at_once_and_unchanged_ones_are_not_refilled() -> None:
    limits = RateLimits({"a": RateLimit(1, 3), "b": RateLimit(1, 3)})
    assert _taken(limits, "a", [0.0] * 3) == _taken(limits, "b", [0.0] * 3) == 3
    limits.replace({"a": RateLimit(1, 3), "b": RateLimit(1, 1)})
    assert _taken(limits, "a", [0.0]) == 0
    assert _taken(limits, "b", [0.0] * 3) == 1
    limits.replace({})
    assert _taken(limits, "a", [0.0] * 3) == 3


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_limit_that_lets_nothing_through(rate: float, burst: int) -> None:
    with pytest.raises(LocalError):
        RateLimit(rate, burst)
