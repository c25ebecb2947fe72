"""Whether servers live, and which of a pool gets a request: a table of states, and two orders.

A server is judged by whether it answers, never by what: a reject is an answer.  Nothing here sends
or waits; timers, probes and requests are aaa.serve.pools'.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple


class State(enum.Enum):
    """What is believed of a server."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # asked only where nobody is alive, until it has answered something
    DEAD = "dead"
    REVIVING = "reviving"  # it answers again, not yet often enough


class Event(enum.Enum):
    """What a server did, or that it is time to ask it."""

    ANSWERED = "a request was answered"
    UNANSWERED = "a request was not answered"
    STATUS_ANSWERED = "Status-Server was answered"
    STATUS_UNANSWERED = "Status-Server was not answered"
    PROBE_DUE = "time for a trial"  # of a server that cannot be asked by Status-Server


class After(enum.Enum):
    """How many such events in a row lead to the next state."""

    ONE = "one"
    DEAD_AFTER = "dead_after"
    REVIVE_ANSWERS = "revive_answers"


class Step(NamedTuple):
    """An entry of a table: where an event leads, and how many of them it takes."""

    to: State
    after: After = After.ONE


# What is not in a table leaves the state as it is.  RFC 5997 §4.3: with Status-Server a request
# that is not answered raises a suspicion and decides nothing, as the fault may be further on.
WITH_STATUS: Final[Mapping[tuple[State, Event], Step]] = {
    (State.ALIVE, Event.UNANSWERED): Step(State.SUSPECT),
    (State.ALIVE, Event.STATUS_UNANSWERED): Step(State.SUSPECT),
    (State.SUSPECT, Event.ANSWERED): Step(State.ALIVE),
    (State.SUSPECT, Event.STATUS_ANSWERED): Step(State.ALIVE),
    (State.SUSPECT, Event.STATUS_UNANSWERED): Step(State.DEAD, After.DEAD_AFTER),
    (State.DEAD, Event.ANSWERED): Step(State.REVIVING),
    (State.DEAD, Event.STATUS_ANSWERED): Step(State.REVIVING),
    (State.REVIVING, Event.ANSWERED): Step(State.ALIVE, After.REVIVE_ANSWERS),
    (State.REVIVING, Event.STATUS_ANSWERED): Step(State.ALIVE, After.REVIVE_ANSWERS),
    (State.REVIVING, Event.STATUS_UNANSWERED): Step(State.DEAD),
}
# Without, requests are all there is: some are sent on trial.
WITHOUT_STATUS: Final[Mapping[tuple[State, Event], Step]] = {
    (State.ALIVE, Event.UNANSWERED): Step(State.SUSPECT),
    (State.SUSPECT, Event.ANSWERED): Step(State.ALIVE),
    (State.SUSPECT, Event.UNANSWERED): Step(State.DEAD, After.DEAD_AFTER),
    (State.DEAD, Event.ANSWERED): Step(State.REVIVING),
    (State.DEAD, Event.PROBE_DUE): Step(State.REVIVING),
    (State.REVIVING, Event.ANSWERED): Step(State.ALIVE),
    (State.REVIVING, Event.UNANSWERED): Step(State.DEAD),
}
_ANSWERS: Final = frozenset({Event.ANSWERED, Event.STATUS_ANSWERED})


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How one server is watched; the times are before jitter."""

    status_server: bool = True
    probe_interval_s: float = 30.0  # RFC 3539 §3.4.1: the watchdog of an idle connection
    probe_timeout_s: float = 1.0  # how long an answer may take; also the pace under suspicion
    dead_after: int = 3  # unanswered in a row, from the moment that it is suspect
    revive_answers: int = 3  # in a row, before traffic returns
    revive_after_s: float = 60.0  # without Status-Server: until a request is sent on trial


@dataclass(frozen=True, slots=True)
class Change:
    """One server from one state to another, told once."""

    server: str
    was: State
    now: State
    why: Event


class ServerHealth:
    """One server as its answers show it.  Times are monotonic, in seconds."""

    __slots__ = ("_answered_at", "_answers", "_misses", "_name", "_policy", "_silent_since",
                 "_silent_while_dead", "state", "trial")  # fmt: skip

    def __init__(self, name: str, policy: HealthPolicy) -> None:
        self._name = name
        self._policy = policy
        self.state = State.ALIVE
        self.trial = False  # one request may be sent although the state would not let it
        self._answers = 0  # in a row
        self._misses = 0  # in a row, while suspect
        self._silent_while_dead = 0
        self._answered_at = float("-inf")
        self._silent_since = float("-inf")  # when the last silence that counts was noticed

    @property
    def table(self) -> Mapping[tuple[State, Event], Step]:
        """The one of the two that this server goes by."""
        return WITH_STATUS if self._policy.status_server else WITHOUT_STATUS

    def observe(self, event: Event, *, sent_at: float, now: float) -> Change | None:
        """Takes in one event; `sent_at` is when the request or probe that it is of was sent.

        Silence is no evidence where anything has been answered since, as the fault is then behind
        the server; and what was under way together counts once.
        """
        answered = event in _ANSWERS
        if answered:
            self._answered_at = now
            self._answers += 1
            self._misses = 0
        elif event is Event.PROBE_DUE:
            self.trial = self.state is not State.ALIVE and not self._policy.status_server
        elif sent_at <= self._answered_at or sent_at < self._silent_since:
            return None
        step = self.table.get((self.state, event))
        if event in (Event.UNANSWERED, Event.STATUS_UNANSWERED):
            self._count_silence(event, counts=step is not None, now=now)
        if step is None or not self._is_enough(step.after):
            return None
        change = Change(self._name, self.state, step.to, event)
        self.state = step.to
        self._silent_while_dead = 0
        # A trial is for who is not trusted; one without Status-Server that revives is owed one.
        self.trial = step.to is State.REVIVING and not self._policy.status_server
        return change

    def _count_silence(self, event: Event, *, counts: bool, now: float) -> None:
        if self.state is State.DEAD and event is Event.STATUS_UNANSWERED:
            self._silent_while_dead += 1
        if not counts:
            return
        self._silent_since = now
        self._answers = 0
        if self.state is State.SUSPECT:
            self._misses += 1

    def _is_enough(self, after: After) -> bool:
        if after is After.DEAD_AFTER:
            return self._misses >= self._policy.dead_after
        if after is After.REVIVE_ANSWERS:
            return self._answers >= self._policy.revive_answers
        return True

    @property
    def probe_after_s(self) -> float | None:
        """From one probe's start to the next one's, or to the next trial; None for never.

        A server that has just become suspect and was asked longer ago than this is asked at once.
        """
        policy = self._policy
        if not policy.status_server:
            if self.state is State.ALIVE:
                return None
            return policy.probe_timeout_s if self.state is State.SUSPECT else policy.revive_after_s
        if self.state is State.ALIVE:
            return policy.probe_interval_s
        if self.state is not State.DEAD:
            return policy.probe_timeout_s
        doublings = min(self._silent_while_dead, 16)
        return min(policy.probe_timeout_s * 2.0**doublings, policy.probe_interval_s)

    def on_sent(self) -> None:
        """A request goes to it: the trial, if one was due, is this one."""
        self.trial = False


class Strategy(enum.Enum):
    """In which order the members of a pool are tried."""

    FAILOVER = "failover"  # as configured: the first one that lives
    CONSISTENT_HASH = "consistent-hash"  # by key: each member has its share


@dataclass(frozen=True, slots=True)
class Pool:
    """Servers that can stand in for each other, by name."""

    name: str
    members: tuple[str, ...]
    strategy: Strategy = Strategy.FAILOVER


def rank(members: Sequence[str], key: bytes) -> tuple[str, ...]:
    """The members in the order of rendezvous hashing (highest random weight) for `key`.

    A member that comes or goes moves only the keys that it then is, or was, the first for.
    """
    return tuple(sorted(members, key=lambda name: _weight(name, key), reverse=True))


def _weight(name: str, key: bytes) -> tuple[bytes, str]:
    octets = name.encode()
    return blake2b(len(octets).to_bytes(4, "big") + octets + key, digest_size=8).digest(), name


def plan(
    pool: Pool, servers: Mapping[str, ServerHealth], *, key: bytes, avoid: frozenset[str]
) -> tuple[str, ...]:
    """Whom to try, in order: those alive or on trial, then the suspect, then the reviving.

    Where all are dead it is the first one alone: a request that is dropped for certain is worse
    than one that may find a server back before its next probe.
    """
    allowed = [name for name in pool.members if name not in avoid]
    if pool.strategy is Strategy.CONSISTENT_HASH:
        allowed = list(rank(allowed, key))
    first: list[str] = []
    suspect: list[str] = []
    reviving: list[str] = []
    for name in allowed:
        server = servers[name]
        if server.state is State.ALIVE or server.trial:
            first.append(name)
        elif server.state is State.SUSPECT:
            suspect.append(name)
        elif server.state is State.REVIVING:
            reviving.append(name)
    return tuple(first + suspect + reviving or allowed[:1])
