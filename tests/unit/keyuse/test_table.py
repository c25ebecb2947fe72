"""The table of associations: what each event moves, and what no sequence of events can do."""

from __future__ import annotations

import itertools

import pytest

from kdc.errors import LocalError
from kdc.keyuse.table import (
    MOVES,
    AssociationTable,
    Cause,
    Change,
    Event,
    Grant,
    Held,
    State,
    TableFull,
    moved,
)
from kdc.keyuse.traffic import Party
from kdc.model import Pair
from tests.keyuse_stories import ENDPOINTS, association, grant

FA, HA, MN = Party.FOREIGN_AGENT, Party.HOME_AGENT, Party.MOBILE_NODE


def pair_of(first_spi: int, *, lifetime_s: int = 600, binding: str = "a") -> Grant:
    """KEY3 and KEY2 of one registration, as a foreign agent gets them."""
    return grant(
        binding,
        association(Pair.FA_HA, first_spi, lifetime_s=lifetime_s),
        association(Pair.MN_FA, first_spi + 1, lifetime_s=lifetime_s),
    )


def told(changes: tuple[Change, ...]) -> list[tuple[str, int, str | None, int | None]]:
    return [
        (c.event.value, c.held.spi, c.reason and c.reason.value, c.superseded_by) for c in changes
    ]


def live(table: AssociationTable) -> dict[int, State]:
    return {held.spi: held.state for held in table.held()}


def test_a_registration_is_installed_with_its_parties_and_its_times() -> None:
    table = AssociationTable(FA)
    changes = table.install(pair_of(300), now=1000.5)
    assert told(changes) == [("installed", 300, None, None), ("installed", 301, None, None)]
    ours, peers = changes[0].held.local, changes[0].held.peer
    assert (ours, peers) == (ENDPOINTS[FA], ENDPOINTS[HA])
    assert changes[1].held.peer == ENDPOINTS[MN]
    assert (changes[0].held.expires_at, changes[0].held.retires_at) == (1600.5, 1600.5)
    assert len(table) == 2 and table.next_deadline() == 1600.5


def test_a_renewal_replaces_and_the_old_ones_end_after_the_overlap() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    changes = table.install(pair_of(400), now=1500)
    assert [(c.event, c.held.spi, c.replaces) for c in changes] == [
        (Event.RENEWED, 400, (300,)),
        (Event.RENEWED, 401, (301,)),
    ]
    assert live(table) == {
        300: State.SUPERSEDED,
        301: State.SUPERSEDED,
        400: State.CURRENT,
        401: State.CURRENT,
    }
    assert table.advance(now=1559.9) == ()
    assert told(table.advance(now=1560)) == [
        ("retired", 300, "replaced", 400),
        ("retired", 301, "replaced", 401),
    ]


@pytest.mark.parametrize("seen_at", [1600, 5000])
def test_a_lifetime_that_ends_inside_the_overlap_is_the_reason(seen_at: float) -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    table.install(pair_of(400, lifetime_s=9000), now=1590)
    assert table.advance(now=1599) == ()
    assert told(table.advance(now=seen_at)) == [
        ("retired", 300, "expired", 400),
        ("retired", 301, "expired", 401),
    ]


def test_a_second_renewal_ends_the_first_generation_at_once() -> None:
    table = AssociationTable(FA)
    for first, now in ((300, 1000), (400, 1001)):
        table.install(pair_of(first), now=now)
    changes = table.install(pair_of(500), now=1002)
    assert [(c.event, c.held.spi, c.reason) for c in changes] == [
        (Event.RETIRED, 300, Cause.REPLACED),
        (Event.RETIRED, 301, Cause.REPLACED),
        (Event.RENEWED, 500, None),
        (Event.RENEWED, 501, None),
    ]
    assert [change.superseded_by for change in changes[:2]] == [400, 401]
    assert live(table).keys() == {400, 401, 500, 501}


def test_the_first_use_of_a_new_one_ends_the_old_ones_of_its_binding() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    table.install(pair_of(350, binding="b"), now=1000)
    table.install(pair_of(450, binding="b"), now=1001)
    table.install(pair_of(400), now=1001)
    for binding, unused in (("a", 300), ("a", 999), ("b", 400), ("nobody", 400)):
        assert table.first_use(binding, unused, now=1002) == ()
    assert told(table.first_use("a", 401, now=1002)) == [
        ("retired", 300, "replaced", 400),
        ("retired", 301, "replaced", 401),
    ]
    assert live(table).keys() == {400, 401, 350, 351, 450, 451}
    assert table.first_use("a", 401, now=1003) == ()


def test_without_an_overlap_the_old_ones_end_with_the_renewal() -> None:
    table = AssociationTable(FA, overlap_s=0)
    table.install(pair_of(300), now=1000)
    changes = table.install(pair_of(400), now=1001)
    assert [c.event.value for c in changes] == ["renewed", "renewed", "retired", "retired"]
    assert live(table).keys() == {400, 401}


def test_a_pair_that_a_renewal_leaves_out_ends_without_a_successor() -> None:
    table = AssociationTable(FA)
    table.install(grant("a", association(Pair.MN_SMM, 300), association(Pair.MN_FA, 301)), now=0)
    table.install(grant("a", association(Pair.MN_FA, 400)), now=1)
    assert told(table.advance(now=61)) == [
        ("retired", 300, "replaced", None),
        ("retired", 301, "replaced", 400),
    ]


def test_a_deregistration_ends_all_of_its_binding_and_only_those() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    table.install(pair_of(400), now=1001)
    table.install(pair_of(500, binding="b"), now=1001)
    changes = table.deregister("a", now=1002)
    assert told(changes) == [("retired", spi, "deregistered", None) for spi in (300, 301, 400, 401)]
    assert live(table).keys() == {500, 501}
    assert table.deregister("a", now=1003) == ()


