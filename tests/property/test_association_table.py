"""No sequence of events keeps an association past its time, or leaves one untold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kdc.errors import LocalError
from kdc.keyuse.document import decode_set, encode_set
from kdc.keyuse.table import AssociationTable, Cause, Change, Event, Grant, State, TableFull
from kdc.keyuse.traffic import Party
from kdc.model import Pair
from tests.keyuse_stories import association, grant

MAXIMUM = 9
BINDINGS = st.sampled_from(["a", "b", "c"])
PAIRS = st.sets(st.sampled_from([Pair.MN_FA, Pair.FA_HA, Pair.MN_SMM]), min_size=1)


class Table(RuleBasedStateMachine):
    """A foreign agent's table beside what a consumer knows that has only seen the events."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.next_spi = 256
        self.granted: list[Grant] = []
        self.ends: dict[tuple[str, int], float] = {}  # the latest moment each may live to
        self.seen: dict[tuple[str, int], Pair] = {}  # the consumer's set
        self.gone: set[tuple[str, int]] = set()

    @initialize(overlap_s=st.sampled_from([0, 5, 60]))
    def begin(self, overlap_s: int) -> None:
        self.overlap_s = overlap_s
        self.table = AssociationTable(Party.FOREIGN_AGENT, overlap_s=overlap_s, maximum=MAXIMUM)

    def hear(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            key = (change.held.binding, change.held.spi)
            assert change.at == self.now
            if change.event is Event.RETIRED:
                assert self.seen.pop(key) is change.held.pair
                assert change.reason in {
                    Cause.EXPIRED,
                    Cause.REPLACED,
                    Cause.DEREGISTERED,
                    Cause.REVOKED,
                }
                if change.reason is Cause.EXPIRED:
                    assert change.held.expires_at <= self.now
                self.gone.add(key)
                continue
            assert key not in self.seen and key not in self.gone
            assert change.held.state is State.CURRENT and change.reason is None
            assert (change.event is Event.RENEWED) == bool(change.replaces)
            for replaced in change.replaces:
                other = (change.held.binding, replaced)
                assert self.seen[other] is change.held.pair
            self.seen[key] = change.held.pair
            self.ends[key] = self.now + change.held.lifetime_s

    @rule(seconds=st.sampled_from([0, 0.5, 1, 4.5, 5, 30, 60, 300]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.hear(self.table.advance(now=self.now))

    @rule(seconds=st.sampled_from([0.5, 6, 61]))
    def time_passes_unseen(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        binding=BINDINGS,
        pairs=PAIRS,
        lifetime_s=st.sampled_from([1, 5, 30, 600]),
        same_spis_as_a=st.booleans(),
    )
    def register(
        self, binding: str, pairs: set[Pair], lifetime_s: int, same_spis_as_a: bool
    ) -> None:
        first = self.next_spi
        if same_spis_as_a and self.granted:
            # Another home's SPIs may be the same, in another binding.
            first = self.granted[-1].associations[0].spi
            if any((binding, spi) in self.ends for spi in range(first, first + 3)):
                return
        self.next_spi = max(self.next_spi, first + 3)
        items = [
            association(pair, first + place, lifetime_s=lifetime_s)
            for place, pair in enumerate(sorted(pairs))
        ]
        made = grant(binding, *items)
        before = self.table.held()
        try:
            changes = self.table.install(made, now=self.now)
        except TableFull:
            assert self.table.held() == before
            return
        self.granted.append(made)
        # All of the last registration end after the overlap, those without a successor, too.
        for key in self.seen:
            if key[0] == binding:
                self.ends[key] = min(self.ends[key], self.now + self.overlap_s)
        self.hear(changes)
        assert {spi for name, spi in self.seen if name == binding} >= {i.spi for i in items}

    @rule(back=st.integers(1, 3))
    def the_same_reply_again(self, back: int) -> None:
        if len(self.granted) < back:
            return
        made = self.granted[-back]
        keys = {(made.binding, item.spi) for item in made.associations}
        if not keys <= self.seen.keys():
            # The caller never hands in a reply of the past; half of one is refused.
            if keys & self.seen.keys():
                before = self.table.held()
                try:
                    self.table.install(made, now=self.now)
                except LocalError:
                    assert self.table.held() == before
                else:
                    raise AssertionError("half a registration was installed")
            return
        changes = self.table.install(made, now=self.now)
        assert all(change.event is Event.RETIRED for change in changes)
        self.hear(changes)

    @rule(binding=BINDINGS, offset=st.integers(0, 8))
    def use(self, binding: str, offset: int) -> None:
        spi = max(256, self.next_spi - 1 - offset)
        current = self.state_of(binding, spi) is State.CURRENT
        self.hear(self.table.first_use(binding, spi, now=self.now))
        if current and self.state_of(binding, spi) is State.CURRENT:
            states = {held.state for held in self.table.held() if held.binding == binding}
            assert states == {State.CURRENT}

    @rule(binding=BINDINGS)
    def deregister(self, binding: str) -> None:
        self.hear(self.table.deregister(binding, now=self.now))
        assert all(name != binding for name, _ in self.seen)

    @rule(binding=BINDINGS, offset=st.integers(0, 8))
    def revoke(self, binding: str, offset: int) -> None:
        spi = max(256, self.next_spi - 1 - offset)
        others = {key for key in self.seen if key != (binding, spi)}
        self.hear(self.table.revoke(spi, now=self.now, binding=binding))
        assert (binding, spi) not in self.seen
        # Nothing of another goes but what was due.
        assert all(self.ends[key] <= self.now for key in others - self.seen.keys())

    @rule()
    def restart(self) -> None:
        stored = encode_set(Party.FOREIGN_AGENT, self.table.held(), now=self.now)
        self.table = AssociationTable(
            Party.FOREIGN_AGENT, overlap_s=self.overlap_s, maximum=MAXIMUM
        )
        held = decode_set(stored, Party.FOREIGN_AGENT)
        self.hear(self.table.restore(held, now=self.now))

    def state_of(self, binding: str, spi: int) -> State:
        for held in self.table.held():
            if (held.binding, held.spi) == (binding, spi):
                return held.state
        return State.ABSENT

    @invariant()
    def the_events_told_all(self) -> None:
        if hasattr(self, "table"):
            assert {(h.binding, h.spi): h.pair for h in self.table.held()} == self.seen
            assert len(self.table) == len(self.seen) <= MAXIMUM

    @invariant()
    def one_is_current_and_one_superseded_at_most(self) -> None:
        if hasattr(self, "table"):
            places = [(h.binding, h.pair, h.state) for h in self.table.held()]
            assert len(places) == len(set(places))

    @invariant()
    def none_outlives_its_time(self) -> None:
        if not hasattr(self, "table"):
            return
        for held in self.table.held():
            assert held.retires_at <= self.ends[held.binding, held.spi] + 1e-6
        deadline = self.table.next_deadline()
        ends = [self.ends[key] for key in self.seen]
        assert not ends or (deadline is not None and deadline <= min(ends) + 1e-6)

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.now = max([self.now, *self.ends.values()])
            self.hear(self.table.advance(now=self.now))
            assert not self.seen and len(self.table) == 0


Table.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTable = Table.TestCase
