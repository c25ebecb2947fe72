"""The states of a negotiation on both sides, and which event leads from one to another.

PROTOCOL section 6: at most three rounds; a success or the third failure in a row begins anew.
"""

from __future__ import annotations

import enum
from typing import Final

from kdc.errors import LocalError

MAXIMUM_ROUNDS: Final = 3


class Standing(enum.Enum):
    """Where an initiator's negotiation stands."""

    READY = "ready"  # something can be offered
    OFFERED = "offered"  # a request is outstanding
    AGREED = "agreed"
    FAILED = "failed"  # nothing is left that both would take


class Event(enum.Enum):
    """What happens to it."""

    OFFER = "offer"
    ACCEPTED = "accepted"  # code 0 with answers that are ours
    STALE = "stale"  # 133: nothing was judged but the clock
    REFUSED = "refused"  # 129, Status 14
    EXHAUSTED = "exhausted"  # three rounds, or no suite left


_INITIATOR: Final = {
    (Standing.READY, Event.OFFER): Standing.OFFERED,
    (Standing.READY, Event.EXHAUSTED): Standing.FAILED,
    (Standing.OFFERED, Event.OFFER): Standing.OFFERED,  # lost: the next request offers it anew
    (Standing.OFFERED, Event.ACCEPTED): Standing.AGREED,
    (Standing.OFFERED, Event.STALE): Standing.READY,
    (Standing.OFFERED, Event.REFUSED): Standing.READY,
    (Standing.OFFERED, Event.EXHAUSTED): Standing.FAILED,
}

# A record counts failures in a row; the number after the last one is 0, and that one is final.
_RESPONDER: Final = {0: 1, 1: 2, 2: 0}


def advance(standing: Standing, event: Event) -> Standing:
    """The next standing; raises `LocalError` for an event that has no place there."""
    try:
        return _INITIATOR[standing, event]
    except KeyError:
        raise LocalError(f"{event.value} while a negotiation is {standing.value}") from None


def count_failure(rounds: int) -> tuple[int, bool]:
    """A record's count after one more failure, and whether that failure is the final one."""
    after = _RESPONDER[rounds]
    return after, after == 0
