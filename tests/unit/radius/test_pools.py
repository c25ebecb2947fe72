"""What is believed of a server, event by event, and the orders of a pool."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from aaa.radius.pools import (
    WITH_STATUS,
    WITHOUT_STATUS,
    Change,
    Event,
    HealthPolicy,
    Pool,
    ServerHealth,
    State,
    Strategy,
    plan,
    rank,
)

ALIVE, SUSPECT, DEAD, REVIVING = State
POLICY = HealthPolicy(dead_after=3, revive_answers=3)
WITHOUT = HealthPolicy(status_server=False, dead_after=2)


@dataclass
class Watched:
    """A server and a clock: each event is of something sent a second before it."""

    policy: HealthPolicy = POLICY
    now: float = 100.0
    health: ServerHealth = field(init=False)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.health = ServerHealth("home", self.policy)

    def see(self, *events: Event, sent_ago_s: float = 1.0) -> State:
        for event in events:
            self.now += 2
            change = self.health.observe(event, sent_at=self.now - sent_ago_s, now=self.now)
            if change is not None:
                self.changes.append(change)
        return self.health.state

    def brought_to(self, state: State) -> Watched:
        silent = Event.STATUS_UNANSWERED if self.policy.status_server else Event.UNANSWERED
        steps = 1 + self.policy.dead_after
        back = Event.STATUS_ANSWERED if self.policy.status_server else Event.PROBE_DUE
        events = {ALIVE: [], SUSPECT: [silent], DEAD: [silent] * steps}
        assert self.see(*events.get(state, [silent] * steps + [back])) is state
        self.changes.clear()
        return self


@pytest.mark.parametrize("policy", [POLICY, WITHOUT])
@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_each_event_in_each_state(policy: HealthPolicy, state: State, event: Event) -> None:
    """After as many as the table says, and not one sooner; what is not in it changes nothing."""
    table = WITH_STATUS if policy.status_server else WITHOUT_STATUS
    server = Watched(policy).brought_to(state)
    step = table.get((state, event))
    if step is None:
        assert server.see(*[event] * 5) is state
        assert not server.changes
        return
    takes = {"one": 1, "dead_after": policy.dead_after, "revive_answers": policy.revive_answers - 1}
    count = takes[step.after.value]  # the answer that led to REVIVING was the first
    assert server.see(*[event] * (count - 1)) is state
    assert server.see(event) is step.to
    assert server.changes == [Change("home", state, step.to, event)]


def test_three_unanswered_probes_kill_and_three_answered_ones_revive() -> None:
    server = Watched()
    assert server.see(Event.UNANSWERED) is SUSPECT
    assert server.see(Event.STATUS_UNANSWERED, Event.STATUS_UNANSWERED) is SUSPECT
    assert server.see(Event.STATUS_UNANSWERED) is DEAD
    assert server.see(Event.STATUS_ANSWERED, Event.STATUS_ANSWERED) is REVIVING
    assert server.see(Event.STATUS_ANSWERED) is ALIVE
    assert [change.now for change in server.changes] == [SUSPECT, DEAD, REVIVING, ALIVE]


def test_silence_between_answers_begins_the_count_anew() -> None:
    server = Watched().brought_to(DEAD)
    assert server.see(Event.STATUS_ANSWERED, Event.STATUS_ANSWERED) is REVIVING
    assert server.see(Event.STATUS_UNANSWERED) is DEAD
    assert server.see(Event.STATUS_ANSWERED, Event.STATUS_ANSWERED) is REVIVING
    assert server.see(Event.STATUS_ANSWERED) is ALIVE


def test_requests_that_are_not_answered_never_kill_a_server_that_answers_status() -> None:
    """A realm behind it that is silent is not the server's fault (RFC 5997 §4.3)."""
    server = Watched()
    for _ in range(50):
        assert server.see(Event.UNANSWERED) is SUSPECT
        assert server.see(*[Event.UNANSWERED] * 5) is SUSPECT
        assert server.see(Event.STATUS_ANSWERED) is ALIVE


def test_silence_is_no_evidence_where_something_was_answered_since() -> None:
    server = Watched()
    server.see(Event.ANSWERED)
    assert server.see(Event.UNANSWERED, sent_ago_s=2.5) is ALIVE  # sent before that answer
    assert server.see(Event.UNANSWERED, sent_ago_s=1.5) is SUSPECT


def test_requests_that_were_under_way_together_count_once() -> None:
    server = Watched(WITHOUT)
    server.see(Event.UNANSWERED)
    for _ in range(100):
        server.health.observe(Event.UNANSWERED, sent_at=server.now - 1, now=server.now)
    assert server.health.state is SUSPECT
    assert server.see(Event.UNANSWERED) is SUSPECT
    assert server.see(Event.UNANSWERED) is DEAD


