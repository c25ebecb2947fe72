"""No sequence of events sends a request to a server believed dead, or hides a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aaa.radius.pools import (
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

NAMES = ("a", "b", "c")
NAME = st.sampled_from(NAMES)
MEMBERS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


class World(RuleBasedStateMachine):
    """Three servers, one of them without Status-Server, and one that rejects all it gets.

    The one that rejects never fails to answer; beside the servers stands what somebody knows who
    has only read the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.policies = {
            "a": HealthPolicy(),
            "b": HealthPolicy(status_server=False),
            "c": HealthPolicy(),
            "rejecting": HealthPolicy(),
        }
        self.servers = {name: ServerHealth(name, each) for name, each in self.policies.items()}
        self.read = dict.fromkeys(self.servers, State.ALIVE)
        self.under_way: list[tuple[str, float]] = []
        self.answered_at = dict.fromkeys(self.servers, 0.0)

    @initialize(strategy=st.sampled_from(Strategy))
    def begin(self, strategy: Strategy) -> None:
        self.pool = Pool("p", (*NAMES, "rejecting"), strategy)

    def observe(self, name: str, event: Event, sent_at: float) -> None:
        change = self.servers[name].observe(event, sent_at=sent_at, now=self.now)
        if event in (Event.ANSWERED, Event.STATUS_ANSWERED):
            self.answered_at[name] = self.now
        elif event is not Event.PROBE_DUE and sent_at <= self.answered_at[name]:
            assert change is None, "whoever has answered since is not silent"
        if change is None:
            return
        assert change == Change(name, self.read[name], change.now, event)
        assert change.was is not change.now
        if change.now is State.DEAD and self.policies[name].status_server:
            assert event is Event.STATUS_UNANSWERED
        self.read[name] = change.now

    @rule(seconds=st.sampled_from([0.001, 0.5, 1, 3, 30]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.binary(max_size=2), avoid=st.frozensets(st.sampled_from((*NAMES, "rejecting"))))
    def send(self, key: bytes, avoid: frozenset[str]) -> None:
        names = plan(self.pool, self.servers, key=key, avoid=avoid)
        allowed = [name for name in self.pool.members if name not in avoid]
        assert set(names) <= set(allowed)
        assert bool(names) == bool(allowed), "dropped although somebody could have been asked"
        if not names:
            return
        dead = [name for name in names if self.servers[name].state is State.DEAD]
        if dead:  # the documented trial
            assert len(names) == 1
            assert all(self.servers[name].state is State.DEAD for name in allowed)
        chosen = self.servers[names[0]]
        if any(self.servers[name].state is State.ALIVE for name in allowed):
            assert chosen.state is State.ALIVE or chosen.trial
        chosen.on_sent()
        self.under_way.append((names[0], self.now))

    @rule(data=st.data(), answered=st.booleans())
    def conclude(self, data: st.DataObject, answered: bool) -> None:
        if not self.under_way:
            return
        name, sent_at = self.under_way.pop(
            data.draw(st.integers(0, len(self.under_way) - 1), label="which")
        )
        self.now += 0.001
        answered = answered or name == "rejecting"
        self.observe(name, Event.ANSWERED if answered else Event.UNANSWERED, sent_at)

    @rule(name=NAME, count=st.integers(1, 6))
    def a_realm_behind_it_is_silent(self, name: str, count: int) -> None:
        """Requests one after the other, sent to it whatever is believed of it."""
        for _ in range(count):
            self.now += 1
            self.observe(name, Event.UNANSWERED, self.now - 0.5)

    @rule(name=st.sampled_from(("a", "c")), answered=st.booleans())
    def probe(self, name: str, answered: bool) -> None:
        sent_at = self.now
        self.now += 0.7
        event = Event.STATUS_ANSWERED if answered else Event.STATUS_UNANSWERED
        self.observe(name, event, sent_at)

    @rule()
    def rejecting_is_probed(self) -> None:
        self.observe("rejecting", Event.STATUS_ANSWERED, self.now)

    @rule()
    def trial_is_due(self) -> None:
        self.observe("b", Event.PROBE_DUE, self.now)

    @invariant()
    def the_log_tells_all(self) -> None:
        assert self.read == {name: each.state for name, each in self.servers.items()}

    @invariant()
    def a_server_that_rejects_lives(self) -> None:
        assert self.servers["rejecting"].state is State.ALIVE

    @invariant()
    def all_are_asked_again(self) -> None:
        for name, server in self.servers.items():
            policy = self.policies[name]
            after_s = server.probe_after_s
            if after_s is None:
                assert server.state is State.ALIVE and not policy.status_server
            else:
                assert 0 < after_s <= max(policy.probe_interval_s, policy.revive_after_s)
            if server.trial:
                assert not policy.status_server
                assert server.state in (State.SUSPECT, State.DEAD, State.REVIVING)


TestWorld = World.TestCase


@given(MEMBERS, st.binary(max_size=40), st.data())
def test_one_that_goes_leaves_the_others_in_their_order(
    members: list[str], key: bytes, data: st.DataObject
) -> None:
    """So a member that comes or goes moves only the keys that it is the first for."""
    gone = data.draw(st.sampled_from(members))
    order = rank(members, key)
    assert sorted(order) == sorted(members)
    assert rank([name for name in members if name != gone], key) == tuple(
        name for name in order if name != gone
    )
    assert rank(data.draw(st.permutations(members)), key) == order
