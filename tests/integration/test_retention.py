"""What has been kept long enough is deleted, and nothing else: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets

import psycopg

from kdc.accounting import AccountingRecord, AccountingStatus
from kdc.config import DatabaseSettings
from kdc.store import Store
from kdc.store.accounting import Recorded, record
from kdc.store.retention import Purged, purge
from tests.conftest import PostgresServer

OLD = "now() - interval '181 days'"
_SESSION = """
INSERT INTO accounting_sessions (peer, nas, session_id, status, spis, tie_rank, event_time,
  created_at, updated_at)
SELECT 'visited', 'fa1', {name} || n, {status}, '{{}}', '\\x00', {event}, {created}, {updated}
FROM generate_series(1, {count}) AS n
"""
_DISCONNECT = """
INSERT INTO disconnects (kind, record_id, class_id, spis, realm, fa_nai, nas_address,
  requested_at, not_after, state)
SELECT 'disconnect', 1, '\\x00', '{{}}', 'visited.example', 'fa1@visited.example', '192.0.2.1',
  {requested}, {requested} + interval '1 minute', {state} FROM generate_series(1, {count}) AS n
"""


def _session(name: str, count: int = 1, **changes: str) -> str:
    given = {"status": "4", "event": OLD, "created": OLD, "updated": OLD} | changes
    return _SESSION.format(name=f"'{name}'", count=count, **given)


def _disconnect(requested: str, count: int = 1, state: str = "'acked'") -> str:
    return _DISCONNECT.format(requested=requested, state=state, count=count)


async def test_what_is_old_goes_and_all_else_stays(
    store: Store, database_settings: DatabaseSettings, postgres: PostgresServer, database_name: str
) -> None:
    """A session is old by when we heard of it: what its NAS says of the time is not believed."""
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as plain:
        for statement in (
            _session("old", 2500),
            _session("never stopped", status="1"),
            _session("of the future", event="to_timestamp(4294967295)"),
            _session("still told of", updated="now() - interval '179 days'"),
            _session("young", created="now()", updated="now()"),
            _disconnect("now() - interval '31 days'", 1200),
            _disconnect("now() - interval '31 days'", state="'pending'"),
            _disconnect("now() - interval '29 days'"),
            _disconnect("now()", state="'pending'"),
        ):
            plain.execute(statement)
        # Two nodes at once: each row goes once.
        both = await asyncio.gather(
            purge(store, database_settings), purge(store, database_settings)
        )
        assert sum(each.sessions for each in both) == 2502
        assert sum(each.disconnects for each in both) == 1201
        names = plain.execute("SELECT session_id FROM accounting_sessions ORDER BY 1").fetchall()
        assert names == [("still told of1",), ("young1",)]
        assert plain.execute("SELECT count(*) FROM disconnects").fetchone() == (2,)
    assert await purge(store, database_settings) == Purged(0, 0)


async def test_a_session_that_is_told_again_after_its_time_is_a_new_one(
    store: Store, database_settings: DatabaseSettings, postgres: PostgresServer, database_name: str
) -> None:
    number = secrets.token_hex(4)
    item = AccountingRecord("visited", AccountingStatus.STOP, 1.0, number, nas_identifier="fa1")
    assert await record(store, [item]) == [Recorded.RECORDED]
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as plain:
        plain.execute(f"UPDATE accounting_sessions SET created_at = {OLD}, updated_at = {OLD}")
    assert await purge(store, database_settings) == Purged(1, 0)
    assert await record(store, [item]) == [Recorded.RECORDED]
    assert await purge(store, database_settings) == Purged(0, 0)