def test_one_without_status_server_comes_back_by_a_trial() -> None:
    server = Watched(WITHOUT).brought_to(DEAD)
    assert not server.health.trial
    assert server.see(Event.PROBE_DUE) is REVIVING
    assert server.health.trial
    server.health.on_sent()
    assert not server.health.trial  # one request, not two
    assert server.see(Event.UNANSWERED) is DEAD
    assert server.see(Event.PROBE_DUE, Event.ANSWERED) is ALIVE
    assert not server.health.trial


def test_a_suspect_without_status_server_is_tried_too() -> None:
    server = Watched(WITHOUT).brought_to(SUSPECT)
    assert server.see(Event.PROBE_DUE) is SUSPECT
    assert server.health.trial


def test_probes_are_rare_while_all_is_well_and_back_off_from_the_dead() -> None:
    server = Watched(HealthPolicy(probe_interval_s=20, probe_timeout_s=1.5))
    assert server.health.probe_after_s == 20
    server.see(Event.UNANSWERED)
    assert server.health.probe_after_s == 1.5
    server.see(*[Event.STATUS_UNANSWERED] * 3)
    delays = []
    for _ in range(6):
        delays.append(server.health.probe_after_s)
        server.see(Event.STATUS_UNANSWERED)
    assert delays == [1.5, 3, 6, 12, 20, 20]
    server.see(Event.STATUS_ANSWERED)
    assert server.health.probe_after_s == 1.5
    server.see(Event.STATUS_UNANSWERED)
    assert server.health.probe_after_s == 1.5  # from the beginning


def test_when_trials_are_due() -> None:
    server = Watched(HealthPolicy(status_server=False, dead_after=2, revive_after_s=45))
    assert server.health.probe_after_s is None
    server.see(Event.UNANSWERED)
    assert server.health.probe_after_s == server.policy.probe_timeout_s
    server.see(Event.UNANSWERED, Event.UNANSWERED)
    assert server.health.probe_after_s == 45
    server.see(Event.PROBE_DUE)
    assert server.health.probe_after_s == 45  # another trial, if nobody has used this one


def _servers(**states: State) -> dict[str, ServerHealth]:
    return {name: Watched().brought_to(state).health for name, state in states.items()}


@pytest.mark.parametrize(
    ("states", "avoid", "order"),
    [
        ((ALIVE, ALIVE, ALIVE), "", "abc"),
        ((SUSPECT, ALIVE, ALIVE), "", "bca"),
        ((DEAD, REVIVING, ALIVE), "", "cb"),
        ((REVIVING, SUSPECT, DEAD), "", "ba"),
        ((DEAD, REVIVING, DEAD), "", "b"),
        ((DEAD, DEAD, DEAD), "", "a"),
        ((DEAD, DEAD, DEAD), "a", "b"),
        ((ALIVE, ALIVE, ALIVE), "ac", "b"),
        ((ALIVE, ALIVE, ALIVE), "abc", ""),
    ],
)
def test_the_order_of_a_failover_pool(
    states: tuple[State, State, State], avoid: str, order: str
) -> None:
    servers = _servers(**dict(zip("abc", states, strict=True)))
    names = plan(Pool("p", ("a", "b", "c")), servers, key=b"any", avoid=frozenset(avoid))
    assert names == tuple(order)


def test_a_trial_is_had_at_its_place() -> None:
    servers = _servers(b=ALIVE)
    servers["a"] = Watched(WITHOUT).brought_to(REVIVING).health
    pool = Pool("p", ("a", "b"))
    assert plan(pool, servers, key=b"", avoid=frozenset()) == ("a", "b")
    servers["a"].on_sent()
    assert plan(pool, servers, key=b"", avoid=frozenset()) == ("b", "a")


def test_a_key_has_its_own_order_and_all_members_are_first_for_some() -> None:
    pool = Pool("p", ("a", "b", "c"), Strategy.CONSISTENT_HASH)
    servers = _servers(a=ALIVE, b=ALIVE, c=ALIVE)
    keys = [number.to_bytes(2, "big") for number in range(600)]
    orders = [plan(pool, servers, key=key, avoid=frozenset()) for key in keys]
    assert orders == [rank("abc", key) for key in keys]
    for name in "abc":
        assert 150 < sum(order[0] == name for order in orders) < 250


def test_the_weights_are_those_of_other_processes() -> None:
    """They must be the same on every node and in every release: two homes would share no keys."""
    members = ("one", "two", "three", "four")
    # printf '\\0\\0\\0\\3one\\0' | b2sum -l 64: e5..., of the others 4a..., 27..., 02...
    assert rank(members, b"\x00") == ("one", "three", "four", "two")
    assert rank(members[::-1], b"\x03") == ("two", "four", "one", "three")
