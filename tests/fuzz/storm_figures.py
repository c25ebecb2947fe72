"""What a storm has seen at one process, and whether it may be called passed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

# A leak of 20 octets a packet shows in 900,000 packets as 18 MB.  What is below that is the
# allocator's and the database client's, 1 to 4 MB as measured.  What a server keeps on purpose is
# bounded: duplicates of ten seconds, names, pools.
GROWTH_BOUND_KB: Final = 16 * 1024
# What a proxy has under way beside that: at the limit of 500 requests a second for a client some
# 1,500 wait for an answer that never comes, each with all its attributes.  How many there have been
# depends on how fast a machine sends; measured, memory stays then where it has once been.
UNDER_WAY_KB: Final = 24 * 1024
# Counters of a RADIUS server that do not say what became of a packet received.
_NOT_RECEIVED: Final = frozenset(
    {
        "radius.accepts",
        "radius.challenges",
        "radius.rejects",
        "radius.abandoned",
        "radius.over_limit",
        "radius.reject_too_long",
        "radius.rejects_delayed",
        "radius.rejects_not_delayed",
    }
)
_NOT_VERIFIED: Final = (
    "radius.malformed",
    "radius.bad_authenticator",
    "radius.unknown_client",
    "radius.unsupported",
    "radius.over_limit",  # verified, and counted among the requests as well
)
_FORWARDED: Final = ("radius_client.sent", "radius_client.retransmitted")
_SENDS: Final = 3  # of one request, where the server is slow to answer

Counters = Mapping[str, int]


class Unanswered(Exception):
    """A server did not do what it owes; the text says what."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process saw at all of its ports."""

    process: str
    mutated: int
    sent: int  # mutated packets, probes and good requests
    answered: int  # of the probes and good requests
    forwarded: int  # packets that came from another process
    dropped: int  # by the kernel
    growth_kb: int  # since the warm-up
    counters: Counters = field(default_factory=dict)  # of the server
    is_proxy: bool = False
    stream: bool = False  # a bad packet takes with it what stands behind it on its connection

    @property
    def received(self) -> int:
        """Packets of which the server's counters tell what became."""
        return sum(
            count
            for name, count in self.counters.items()
            if name.startswith("radius.") and name not in _NOT_RECEIVED
        )

    @property
    def tested(self) -> int:
        """Mutated packets of which it is sure that the server had them."""
        if self.stream:
            return min(self.mutated, self.received - self.forwarded - self.answered)
        return self.mutated - self.dropped

    @property
    def verified(self) -> int:
        """Packets that were read behind their signature."""
        return self.received - sum(self.counters.get(name, 0) for name in _NOT_VERIFIED)

    def judge(self) -> None:
        """Raises `Unanswered` for a packet without a counter, or with two, and for a leak."""
        expected = self.sent + self.forwarded - self.dropped
        if self.received > expected or (self.received < expected and not self.stream):
            raise Unanswered(f"packets without a counter, or with two: {self}")
        bound_kb = GROWTH_BOUND_KB + (UNDER_WAY_KB if self.is_proxy else 0)
        if self.growth_kb > bound_kb:
            raise Unanswered(f"memory grows by more than {bound_kb} kB: {self}")

    def forwarded_of(self, requests: int) -> Figures:
        """These, where so many requests came from another process that cannot tell its sends.

        What is not ours is theirs, within what they may have sent; raises `Unanswered`.
        """
        forwarded = self.received + self.dropped - self.sent
        if not requests <= forwarded <= _SENDS * requests:
            raise Unanswered(f"{requests} forwarded requests do not explain {forwarded}: {self}")
        return replace(self, forwarded=forwarded)

    def __str__(self) -> str:
        return (
            f"{self.process}: {self.mutated} mutated, {self.tested} tested; of {self.sent} sent"
            f" and {self.forwarded} forwarded {self.dropped} dropped by the kernel,"
            f" {self.received} received, {self.verified} past the signature;"
            f" memory {self.growth_kb:+d} kB"
        )


def count_forwarded(counters: Counters) -> int:
    """Packets that a process has sent on to the next."""
    return sum(counters.get(name, 0) for name in _FORWARDED)


def read_log(text: str) -> list[dict[str, Any]]:
    """The events of a process; raises `Unanswered` for a line that is none, as a traceback is."""
    events = []
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            raise Unanswered(f"its log has the line {line!r}") from None
    return events


class GrowingLog:
    """The log of a process, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def check(self) -> None:
        """Raises `Unanswered` for a new line that is no event."""
        if self._path.stat().st_size == self._position:
            return
        with self._path.open("rb") as opened:
            opened.seek(self._position)
            whole, newline, _ = opened.read().rpartition(b"\n")
        read_log(whole.decode(errors="replace"))
        self._position += len(whole + newline)


def last_counters(text: str) -> dict[str, int]:
    """What a process told when it ended."""
    told = [event for event in read_log(text) if event["event"] == "counters"]
    if not told:
        raise Unanswered("its log has no counters")
    return {name: value for name, value in told[-1].items() if isinstance(value, int)}