def test_a_revocation_ends_one_and_says_whether_another_goes_on() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    table.install(pair_of(400), now=1001)
    assert told(table.revoke(300, now=1002)) == [("retired", 300, "revoked", 400)]
    assert told(table.revoke(401, now=1002)) == [("retired", 401, "revoked", None)]
    assert table.revoke(300, now=1003) == () == table.revoke(7777, now=1003)
    assert live(table).keys() == {301, 400}


def test_one_home_does_not_end_what_another_made_with_the_same_spi() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300, binding="a"), now=1000)
    table.install(pair_of(300, binding="b"), now=1000)
    with pytest.raises(LocalError, match="more than one binding"):
        table.revoke(300, now=1001)
    assert len(table) == 4
    assert [c.held.binding for c in table.revoke(300, now=1001, binding="b")] == ["b"]
    assert [c.held.binding for c in table.revoke(300, now=1001)] == ["a"]
    assert table.revoke(301, now=1001, binding="nobody") == ()


def test_a_reply_that_comes_twice_changes_nothing() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    assert table.install(pair_of(300), now=1300) == ()
    table.install(pair_of(400), now=1500)
    assert table.install(pair_of(300), now=1501) == ()  # an old reply revives nothing
    assert {spi for spi, state in live(table).items() if state is State.CURRENT} == {400, 401}
    assert all(c.held.expires_at == 1600 for c in table.advance(now=1560))


def test_what_cannot_be_held_changes_nothing() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    refused = [
        grant("a"),  # nothing at all
        grant("a", association(Pair.MN_HA, 500)),  # not this holder's
        grant("a", association(Pair.MN_FA, 500), association(Pair.MN_FA, 501)),
        grant("a", association(Pair.MN_FA, 500), association(Pair.FA_HA, 500)),
        grant("a", association(Pair.MN_FA, 500), association(Pair.FA_HA, 300)),  # half of it new
    ]
    for one in refused:
        with pytest.raises(LocalError):
            table.install(one, now=1001)
    other_key = pair_of(300)
    for item in other_key.associations:
        object.__setattr__(item, "key_name", bytes(8))
    with pytest.raises(LocalError, match="in use"):
        table.install(other_key, now=1001)
    assert live(table) == {300: State.CURRENT, 301: State.CURRENT}


def test_a_full_table_says_so_and_keeps_what_it_has() -> None:
    table = AssociationTable(FA, maximum=4)
    table.install(pair_of(300), now=1000)
    table.install(pair_of(400), now=1001)  # a renewal needs room for both generations
    with pytest.raises(TableFull):
        table.install(pair_of(500, binding="b"), now=1002)
    assert live(table).keys() == {300, 301, 400, 401}
    table.install(pair_of(600), now=1003)  # its oldest generation makes room
    assert live(table).keys() == {400, 401, 600, 601}
    # What the overlap has ended by now makes room, and its end is told.
    changes = table.install(pair_of(500, binding="b"), now=1063)
    assert [c.event.value for c in changes] == ["retired", "retired", "installed", "installed"]


def test_the_deadlines_of_what_went_early_do_not_pile_up() -> None:
    table = AssociationTable(FA)
    for number in range(500):
        table.install(pair_of(1000 + 2 * number, lifetime_s=2**31), now=number)
        table.deregister("a", now=number)
    assert len(table) == 0
    assert len(table._deadlines) < 100
    assert not table._bindings and not table._bindings_of


@pytest.mark.parametrize(("state", "cause"), [*itertools.product(State, Cause)])
def test_only_the_moves_of_the_table_exist(state: State, cause: Cause) -> None:
    held = held_in(state)
    if (state, cause) in MOVES:
        assert moved(held, cause).state is MOVES[state, cause]
    else:
        with pytest.raises(LocalError, match=f"{state.value} is not {cause.value}"):
            moved(held, cause)


def test_what_is_retired_never_moves_again() -> None:
    assert all(state is not State.RETIRED for state, _ in MOVES)
    assert set(MOVES.values()) == {State.CURRENT, State.SUPERSEDED, State.RETIRED}


def held_in(state: State) -> Held:
    table = AssociationTable(FA)
    (change,) = table.install(grant("a", association(Pair.FA_HA, 300)), now=0)
    held = change.held
    object.__setattr__(held, "state", state)
    return held


def test_what_an_earlier_process_held_is_taken_over() -> None:
    before = AssociationTable(FA)
    before.install(pair_of(300), now=1000)
    before.install(pair_of(400), now=1100)
    after = AssociationTable(FA)
    assert after.restore(before.held(), now=1120) == ()
    assert (after.held(), after.next_deadline()) == (before.held(), 1160)
    assert [c.held.spi for c in after.install(pair_of(500), now=1130)] == [300, 301, 500, 501]
    late = AssociationTable(FA)
    assert told(late.restore(before.held(), now=1650)) == [
        ("retired", 300, "replaced", 400),
        ("retired", 301, "replaced", 401),
    ]


def test_what_no_table_held_is_not_taken_over() -> None:
    table = AssociationTable(FA)
    table.install(pair_of(300), now=1000)
    held = table.held()
    for holder, stored in (
        (FA, (held_in(State.RETIRED),)),
        (HA, held),
        (FA, (*held, held[0])),
    ):
        with pytest.raises(LocalError, match="take over"):
            AssociationTable(holder).restore(stored, now=1000)
    with pytest.raises(LocalError, match="take over"):
        AssociationTable(FA, maximum=1).restore(held, now=1000)
    with pytest.raises(LocalError, match="take over"):
        table.restore((), now=1000)
