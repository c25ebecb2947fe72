"""Accounting on a real PostgreSQL: durable, counted once, whatever order requests arrive in."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdc.accounting import (
    AccountingRecord,
    AccountingStatus,
    join_gigawords,
    printable,
)
from kdc.config import DatabaseSettings
from kdc.errors import Malformed
from kdc.store import CommitUnknown, DatabaseUnavailable, Store, migrate
from kdc.store.accounting import Recorded, Session, SessionFilter, list_sessions, record
from kdc.store.database import administration
from kdc.store.embedded import EmbeddedServer
from tests.conftest import PostgresServer

START, STOP, INTERIM, ON, OFF = (
    AccountingStatus.START,
    AccountingStatus.STOP,
    AccountingStatus.INTERIM_UPDATE,
    AccountingStatus.ACCOUNTING_ON,
    AccountingStatus.ACCOUNTING_OFF,
)
T = 1_800_000_000.0
CLASS = bytes(range(8))


def request(status: AccountingStatus, at: float = 0, **changes: Any) -> AccountingRecord:
    """One of session s1 at fa1, `at` seconds after T."""
    whole = AccountingRecord(
        "visited",
        status,
        T + at,
        "" if status.of_nas else "s1",
        nas_identifier="fa1",
        nas_address=IPv4Address("198.51.100.7"),
        class_id=None if status.of_nas else CLASS,
        spis=() if status.of_nas else (2**29 + 1, 2**29 + 2),
        user_name=None if status.of_nas else "m-0011223344556677@home.example",
        operator_realm="visited.example",
        fa_nai="fa1@visited.example",
    )
    return replace(whole, **changes)


def interim(at: float, count: int, **changes: Any) -> AccountingRecord:
    counters = {"input_octets": count, "output_octets": 2 * count, "session_time_s": int(at)}
    return request(INTERIM, at, **counters | changes)


def stop(at: float, count: int, **changes: Any) -> AccountingRecord:
    return replace(interim(at, count), status=STOP, **{"terminate_cause": 1} | changes)


@pytest.fixture
def sessions(postgres: PostgresServer, database_name: str) -> Iterator[Any]:
    """Lists what is stored."""
    with administration(postgres.conninfo(database_name)) as connection:

        def listed(**wanted: Any) -> list[Session]:
            found = list(list_sessions(connection, SessionFilter(**wanted)))
            connection.rollback()
            return found

        yield listed


async def _record(store: Store, *batch: AccountingRecord) -> None:
    assert await record(store, batch) == [Recorded.RECORDED] * len(batch)


async def test_a_session_from_start_to_stop(store: Store, sessions: Any) -> None:
    await _record(store, request(START))
    (row,) = sessions(active=True)
    assert (row.session_id, row.status, row.registration) == ("s1", "started", CLASS.hex())
    assert row.registered is False and row.subscriber is None
    assert row.spis == [2**29 + 1, 2**29 + 2] and row.nas_address == "198.51.100.7"
    await _record(store, interim(60, 1000))
    await _record(store, stop(90, 5000))
    (row,) = sessions()
    assert row.status == "stopped" and sessions(active=True) == []
    assert (row.input_octets, row.output_octets, row.session_time_s) == (5000, 10000, 90)
    assert row.terminate_cause == 1
    assert [t.timestamp() - T for t in (row.started_at, row.event_time, row.stopped_at)] == [
        0,
        90,
        90,
    ]


async def test_counters_of_64_bits_are_kept_whole(store: Store, sessions: Any) -> None:
    count = join_gigawords(2**32 - 1, 2**32 - 1)
    assert count == 2**64 - 1
    await _record(store, stop(5, 1, input_octets=count, output_octets=count - 1))
    (row,) = sessions()
    assert (row.input_octets, row.output_octets) == (2**64 - 1, 2**64 - 2)


@pytest.mark.parametrize(
    ("late", "status"),
    [
        (request(START), "stopped"),
        (interim(60, 1000), "stopped"),
        (stop(90, 5000), "stopped"),
        (stop(90, 5000, event_time=T + 88), "stopped"),  # with another Acct-Delay-Time
    ],
)
async def test_what_comes_after_the_stop_moves_nothing_backwards(
    late: AccountingRecord, status: str, store: Store, sessions: Any
) -> None:
    await _record(store, request(START))
    await _record(store, stop(90, 5000))
    (before,) = sessions()
    await _record(store, late)
    (after,) = sessions()
    assert after.status == status
    assert (after.input_octets, after.session_time_s) == (5000, 90)
    assert after.started_at == before.started_at and after.event_time == before.event_time


async def test_a_request_that_is_sent_again_writes_nothing(
    store: Store, postgres: PostgresServer, database_name: str
) -> None:
    rows = []
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as plain:
        for _ in range(2):
            await _record(store, interim(60, 1000), interim(60, 1000))
            query = "SELECT xmin, updated_at, s::text FROM accounting_sessions AS s"
            rows.append(plain.execute(query).fetchall())
    assert rows[0] == rows[1] and len(rows[0]) == 1


async def test_the_registration_is_that_of_the_latest_request(store: Store, sessions: Any) -> None:
    """A session that lives on through a renewal has another Class, other SPIs, another alias."""
    renewed = {"class_id": b"renewed!", "spis": (2**29 + 9,), "user_name": "m-1@home.example"}
    for batch in ([interim(60, 1), interim(90, 2, **renewed)],) * 2:
        await _record(store, *reversed(batch))
        await _record(store, request(INTERIM, 100, class_id=None, spis=(), user_name=None))
        (row,) = sessions()
        assert (row.registration, row.spis, row.user_name) == (
            b"renewed!".hex(),
            [2**29 + 9],
            "m-1@home.example",
        )


async def test_peers_and_nases_do_not_share_sessions(store: Store, sessions: Any) -> None:
    await _record(
        store,
        interim(60, 1),
        interim(60, 2, peer="other"),
        interim(60, 3, nas_identifier="fa2"),
        interim(60, 4, nas_identifier=None),
    )
    assert sorted(row.input_octets for row in sessions()) == [1, 2, 3, 4]
    await _record(store, request(ON, 100, peer="other"), request(OFF, 100, nas_identifier="fa2"))
    closed = [row.input_octets for row in sessions() if row.status == "closed"]
    assert sorted(closed) == [2, 3]
    assert len(sessions(active=True)) == 2


@pytest.mark.parametrize("status", [ON, OFF])
async def test_a_nas_that_restarts_has_no_session_of_before(
    status: AccountingStatus, store: Store, sessions: Any
) -> None:
    old, new = interim(60, 1), request(START, 100.2, session_id="s2")
    await _record(store, request(status, 100), old, new)  # one batch, in a wrong order
    # And again, after the new session: received at 103.9, with an Acct-Delay-Time of 3.
    await _record(store, request(status, 100.9))
    rows = {row.session_id: row for row in sessions()}
    assert rows["s2"].status == "started"
    assert (rows["s1"].status, rows["s1"].terminate_cause) == ("closed", 11)
    assert rows["s1"].stopped_at.timestamp() == T + 100
    await _record(store, request(START), interim(70, 7))  # late: closed stays closed
    rows = {row.session_id: row for row in sessions()}
    assert (rows["s1"].status, rows["s1"].input_octets) == ("closed", 7)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_stop_of_a_session_outweighs_what_its_nas_closed(
    order: Sequence[int], store: Store, sessions: Any
) -> None:
    requests = (interim(60, 1), stop(90, 5, terminate_cause=4), request(ON, 100))
    for index in order:
        await _record(store, requests[index])
    (row,) = sessions()
    assert (row.status, row.terminate_cause, row.stopped_at.timestamp()) == ("stopped", 4, T + 90)


async def test_closing_goes_in_chunks(
    store: Store, postgres: PostgresServer, database_name: str, sessions: Any
) -> None:
    batch = [request(START, session_id=f"s{number}") for number in range(2500)]
    await _record(store, *batch)
    await _record(store, request(ON, 10))
    assert sessions(active=True) == [] and len(sessions()) == 2500


async def test_one_that_no_row_holds_does_not_fail_its_batch(store: Store, sessions: Any) -> None:
    poison = interim(60, 1, session_id="poison")
    object.__setattr__(poison, "user_name", "a\0b")
    wide = interim(60, 1, session_id="wide")
    object.__setattr__(wide, "input_octets", 10**30)
    bad_nas = request(ON, 10)
    object.__setattr__(bad_nas, "nas_identifier", "a\0b")
    batch = [interim(60, 1, session_id=f"s{number}") for number in range(9)]
    batch[2:2], batch[7:7], batch[9:9] = [poison], [wide], [bad_nas]
    results = await record(store, batch)
    assert [index for index, r in enumerate(results) if r is Recorded.REFUSED] == [2, 7, 9]
    assert results.count(Recorded.RECORDED) == 9 and len(sessions()) == 9


async def test_an_empty_batch_is_recorded(store: Store) -> None:
    assert await record(store, []) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"peer": ""},
        {"session_id": ""},
        {"session_id": "a\0b"},
        {"session_id": "\x1b[2J"},
        {"user_name": "\ud800"},
        {"user_name": "x" * 1013},
        {"nas_identifier": None, "nas_address": None},
        {"nas_identifier": "", "nas_address": None},
        {"event_time": -1.0},
        {"event_time": float("nan")},
        {"event_time": 2.0**32},
        {"input_octets": 2**64},
        {"input_packets": -1},
        {"session_time_s": 2**32},
        {"terminate_cause": 2**32},
        {"class_id": bytes(254)},
        {"spis": (2**32,)},
        {"spis": tuple(range(65))},
    ],
)
def test_what_no_row_holds_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        request(INTERIM, **changes)


def test_octets_become_text_that_prints_and_differs() -> None:
    assert printable("wärme 7".encode()) == "wärme 7"
    assert printable(b"a\0\xff\x1b") == "a\\x00\\xff\\x1b"
    assert printable(b"a\\x00") != printable(b"a\0")


_STATES = st.sampled_from([START, INTERIM, STOP])


@st.composite
def _stories(draw: st.DrawFn) -> tuple[list[AccountingRecord], list[list[AccountingRecord]]]:
    """The requests of one session, and two ways in which they may arrive, in batches."""
    count = st.none() | st.integers(0, 2**64 - 1)
    requests = [
        request(
            draw(_STATES),
            draw(st.integers(0, 5)),
            input_octets=draw(count),
            output_packets=draw(count),
            session_time_s=draw(st.none() | st.integers(0, 100)),
            class_id=draw(st.sampled_from([None, CLASS, b"renewed!"])),
            spis=draw(st.sampled_from([(), (2**29,), (2**29 + 1, 2**29 + 2)])),
            user_name=draw(st.sampled_from([None, "m-1@home.example", "m-2@home.example"])),
            operator_realm=draw(st.sampled_from([None, "visited.example"])),
            terminate_cause=draw(st.sampled_from([None, 1, 5])),
        )
        for _ in range(draw(st.integers(1, 5)))
    ]
    again = draw(st.lists(st.sampled_from(requests), max_size=5))
    shuffled = draw(st.permutations([*requests, *again]))
    cut = draw(st.integers(0, len(shuffled)))
    return requests, [shuffled[:cut], *([item] for item in shuffled[cut:])]


def test_every_order_and_multiplicity_gives_one_final_row(
    postgres: PostgresServer, database_settings: DatabaseSettings
) -> None:
    columns = (
        "status, class_id, spis, user_name, tie_rank, operator_realm, fa_nai, nas_identifier,"
        " nas_address, started_at, event_time, stopped_at, session_time_s, input_octets,"
        " output_octets, input_packets, output_packets, terminate_cause"
    )
    loop = asyncio.new_event_loop()
    opening = Store.opened(database_settings, entropy=secrets.token_bytes)
    store = loop.run_until_complete(opening.__aenter__())
    plain = psycopg.connect(database_settings.url, autocommit=True)

    def final(session_id: str, batches: list[list[AccountingRecord]]) -> tuple[Any, ...]:
        for batch in batches:
            named = [replace(item, session_id=session_id) for item in batch]
            results = loop.run_until_complete(record(store, named))
            assert set(results) <= {Recorded.RECORDED}
        query = f"SELECT {columns} FROM accounting_sessions WHERE session_id = %s"
        (row,) = plain.execute(query, (session_id,)).fetchall()
        return row

    numbers = itertools.count()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_stories())
    def check(story: tuple[list[AccountingRecord], list[list[AccountingRecord]]]) -> None:
        requests, arrived = story
        number = next(numbers)
        in_order = final(f"{number}a", [[item] for item in requests])
        assert final(f"{number}b", arrived) == in_order
        statuses = {item.status for item in requests}
        wanted = 4 if STOP in statuses else 2 if INTERIM in statuses else 1
        known = [item.input_octets for item in requests if item.input_octets is not None]
        assert in_order[0] == wanted
        assert in_order[13] == (max(known) if known else None)

    try:
        check()
    finally:
        plain.close()
        loop.run_until_complete(opening.__aexit__(None, None, None))
        loop.close()


async def test_nodes_that_write_the_same_sessions_at_once_lose_none(
    database_settings: DatabaseSettings, sessions: Any
) -> None:
    async def node(number: int) -> None:
        async with Store.opened(database_settings, entropy=secrets.token_bytes) as own:
            for round_ in range(5):
                order = [f"s{n}" for n in range(30)]
                if number % 2:
                    order.reverse()
                await _record(
                    own,
                    *(interim(60, number * 100 + round_, session_id=name) for name in order),
                    *([request(ON, 10)] if number == 3 else []),
                )

    await asyncio.gather(*(node(number) for number in range(4)))
    assert [row.input_octets for row in sessions()] == [304] * 30


async def test_a_stopped_database_is_unavailable_in_time(
    reachable_folder: Any, postgres: PostgresServer
) -> None:
    server = EmbeddedServer(reachable_folder / "accounting")
    server.start()
    try:
        with administration(server.conninfo) as connection:
            migrate.upgrade(connection, postgres.kek, entropy=secrets.token_bytes, progress=print)
        url = f"postgresql:///postgres?host={server.socket_folder}&user=roamkey"
        chosen = postgres.settings("unused", url=url, deadline_s=1.0)
        async with Store.opened(chosen, entropy=secrets.token_bytes) as own:
            await _record(own, request(START))
            server.stop()
            started = asyncio.get_running_loop().time()
            told: list[type[Exception]] = []
            while DatabaseUnavailable not in told:
                with pytest.raises((DatabaseUnavailable, CommitUnknown)) as error:
                    await record(own, [request(START)])
                told.append(error.type)
            # The connection that the pool still had may have ended around a commit.
            assert len(told) <= 2
            assert asyncio.get_running_loop().time() - started < 8
    finally:
        server.stop()
