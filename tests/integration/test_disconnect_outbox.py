"""The outbox of dynamic authorization on a real PostgreSQL: ended, told, claimed, finished."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aaa.radius.counters import Counters
from aaa.serve.endings import Endings
from aaa.serve.key_outlet import SaOutlet
from kdc.accounting import AccountingRecord, AccountingStatus
from kdc.center import KeyDistributionCenter
from kdc.config import DatabaseSettings
from kdc.distribution import LocalKeyDistribution
from kdc.errors import LocalError
from kdc.keyuse.table import Endpoint, Grant
from kdc.keyuse.traffic import Party
from kdc.model import Nai, Pair
from kdc.outcome import encode_outcome
from kdc.records import Admission, Denied, Fate, NewRegistration, RepeatDecision, Settled
from kdc.store import CommitResult, Store, disconnects, subscribers
from kdc.store.accounting import Recorded, SessionFilter, list_sessions, record
from kdc.store.database import Connection, administration
from kdc.store.disconnects import (
    Disconnect,
    DisconnectKind,
    DisconnectsNotSeen,
    DisconnectState,
    SpiNotLive,
    claim,
    find,
    finish,
    release,
    request_for_spi,
    request_for_subscriber,
    wait,
)
from kdc.store.subscribers import ACTIVE, REVOKED, SUSPENDED, SubscriberRevoked, SubscriberUnknown
from tests.conftest import PostgresServer
from tests.integration.stored import Provision, change_of, register
from tests.keyuse_stories import association
from tests.unit.serve.outlet import settings

Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def admin(postgres: PostgresServer, database_name: str) -> Iterator[Connection]:
    with administration(postgres.conninfo(database_name)) as connection:
        yield connection


@pytest.fixture
def query(postgres: PostgresServer, database_name: str) -> Iterator[Query]:
    """One statement, committed."""
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as plain:

        def run(statement: str) -> list[tuple[Any, ...]]:
            cursor = plain.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield run


def _told(registration: NewRegistration) -> list[int]:
    """The SPIs of the associations in which the FA takes part."""
    return sorted(
        item.spi for item in registration.associations if item.pair in (Pair.MN_FA, Pair.FA_HA)
    )


def _live(query: Query) -> set[int]:
    return {row[0] for row in query("SELECT spi FROM live_associations")}


def _one(admin: Connection, ids: list[int]) -> Disconnect:
    (found,) = find(admin, ids)
    return found


async def test_a_suspension_ends_what_is_registered_and_tells_its_foreign_domain(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    one, other = provision(2)
    registration, bystander = await register(store, one), await register(store, other)
    ids = request_for_subscriber(admin, one.nai, SUSPENDED, reason="stolen", not_after_s=60)
    found = _one(admin, ids)
    assert (found.kind, found.state) == (DisconnectKind.DISCONNECT, DisconnectState.PENDING)
    assert (found.registration, found.spis) == (registration.class_id.hex(), _told(registration))
    assert (found.realm, found.fa_nai) == ("visited.example", "fa1@visited.example")
    assert found.nas_address == "198.51.100.7" and found.reason == "stolen" and not found.done
    assert _live(query) == {item.spi for item in bystander.associations}
    loaded = await store.load([*one.spis, *other.spis])
    states = {stored.record.nai: stored.record for stored in loaded.records.values()}
    ended = states[one.nai]
    assert not ended.active and states[other.nai].active
    assert (ended.current_fa, ended.registered_until, ended.last_digest) == (None, None, None)


@pytest.mark.parametrize("registered", [False, True])
async def test_what_is_under_way_is_not_committed_after_a_suspension(
    registered: bool, store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    """It was judged before: the record has another revision, and the next judgement refuses it."""
    (enrolment,) = provision()
    if registered:
        await register(store, enrolment)
    loaded = await store.load(enrolment.spis)
    stored = next(iter(loaded.records.values())).record
    change = await change_of(store, stored, stored.unspent[0], loaded.clock)
    request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    assert await store.commit([change], clock=loaded.clock) == [CommitResult.CONFLICT]
    assert _live(query) == set()


async def test_a_repeat_that_was_judged_before_the_end_is_not_answered_after_it(
    store: Store, provision: Provision, admin: Connection
) -> None:
    """Nothing is committed for it: the last look at the record tells."""
    one, other = provision(2)
    decisions = []
    kdc = LocalKeyDistribution(store, KeyDistributionCenter(secrets.token_bytes))
    for enrolment in (one, other):
        loaded = await store.load(enrolment.spis)
        stored = next(iter(loaded.records.values())).record
        change = await change_of(store, stored, stored.unspent[0], loaded.clock)
        outcome = encode_outcome(Denied(129, True, at=int(loaded.clock), state=bytes(8)))
        committed = await store.commit([replace(change, outcome=outcome)], clock=loaded.clock)
        assert committed == [CommitResult.COMMITTED]
        (admission,) = await kdc.admit_spis([stored.unspent[0]])
        assert isinstance(admission, Admission) and admission.record is not None
        decisions.append(
            RepeatDecision(admission, admission.record, stored.unspent[0], "visited.example")
        )
    assert all(isinstance(fate, Settled) for fate in await kdc.settle(decisions))
    request_for_subscriber(admin, one.nai, SUSPENDED)
    first, second = await kdc.settle(decisions)
    assert first is Fate.CONFLICT and isinstance(second, Settled)


async def test_no_outcome_of_before_is_given_again_after_the_subscriber_is_back(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    subscribers.set_status(admin, enrolment.nai, ACTIVE)
    (stored,) = {id(s): s for s in (await store.load(enrolment.spis[:1])).records.values()}.values()
    assert stored.outcome is None and stored.record.last_digest is None
    await register(store, enrolment)


async def test_a_database_that_goes_while_somebody_waits_does_not_undo_what_is_asked(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    ids = request_for_subscriber(admin, enrolment.nai, SUSPENDED)

    def terminate(_: Sequence[Disconnect]) -> None:
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    with pytest.raises(DisconnectsNotSeen, match="stands"):
        wait(admin, ids, timeout_s=20, progress=terminate)
    assert query("SELECT status FROM subscribers") == [("suspended",)]


async def test_what_is_ended_is_taken_from_the_software_beside_the_home_agent(
    store: Store, provision: Provision, admin: Connection, query: Query, tmp_path: Path
) -> None:
    """At the start too: the file of keys outlives the process, which may miss the end."""
    one, other, third = provision(3)
    registrations = [await register(store, enrolment) for enrolment in (one, other, third)]
    outlet = SaOutlet(settings(tmp_path, file=True), Party.HOME_AGENT, Counters())
    outlet.open()
    home = Endpoint(Nai.parse("ha1@home.example"), IPv4Address("192.0.2.1"))
    endpoints = dict.fromkeys(Party, home)
    for registration in registrations:
        spis = [a.spi for a in registration.associations if a.pair is not Pair.MN_FA]
        held = tuple(
            association(pair, spi, lifetime_s=600)
            for pair, spi in zip((Pair.MN_HA, Pair.FA_HA), spis, strict=True)
        )
        outlet.installed(Grant(registration.class_id.hex(), held, endpoints, home.nai))
    assert len(outlet.held()) == 6
    request_for_subscriber(admin, one.nai, SUSPENDED)
    endings = Endings(store, outlet.revoked)
    await endings.take()
    assert len(outlet.held()) == 4
    request_for_spi(admin, registrations[1].associations[0].spi, DisconnectKind.COA)
    await endings.take()
    assert len(outlet.held()) == 4  # a renewal ends nothing
    request_for_spi(admin, registrations[1].associations[0].spi, DisconnectKind.DISCONNECT)
    await endings.take()
    left = {item.spi for item in outlet.held()}
    assert left < {a.spi for a in registrations[2].associations} and len(left) == 2
    await outlet.close()


async def test_both_of_a_renewal_are_ended_and_told_each_to_its_own_agent(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    first = await register(store, enrolment, fa="fa1@old.example")
    second = await register(store, enrolment, fa="fa2@new.example")
    ids = request_for_subscriber(admin, enrolment.nai, REVOKED)
    told = [(item.registration, item.realm, item.spis) for item in find(admin, ids)]
    assert told == [
        (first.class_id.hex(), "old.example", _told(first)),
        (second.class_id.hex(), "new.example", _told(second)),
    ]
    assert _live(query) == set()


async def test_what_is_over_is_not_told(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    one, two = provision(2)
    assert request_for_subscriber(admin, one.nai, SUSPENDED) == []
    await register(store, two, fa="fa1@old.example")
    await register(store, two)
    query("UPDATE key0_records SET previous_until = now() - interval '1 second'")
    query("UPDATE registrations SET created_at = created_at - interval '1 hour'"
          " WHERE operator_realm = 'visited.example'")  # fmt: skip
    assert request_for_subscriber(admin, two.nai, SUSPENDED) == []


async def test_a_revocation_is_final(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    request_for_subscriber(admin, enrolment.nai, REVOKED)
    for act in (
        lambda: subscribers.set_status(admin, enrolment.nai, ACTIVE),
        lambda: request_for_subscriber(admin, enrolment.nai, SUSPENDED),
    ):
        with pytest.raises(SubscriberRevoked, match="final"):
            act()
    assert request_for_subscriber(admin, enrolment.nai, REVOKED) == []
    assert query("SELECT status FROM subscribers") == [("revoked",)]
    (stored,) = {s.record for s in (await store.load(enrolment.spis)).records.values()}
    assert not stored.active
    with pytest.raises(SubscriberUnknown):
        request_for_subscriber(admin, replace_user(enrolment.nai), SUSPENDED)


def replace_user(nai: Any) -> Any:
    return type(nai).parse(f"nobody@{nai.realm}")


async def test_status_and_requests_are_one_transaction(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    registration = await register(store, enrolment)
    query("ALTER TABLE disconnects ADD CONSTRAINT none CHECK (false)")
    with pytest.raises(Exception, match="none"):
        request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    admin.rollback()
    assert query("SELECT status FROM subscribers") == [("active",)]
    assert _live(query) == {item.spi for item in registration.associations}


@pytest.mark.parametrize("pair", list(Pair)[:3])
async def test_any_spi_of_a_registration_ends_it(
    pair: Pair, store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    registration = await register(store, enrolment)
    spi = next(item.spi for item in registration.associations if item.pair is pair)
    ids = request_for_spi(admin, spi, DisconnectKind.DISCONNECT)
    assert _one(admin, ids).registration == registration.class_id.hex()
    assert _live(query) == set()
    assert (await store.load(enrolment.spis)).records[enrolment.spis[0]].record.active
    with pytest.raises(SpiNotLive, match=str(spi)):
        request_for_spi(admin, spi, DisconnectKind.DISCONNECT)
    await register(store, enrolment)


async def test_the_registration_before_is_ended_alone(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    first, second = await register(store, enrolment), await register(store, enrolment)
    ids = request_for_spi(admin, first.associations[0].spi, DisconnectKind.DISCONNECT)
    assert _one(admin, ids).registration == first.class_id.hex()
    assert _live(query) == {item.spi for item in second.associations}


async def test_asking_for_a_renewal_ends_nothing(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    registration = await register(store, enrolment)
    before = query("SELECT r::text FROM key0_records AS r")
    ids = request_for_spi(admin, registration.associations[0].spi, DisconnectKind.COA)
    found = _one(admin, ids)
    assert (found.kind, found.spis) == (DisconnectKind.COA, _told(registration))
    assert query("SELECT r::text FROM key0_records AS r") == before


async def test_an_agent_that_has_not_agreed_is_asked_again(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    first = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    assert request_for_subscriber(admin, enrolment.nai, SUSPENDED) == first  # it is under way
    await claim(store, "n1")
    assert await finish(store, "n1", first[0], DisconnectState.FAILED)
    second = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    assert len(second) == 1 and second != first
    await claim(store, "n1")
    assert await finish(store, "n1", second[0], DisconnectState.NAKED, 503)
    assert _one(admin, second).done  # the agent has nothing of it
    assert request_for_subscriber(admin, enrolment.nai, SUSPENDED) == []


async def test_a_node_claims_what_it_needs_to_send(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    registration = await register(store, enrolment)
    seen = AccountingRecord(
        "visited",
        AccountingStatus.START,
        1_800_000_000.0,
        "s1",
        nas_identifier="fa1",
        nas_address=IPv4Address("198.51.100.7"),
        class_id=registration.class_id,
        operator_realm="visited.example",
    )
    # Another operator that shows the same Class names no NAS of this one.
    other = replace(seen, operator_realm="evil.example", nas_identifier="evil", event_time=1.9e9)
    assert await record(store, [seen, other]) == [Recorded.RECORDED] * 2
    (id_,) = request_for_subscriber(admin, enrolment.nai, SUSPENDED, not_after_s=30)
    (claimed,) = await claim(store, "n1", lease_s=5)
    assert claimed.id == id_ and claimed.attempts == 1
    assert claimed.class_id == registration.class_id
    assert list(claimed.spis) == _told(registration)
    assert (claimed.realm, claimed.operator_realm) == ("visited.example",) * 2
    assert claimed.nas_identifier == "fa1"
    assert claimed.nas_address == IPv4Address("198.51.100.7")
    assert 20 < claimed.remaining_s <= 30
    assert _one(admin, [id_]).state is DisconnectState.SENT
    # Accounting is tied to the registration when it is read.
    tied = {s.nas_identifier: s for s in list_sessions(admin, SessionFilter())}["fa1"]
    assert tied.registered and tied.subscriber == str(enrolment.nai)
    wanted = SessionFilter(subscriber=enrolment.nai, realm="visited.example")
    assert [s.session_id for s in list_sessions(admin, wanted)] == ["s1"]


async def test_a_lease_keeps_others_away_until_it_ends(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    (id_,) = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    assert [c.id for c in await claim(store, "dead", lease_s=0.5)] == [id_]
    assert await claim(store, "alive") == []
    assert not await release(store, "alive", id_)
    await asyncio.sleep(0.6)
    (again,) = await claim(store, "alive")
    assert (again.id, again.attempts) == (id_, 2)
    # The first node comes back: what it failed at is not its to say, what it was told is true.
    assert not await finish(store, "dead", id_, DisconnectState.FAILED)
    assert not await finish(store, "dead", id_, DisconnectState.NAKED, 403)
    assert await finish(store, "dead", id_, DisconnectState.ACKED)
    assert not await finish(store, "alive", id_, DisconnectState.FAILED)
    assert _one(admin, [id_]).state is DisconnectState.ACKED


async def test_what_is_given_back_is_claimed_at_once(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    (id_,) = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    await claim(store, "n1")
    assert await release(store, "n1", id_)
    assert _one(admin, [id_]).state is DisconnectState.PENDING
    assert [c.id for c in await claim(store, "n2")] == [id_]


async def test_a_node_takes_what_goes_to_its_realms(
    store: Store, provision: Provision, admin: Connection
) -> None:
    ids = {}
    for enrolment, realm in zip(provision(3), ("a.example", "b.example", "c.example"), strict=True):
        await register(store, enrolment, fa=f"fa1@{realm}")
        (ids[realm],) = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    assert await claim(store, "n1", realms=()) == []
    assert [c.id for c in await claim(store, "n1", realms={"B.example"})] == [ids["b.example"]]
    left = [ids["a.example"], ids["c.example"]]
    assert [c.id for c in await claim(store, "n1", limit=1)] == left[:1]
    assert [c.id for c in await claim(store, "n1")] == left[1:]


async def test_a_realm_with_much_to_be_told_leaves_room_for_others(
    store: Store, provision: Provision, admin: Connection
) -> None:
    realms = ("silent.example", "silent.example", "silent.example", "b.example")
    ids = []
    for enrolment, realm in zip(provision(4), realms, strict=True):
        await register(store, enrolment, fa=f"fa1@{realm}")
        ids += request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    claimed = await claim(store, "n1", limit=3, per_realm=2)
    assert [c.id for c in claimed] == [ids[0], ids[1], ids[3]]
    assert [c.id for c in await claim(store, "n2", per_realm=2)] == [ids[2]]


async def test_associations_that_are_long_over_are_not_asked_to_end(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    """The registration outlives them, and a request without an SPI could not be sent."""
    (enrolment,) = provision()
    await register(store, enrolment)
    query("TRUNCATE associations")
    assert request_for_subscriber(admin, enrolment.nai, SUSPENDED) == []


async def test_what_comes_too_late_has_failed(
    store: Store, provision: Provision, admin: Connection, query: Query
) -> None:
    (enrolment,) = provision()
    await register(store, enrolment)
    (id_,) = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    query("UPDATE disconnects SET not_after = now() - interval '1 second'")
    assert await claim(store, "n1") == []
    assert _one(admin, [id_]).state is DisconnectState.FAILED
    with pytest.raises(LocalError):
        await finish(store, "n1", id_, DisconnectState.SENT)


async def test_nodes_that_claim_at_once_get_each_request_once(
    database_settings: DatabaseSettings, store: Store, provision: Provision, admin: Connection
) -> None:
    wanted = []
    for enrolment in provision(24):
        await register(store, enrolment)
        wanted += request_for_subscriber(admin, enrolment.nai, SUSPENDED)

    async def node(name: str) -> list[int]:
        got = []
        async with Store.opened(database_settings, entropy=secrets.token_bytes) as own:
            while claimed := await claim(own, name, limit=2):
                got += [c.id for c in claimed]
                for item in claimed:
                    assert await finish(own, name, item.id, DisconnectState.ACKED)
        return got

    taken = await asyncio.gather(*(node(f"n{number}") for number in range(4)))
    assert sorted(id_ for own in taken for id_ in own) == sorted(wanted)


async def test_waiting_ends_with_the_last_answer(
    store: Store, provision: Provision, admin: Connection
) -> None:
    one, two = provision(2)
    for enrolment in (one, two):
        await register(store, enrolment)
    ids = [
        *request_for_subscriber(admin, one.nai, SUSPENDED),
        *request_for_subscriber(admin, two.nai, SUSPENDED),
    ]
    seen: list[list[str]] = []
    waiting = asyncio.create_task(
        asyncio.to_thread(
            wait,
            admin,
            ids,
            timeout_s=20,
            progress=lambda found: seen.append([str(item.state) for item in found]),
        )
    )
    await claim(store, "n1")
    await finish(store, "n1", ids[0], DisconnectState.ACKED)
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await finish(store, "n1", ids[1], DisconnectState.NAKED, 403)
    found = await asyncio.wait_for(waiting, 5)
    assert [(i.state, i.error_cause, i.done) for i in found] == [
        (DisconnectState.ACKED, None, True),
        (DisconnectState.NAKED, 403, False),
    ]
    assert seen[-1] == ["acked", "naked"]


async def test_waiting_is_bounded_and_nothing_to_wait_for_is_over_at_once(
    store: Store, provision: Provision, admin: Connection
) -> None:
    (enrolment,) = provision()
    assert wait(admin, [], timeout_s=60) == []
    await register(store, enrolment)
    ids = request_for_subscriber(admin, enrolment.nai, SUSPENDED)
    started = asyncio.get_running_loop().time()
    (found,) = wait(admin, ids, timeout_s=0.5)
    assert found.state is DisconnectState.PENDING
    assert asyncio.get_running_loop().time() - started < 3


async def test_servers_hear_of_a_request_when_it_is_committed(
    store: Store, provision: Provision, admin: Connection, postgres: PostgresServer,
    database_name: str,
) -> None:  # fmt: skip
    (enrolment,) = provision()
    await register(store, enrolment)
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as listening:
        listening.execute(f"LISTEN {disconnects.CHANNEL}")
        request_for_subscriber(admin, enrolment.nai, SUSPENDED)
        heard = list(listening.notifies(timeout=5, stop_after=1))
    assert [notice.channel for notice in heard] == [disconnects.CHANNEL]
