"""No sequence of events leaves a session of a foreign agent uncounted, or beyond home's reach."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aaa.roles.foreign_agent_sessions import Ended, Ending, Session, SessionTable
from kdc.model import Nai

MAXIMUM = 5
BINDINGS = st.sampled_from(["a", "b", "c"])
REALMS = st.sampled_from(["home.example", "other.example"])
ALIAS = Nai.parse("m-1@home.example")


class Sessions(RuleBasedStateMachine):
    """The table beside what its caller knows, who has only seen what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.granted: list[Session] = []
        self.open: dict[str, Session] = {}  # not told to be over
        self.live: dict[str, set[int]] = {}  # by number, SPIs not told to end

    @initialize(overlap_s=st.sampled_from([0, 5, 60]))
    def begin(self, overlap_s: int) -> None:
        self.overlap_s = overlap_s
        self.table = SessionTable(maximum=MAXIMUM, overlap_s=overlap_s)

    def hear(self, ended: tuple[Ended, ...]) -> None:
        for item in ended:
            session = item.session
            assert set(item.spis) <= self.live[session.number]
            self.live[session.number] -= set(item.spis)
            if item.was_current:
                assert self.open.pop(session.number) == session
            else:
                assert session.number not in self.open
            assert (item.ending is Ending.EXPIRED) <= (session.expires_at <= self.now)
            if item.ending in (Ending.REPLACED, Ending.SHUTDOWN):
                assert item.spis == ()
            else:
                assert not self.live[session.number]

    @rule(binding=BINDINGS, realm=REALMS, lifetime_s=st.sampled_from([1, 10, 600]), n=st.integers())
    def grant(self, binding: str, realm: str, lifetime_s: int, n: int) -> None:
        number = str(len(self.granted))
        first = 256 + 2 * (len(self.granted) if n % 3 else 0)  # homes may use one SPI
        class_id = f"class {number if n % 4 else 0}".encode()
        spis = (first, first + 1)
        session = Session(
            number, realm, class_id, spis, f"{realm} {binding}", "192.0.2.9", ALIAS, self.now,
            self.now + lifetime_s,
        )  # fmt: skip
        if self.table.is_known(session):
            self.hear(self.table.install(session, now=self.now))
            return
        self.granted.append(session)
        self.open[number], self.live[number] = session, set(spis)
        self.hear(self.table.install(session, now=self.now))
        assert session in self.table.current()

    @rule(binding=BINDINGS, realm=REALMS)
    def deregister(self, binding: str, realm: str) -> None:
        self.hear(self.table.deregister(f"{realm} {binding}", now=self.now))
        assert f"{realm} {binding}" not in {session.binding for session in self.open.values()}

    @rule(n=st.integers(0, 100), one=st.booleans(), wrong=st.sampled_from(["", "class", "realm"]))
    def revoke(self, n: int, one: bool, wrong: str) -> None:
        if not self.granted:
            return
        session = self.granted[n % len(self.granted)]
        realm = "third.example" if wrong == "realm" else session.realm
        class_id = session.class_id[:-1] if wrong == "class" else session.class_id
        spis = session.spis[:1] if one else session.spis
        revoked, ended = self.table.revoke(
            realm, class_id, spis, now=self.now, number=session.number
        )
        self.hear(ended)
        if wrong:
            assert revoked is None
        if revoked is None:
            assert wrong or session.number not in self.open or not (
                set(spis) & self.live[session.number]
            )  # fmt: skip
            return
        assert revoked.session == session
        assert set(revoked.spis) == set(spis) & self.live[session.number]
        self.live[session.number] -= set(revoked.spis)
        assert revoked.is_over is not bool(self.live[session.number])
        assert revoked.was_current is (session.number in self.open)
        if revoked.is_over:
            self.open.pop(session.number, None)

    @rule(seconds=st.sampled_from([0.5, 3, 60, 700]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.hear(self.table.advance(now=self.now))
        assert all(session.expires_at > self.now for session in self.open.values())

    @rule()
    def stop(self) -> None:
        self.hear(self.table.end_all())
        assert not self.open and len(self.table) == 0
        assert self.table.next_deadline() is None or not self.table.advance(now=self.now + 10**6)

    @invariant()
    def every_open_session_is_found_and_no_other(self) -> None:
        if not hasattr(self, "table"):
            return
        assert len(self.table) <= MAXIMUM
        assert {s.number for s in self.table.current()} == set(self.open)
        for session in self.open.values():
            number = session.number
            found = self.table.find(session.realm, session.class_id, session.spis, number=number)
            assert found == session
            assert self.table.find(session.realm, session.class_id, (*session.spis, 9)) is None
            assert self.table.find(session.realm, session.class_id, ()) is None
        bindings = [session.binding for session in self.open.values()]
        assert len(set(bindings)) == len(bindings)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_superseded_session_can_be_revoked_for_the_overlap_alone() -> None:
    table = SessionTable(overlap_s=60)
    first = Session("1", "h.ex", b"one", (256, 257), "node", "192.0.2.9", ALIAS, 0.0, 600.0)
    second = Session("2", "h.ex", b"two", (258, 259), "node", "192.0.2.9", ALIAS, 10.0, 610.0)
    third = Session("3", "h.ex", b"three", (260, 261), "node", "192.0.2.9", ALIAS, 20.0, 620.0)
    assert table.install(first, now=0.0) == ()
    assert table.install(first, now=1.0) == ()  # the same reply once more
    assert table.install(second, now=10.0) == (Ended(first, Ending.REPLACED, ()),)
    assert table.find("h.ex", b"one", (256,)) is None
    revoked, _ = table.revoke("h.ex", b"one", (257,), now=69.9)
    assert revoked is not None and (revoked.spis, revoked.is_over) == ((257,), False)
    revoked, _ = table.revoke("h.ex", b"one", (256, 257), now=70.0)
    assert revoked is None
    table.install(third, now=71.0)
    assert len(table) == 2
    ended = table.deregister("node", now=72.0)
    assert ended == (
        Ended(second, Ending.DEREGISTERED, (258, 259), was_current=False),
        Ended(third, Ending.DEREGISTERED, (260, 261)),
    )


def test_deadlines_do_not_pile_up() -> None:
    table = SessionTable(overlap_s=0)
    for number in range(1000):
        session = Session(
            str(number), "h.ex", b"%d" % number, (256 + number,), "node", "x", ALIAS, 0.0, 600.0
        )
        table.install(session, now=0.0)
    assert len(table) <= 2
    assert len(table._deadlines) < 100


def test_the_oldest_is_displaced_with_its_associations() -> None:
    table = SessionTable(maximum=2)
    sessions = [
        Session(str(n), "h.ex", b"%d" % n, (256 + n,), f"node {n}", "x", ALIAS, 0.0, 600.0)
        for n in range(3)
    ]
    for session in sessions[:2]:
        assert table.install(session, now=0.0) == ()
    assert table.install(sessions[2], now=1.0) == (Ended(sessions[0], Ending.DISPLACED, (256,)),)
    assert table.find("h.ex", b"0", (256,)) is None


def _of(realm: str, n: int) -> Session:
    spis = (256 + n,)
    return Session(f"{realm} {n}", realm, b"%d" % n, spis, f"{realm} {n}", "x", ALIAS, 0.0, 600.0)


def test_no_home_displaces_anothers_sessions() -> None:
    table = SessionTable(maximum=4)
    good = _of("good.example", 0)
    assert table.install(good, now=0.0) == ()
    ended = [item for n in range(20) for item in table.install(_of("bad.example", n), now=1.0)]
    assert {item.session.realm for item in ended} == {"bad.example"} and len(ended) == 17
    assert table.find("good.example", good.class_id, good.spis) == good


def test_what_is_revoked_before_its_grant_arrives_grants_nothing() -> None:
    """A Disconnect-Request may overtake the Access-Accept, which a proxy repeats for a while."""
    table = SessionTable(maximum=4)
    assert table.revoke("h.ex", b"one", (256,), now=100.0) == (None, ())
    assert table.was_revoked("h.ex", b"one", now=399.0)
    assert not table.was_revoked("h.ex", b"two", now=100.0)
    assert not table.was_revoked("other.ex", b"one", now=100.0)
    assert not table.was_revoked("h.ex", b"one", now=400.0)
    # One that is here is what it was, whatever does not fit; nor is it under a name of accounting.
    session = _of("h.ex", 3)
    table.install(session, now=0.0)
    table.revoke("h.ex", b"3", session.spis, now=1.0, number="another")
    assert not table.was_revoked("h.ex", b"3", now=1.0)
    # No home makes the agent forget what another has ended, and none makes it remember more.
    for n in range(20):
        table.revoke("bad.example", b"%d" % n, (256,), now=100.0)
    assert table.was_revoked("h.ex", b"one", now=101.0)
    known = [table.was_revoked("bad.example", b"%d" % n, now=101.0) for n in range(20)]
    assert known == [False] * 17 + [True] * 3
