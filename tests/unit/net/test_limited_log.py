"""Whoever sends us packets cannot fill a disk with our log, and what was left out is counted."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.testing import capture_logs

from aaa.net.limited_log import MAXIMUM_SOURCES, OTHERS, LimitedLog


class Clock:
    now = 1000.0


def _log(clock: Clock) -> LimitedLog:
    return LimitedLog(structlog.get_logger("test"), monotonic=lambda: clock.now)


def _lines(logged: list[Any]) -> list[tuple[str, str, int]]:
    return [(line["event"], line["source"], line.get("suppressed", 0)) for line in logged]


def test_one_line_of_a_kind_and_source_in_ten_seconds_with_the_count_since() -> None:
    clock = Clock()
    with capture_logs() as logged:
        log = _log(clock)
        for _ in range(50):
            log.tell("malformed", "hub", address="192.0.2.1")
        log.tell("malformed", "fa1")
        log.tell("bad authenticator", "hub")
        clock.now += 9.9
        log.tell("malformed", "hub")
        clock.now += 0.2
        log.tell("malformed", "hub")
        log.tell("malformed", "hub")
        clock.now += 100
        log.tell("malformed", "hub")
        clock.now += 100
        log.tell("malformed", "hub")
    assert _lines(logged) == [
        ("malformed", "hub", 0),
        ("malformed", "fa1", 0),
        ("bad authenticator", "hub", 0),
        ("malformed", "hub", 50),
        ("malformed", "hub", 1),
        ("malformed", "hub", 0),
    ]
    assert logged[0]["address"] == "192.0.2.1"


def test_forged_sources_take_neither_memory_nor_lines_without_end() -> None:
    clock = Clock()
    with capture_logs() as logged:
        log = _log(clock)
        for number in range(20 * MAXIMUM_SOURCES):
            log.tell("unknown client", f"source-{number}", address="192.0.2.1")
            clock.now += 10.0 / MAXIMUM_SOURCES / 20
    # One period: so many sources, and one line for all the others.
    assert len(logged) <= MAXIMUM_SOURCES + 2
    assert sum(line["source"] == OTHERS for line in logged) == 1
    assert len(log._said) <= MAXIMUM_SOURCES + 1
    clock.now += 11
    with capture_logs() as logged:
        log.tell("unknown client", "one more")
    assert _lines(logged) == [("unknown client", "one more", 0)]
