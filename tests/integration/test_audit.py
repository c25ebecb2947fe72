"""The audit on a real PostgreSQL: what is issued has its entry, and tampering is named."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import psycopg
import pytest

from kdc.audit.chain import Head
from kdc.audit.finding import Fault
from kdc.config import DatabaseSettings
from kdc.crypto.checkpoint_key import create_checkpoint_key, public_key_of
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store import CommitResult, CommitUnknown, SpiTaken, Store, audit, migrate, subscribers
from kdc.store import disconnects as outbox
from kdc.store import radius_clients as clients
from kdc.store.database import administration
from tests.conftest import PostgresServer
from tests.integration.audited import changes_of, commit, execute, verify, writer_of
from tests.integration.domains import Domains
from tests.integration.stored import Provision


@pytest.fixture
def conninfo(postgres: PostgresServer, database_name: str) -> str:
    return postgres.conninfo(database_name)


async def fill(store: Store, provision: Provision, *sizes: int) -> None:
    """A batch of each size."""
    for size in sizes:
        changes = await changes_of(store, provision(size))
        assert set(await commit(store, changes)) == {CommitResult.COMMITTED}


def items_of(conninfo: str) -> tuple[int, int, int]:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM registrations WHERE audit_writer IS NOT NULL),"
            " (SELECT count(*) FROM audit_events), (SELECT count(*) FROM audit_entries e"
            " JOIN audit_chains c ON c.id = e.writer WHERE c.kind = 'issuing')"
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


# --- what is issued ---


async def test_what_is_committed_has_its_entry(
    store: Store, provision: Provision, conninfo: str
) -> None:
    await fill(store, provision, 1, 5, 2)
    report = verify(conninfo)
    assert report.finding is None
    assert items_of(conninfo) == (8, 0, 3)
    with psycopg.connect(conninfo) as connection:
        differing = connection.execute(
            "SELECT count(*) FROM registrations g JOIN audit_entries e ON e.writer = g.audit_writer"
            " AND e.sequence = g.audit_sequence"
            " WHERE extract(epoch FROM g.created_at) * 1000000 <> e.at_us"
        ).fetchone()
    assert differing == (0,)


async def test_denials_and_deregistrations_have_theirs(
    store: Store, provision: Provision, conninfo: str
) -> None:
    given, denied, ended = await changes_of(store, provision(3))
    denied = replace(denied, registration=None, denial_code=133, digest=None, outcome=None)
    ended = replace(ended, registration=None, deregistration=True)
    await commit(store, [given, denied, ended])
    assert verify(conninfo).finding is None
    assert items_of(conninfo) == (1, 2, 1)
    with psycopg.connect(conninfo) as connection:
        found = connection.execute(
            "SELECT record_id, kind, code, digest FROM audit_events ORDER BY kind"
        ).fetchall()
    assert found == [
        (denied.record_id, 1, 133, None),
        (ended.record_id, 2, 0, ended.digest),
    ]


async def test_items_in_conflict_leave_no_row_and_the_others_verify(
    store: Store, provision: Provision, conninfo: str
) -> None:
    changes = await changes_of(store, provision(6))
    stale = [1, 4]
    mixed = [replace(c, revision=9) if i in stale else c for i, c in enumerate(changes)]
    results = await commit(store, mixed)
    assert [i for i, r in enumerate(results) if r is CommitResult.CONFLICT] == stale
    assert verify(conninfo).finding is None
    # All of a batch in conflict: no entry, and the chain goes on.
    assert set(await commit(store, mixed)) == {CommitResult.CONFLICT}
    assert items_of(conninfo) == (4, 0, 1)
    assert set(await commit(store, [changes[i] for i in stale])) == {CommitResult.COMMITTED}
    report = verify(conninfo)
    assert report.finding is None and items_of(conninfo) == (6, 0, 2)
    assert report.heads[writer_of(conninfo)].sequence == 2


async def test_a_batch_that_the_database_refuses_leaves_the_chain_as_it_was(
    store: Store, provision: Provision, conninfo: str
) -> None:
    one, two = provision(2)
    (change,) = await changes_of(store, [one])
    stolen = replace(change, unspent=(*change.unspent[:-1], two.spis[1]), added_spis=(two.spis[1],))
    with pytest.raises(SpiTaken):
        await commit(store, [stolen])
    await commit(store, [change])
    report = verify(conninfo)
    assert report.finding is None and report.heads[writer_of(conninfo)] == Head(
        1, report.heads[writer_of(conninfo)].hash
    )
    assert len(report.heads) == 2  # the acts', and one


async def test_commits_at_once_do_not_wait_for_each_other_and_two_processes_neither(
    store: Store, provision: Provision, conninfo: str, database_settings: DatabaseSettings
) -> None:
    async with Store.opened(database_settings, entropy=secrets.token_bytes) as other:
        for _ in range(3):
            batches = [(s, await changes_of(s, provision(3))) for s in (store, other) * 3]
            await asyncio.gather(*(commit(s, changes) for s, changes in batches))
    report = verify(conninfo)
    assert report.finding is None
    assert items_of(conninfo) == (54, 0, 18)
    assert report.chains - 1 >= 2  # of each process at least one
    assert report.chains - 1 <= 2 * database_settings.pool_size


async def test_an_entry_that_somebody_else_has_written_makes_a_new_chain(
    store: Store, provision: Provision, conninfo: str
) -> None:
    await fill(store, provision, 1)
    writer = writer_of(conninfo)
    execute(
        conninfo,
        "INSERT INTO audit_entries SELECT writer, 2, at_us, 1, root, absent, hash, root"
        f" FROM audit_entries WHERE writer = {writer}",
    )
    changes = await changes_of(store, provision(1))
    with pytest.raises(SpiTaken):
        await commit(store, changes)
    assert await commit(store, changes) == [CommitResult.COMMITTED]
    finding = verify(conninfo).finding
    assert finding is not None and (finding.writer, finding.sequence) == (writer, 2)


async def test_after_an_unknown_commit_nothing_is_appended_to_that_chain(
    store: Store, provision: Provision, conninfo: str
) -> None:
    await fill(store, provision, 1)
    changes = await changes_of(store, provision(1))
    with psycopg.connect(conninfo) as blocker:
        blocker.execute(
            "SELECT FROM key0_records WHERE id = %s FOR UPDATE", (changes[0].record_id,)
        )
        waiting = asyncio.create_task(commit(store, changes))
        await asyncio.sleep(0.3)
        blocker.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with pytest.raises(CommitUnknown):
            await waiting
    assert await commit(store, changes) == [CommitResult.COMMITTED]
    report = verify(conninfo)
    assert report.finding is None
    assert sorted(head.sequence for head in list(report.heads.values())[1:]) == [1, 1]


# --- what is tampered with ---

_TAMPERED = {
    "edited": (
        ("UPDATE registrations SET fa_nai = 'fa9@visited.example' WHERE audit_sequence = 2"
        " AND audit_position = 1"),
        Fault.EDITED, "registration",
    ),
    "time": (
        ("UPDATE registrations SET created_at = created_at + interval '1 microsecond'"
        " WHERE audit_sequence = 2 AND audit_position = 0"),
        Fault.EDITED, "registration",
    ),
    "removed": (
        "DELETE FROM registrations WHERE audit_sequence = 2 AND audit_position = 2",
        Fault.REMOVED, "registration or event",
    ),
    "unmarked": (
        ("UPDATE registrations SET audit_writer = NULL, audit_sequence = NULL,"
        " audit_position = NULL WHERE audit_sequence = 2"),
        Fault.REMOVED, "registration or event",
    ),
    "partly unmarked": (
        "UPDATE registrations SET audit_sequence = NULL WHERE audit_sequence = 2",
        Fault.REMOVED, "entry",
    ),
    "inserted": (
        ("INSERT INTO registrations SELECT '\\x0102030405060708', record_id,"
        " identification_second + 1, identification_low, fa_nai, nas_address, operator_realm,"
        " care_of_address, home_address, alias, lifetime_s, spis, created_at, audit_writer,"
        " audit_sequence, 3 FROM registrations WHERE audit_sequence = 2 AND audit_position = 0"),
        Fault.INSERTED, "registration",
    ),
    "reordered": (
        ("UPDATE registrations SET audit_position = 1 - audit_position"
        " WHERE audit_sequence = 2 AND audit_position < 2"),
        Fault.REORDERED, "registration",
    ),
    "entry edited": (
        "UPDATE audit_entries SET at_us = at_us - 1 WHERE sequence = 2 AND writer = {writer}",
        Fault.EDITED, "entry",
    ),
    "entry removed": (
        "DELETE FROM audit_entries WHERE sequence = 2 AND writer = {writer}",
        Fault.REMOVED, "entry",
    ),
    "event edited": (
        "UPDATE audit_events SET code = 131 WHERE writer = {writer}", Fault.EDITED, "event",
    ),
    "event removed": (
        "DELETE FROM audit_events WHERE writer = {writer}",
        Fault.REMOVED, "registration or event",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _TAMPERED)
async def test_what_is_tampered_with_is_named(
    name: str, store: Store, provision: Provision, conninfo: str
) -> None:
    statement, fault, what = _TAMPERED[name]
    await fill(store, provision, 2, 3)
    (denied,) = await changes_of(store, provision(1))
    await commit(store, [replace(denied, registration=None, denial_code=133)])
    await fill(store, provision, 1)
    assert verify(conninfo).finding is None
    writer = writer_of(conninfo)
    execute(conninfo, statement.format(writer=writer))
    finding = verify(conninfo).finding
    assert finding is not None
    assert (finding.fault, finding.what) == (fault, what)
    if name != "partly unmarked":
        assert (finding.writer, finding.sequence) == (writer, 3 if "event" in name else 2)
        assert finding.at_us is not None


async def test_registrations_of_the_release_before_are_told_apart(
    store: Store, provision: Provision, domains: Domains, conninfo: str
) -> None:
    await fill(store, provision, 2)
    execute(
        conninfo,
        "INSERT INTO registrations SELECT '\\x0102030405060708', record_id,"
        " identification_second + 1, identification_low, fa_nai, nas_address, operator_realm,"
        " care_of_address, home_address, alias, lifetime_s, spis FROM registrations LIMIT 1",
    )
    shown = json.loads(domains.kdc("audit", "verify", "--json", "-c", "home.toml"))
    assert shown["sound"] and shown["not_covered"] == 1 and shown["last_not_covered"]
    domains.kdc("audit", "verify", "--covered-since", "2099-01-01", "-c", "home.toml")
    late = ("audit", "verify", "--covered-since", "2020-01-01", "-c", "home.toml")
    assert "without an entry" in domains.kdc(*late, expect=1)


# --- kill -9 ---

_PROCESS = """
import asyncio, os, sys
from pathlib import Path
from kdc.config import DatabaseSettings
from kdc.model import Enrolment, Nai
from kdc.store import Store
from tests.integration.audited import commit
from tests.integration.stored import change_of

async def main(url, kek, spis):
    settings = DatabaseSettings.model_validate(
        {"url": url, "kek_file": kek}, context={"folder": Path("/")})
    async with Store.opened(settings, entropy=os.urandom) as store:
        while True:
            loaded = await store.load(spis)
            records = {r.record.record_id: r.record for r in loaded.records.values()}
            changes = [await change_of(store, r, r.unspent[0], loaded.clock)
                       for r in records.values()]
            for result, change in zip(await commit(store, changes), changes):
                print(result.value, change.registration.class_id.hex(), flush=True)
            spis = [c.unspent[0] for c in changes]

asyncio.run(main(sys.argv[1], sys.argv[2], [int(s) for s in sys.argv[3:]]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_sound_chains_and_all_that_it_has_told(
    postgres: PostgresServer, database_name: str, provision: Provision, conninfo: str
) -> None:
    told: set[str] = set()
    for _ in range(4):
        spis = [str(e.spis[0]) for e in provision(4)]
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, postgres.url(database_name),
             str(postgres.kek_file), *spis],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            for _ in range(60):
                result, class_id = process.stdout.readline().split()
                assert result == "committed"
                told.add(class_id)
            process.send_signal(signal.SIGKILL)
            process.communicate()
    report = verify(conninfo)
    assert report.finding is None and report.chains == 5
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT encode(class_id, 'hex'), audit_writer FROM registrations"
        ).fetchall()
    assert told <= {row[0] for row in rows} and all(row[1] is not None for row in rows)


# --- acts ---


def test_what_is_administered_is_an_act_of_its_own_transaction(
    provision: Provision, postgres: PostgresServer, conninfo: str
) -> None:
    one, two = provision(2)
    with administration(conninfo) as connection:
        keyring = migrate.load_keyring(connection, postgres.kek)
        audit.act_as(connection, "bearer:ops-1")
        subscribers.set_status(connection, one.nai, subscribers.SUSPENDED)
        subscribers.set_status(connection, one.nai, subscribers.ACTIVE)
        outbox.request_for_subscriber(connection, two.nai, subscribers.REVOKED)
        entry = clients.ClientEntry("proxy", ip_network("192.0.2.0/28"))
        secret = Secret(secrets.token_bytes(32))
        clients.add(connection, entry, secret, keyring, entropy=secrets.token_bytes)
        clients.set_enabled(connection, "proxy", enabled=False)
        with pytest.raises(clients.ClientUnknown):
            clients.remove(connection, "another")
        clients.remove(connection, "proxy")
        # Rolled back with what it tells.
        audit.record_act(connection, None, "test.nothing", "nothing")
        connection.rollback()
        names = {nai: subscribers.load(connection, nai).internal_name for nai in (one.nai, two.nai)}
        lines = audit.tail(connection, limit=100)
    assert verify(conninfo).finding is None
    told = [(line.what, line.subject) for line in lines]
    assert [what for what, _ in told[:2]] == ["kek.record", "schema.upgrade"]
    assert {subject for what, subject in told if what == "subscriber.add"} == {
        f"subscriber:{name}" for name in names.values()
    }
    assert told[-6:] == [
        ("subscriber.suspended", f"subscriber:{names[one.nai]}"),
        ("subscriber.active", f"subscriber:{names[one.nai]}"),
        ("subscriber.revoked", f"subscriber:{names[two.nai]}"),
        ("client.add", "client:proxy"),
        ("client.disable", "client:proxy"),
        ("client.remove", "client:proxy"),
    ]
    assert {line.actor for line in lines[-6:]} == {"bearer:ops-1"}
    assert lines[0].actor.startswith("os:")
    assert "home.example" not in repr(lines) and secret.reveal().hex() not in repr(lines)


def test_an_act_that_is_edited_or_removed_is_named(provision: Provision, conninfo: str) -> None:
    provision(3)
    provision(1)
    acts = "(SELECT id FROM audit_chains WHERE kind = 'acts')"
    execute(
        conninfo, f"UPDATE audit_acts SET actor = 'os:x' WHERE writer = {acts} AND sequence = 4"
    )
    finding = verify(conninfo).finding
    assert finding is not None
    assert (finding.fault, finding.what, finding.sequence) == (Fault.EDITED, "act", 4)
    execute(conninfo, "DELETE FROM audit_acts WHERE sequence = 3 AND position = 1")
    finding = verify(conninfo).finding
    assert finding is not None
    assert (finding.fault, finding.what, finding.position) == (Fault.REMOVED, "act", 1)


def test_acts_of_many_connections_at_once_are_one_chain(conninfo: str) -> None:
    code = (
        "import sys\nfrom kdc.store import audit\nfrom kdc.store.database import administration\n"
        "with administration(sys.argv[1]) as c:\n"
        "    for n in range(20):\n"
        "        audit.record_act(c, 'os:t', 'test', f'number:{n}')\n        c.commit()\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, conninfo], cwd=Path(__file__).parents[2],
                         env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
        for _ in range(3)
    ]  # fmt: skip
    assert [process.wait(60) for process in running] == [0, 0, 0]
    report = verify(conninfo)
    assert report.finding is None and report.items == 62


# --- the commands ---


async def test_an_auditor_at_work(
    store: Store, provision: Provision, domains: Domains, conninfo: str
) -> None:
    (enrolment, *_) = enrolments = provision(3)
    await commit(store, await changes_of(store, enrolments))
    home = ("-c", "home.toml")
    domains.kdc("audit", "keygen", "audit.key")
    key = domains.folder / "audit.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "expected a new file" in domains.kdc("audit", "keygen", "audit.key", expect=1)
    assert "checkpoint 1" in domains.kdc("audit", "checkpoint", "--key", "audit.key", *home)
    nothing = domains.kdc("audit", "checkpoint", "--key", "audit.key", *home, expect=1)
    assert "nothing has happened" in nothing
    public = ("--public-key", "audit.key.pub")
    assert domains.kdc("audit", "verify", *public, *home).endswith("sound\n")
    # Pseudonyms, and who they are.
    lines = domains.kdc("audit", "tail", "--json", *home).splitlines()
    subjects = [json.loads(line)["subject"] for line in lines]
    assert str(enrolment.nai) not in "".join(lines) and enrolment.nai.user not in "".join(lines)
    added = next(subject for subject in subjects if subject.startswith("subscriber:"))
    person = json.loads(domains.kdc("audit", "who", added, "--json", *home))
    assert person["nai"] in {str(e.nai) for e in enrolments}
    again = json.loads(domains.kdc("audit", "who", f"record:{person['record']}", "--json", *home))
    assert again == person
    last = json.loads(domains.kdc("audit", "tail", "--limit", "1", "--json", *home))
    assert (last["what"], last["subject"]) == ("audit.who", f"record:{person['record']}")
    # Away from the database.
    (domains.folder / "audit.jsonl").write_text(domains.kdc("audit", "export", *home))
    told = json.loads(domains.kdc("audit", "verify", "--json", "--file", "audit.jsonl", *public))
    assert told["sound"] and told["signatures_verified"]
    assert str(enrolment.nai) not in (domains.folder / "audit.jsonl").read_text()
    # The end is cut off, and all of what it was about with it: the checkpoint tells.
    writer = writer_of(conninfo)
    execute(conninfo, f"DELETE FROM audit_entries WHERE writer = {writer}",
            "DELETE FROM registrations")  # fmt: skip
    for command in (("verify", *public), ("checkpoint", "--key", "audit.key")):
        done = domains.run("kdc", "audit", *command, *home)
        assert done.returncode == 1
        assert f"entry removed (writer {writer}, sequence 1)" in done.stdout


def test_a_pseudonym_of_nobody_was_asked_for_all_the_same(conninfo: str) -> None:
    with administration(conninfo) as connection:
        with pytest.raises(audit.PseudonymUnknown):
            audit.who(connection, "record:999")
        with pytest.raises(LocalError, match="expected subscriber:UUID"):
            audit.who(connection, "alice@home.example")
        (line,) = audit.tail(connection, limit=1)
    assert (line.what, line.subject, line.details) == ("audit.who", "record:999", '{"found":false}')


async def test_a_checkpoint_says_what_is_new(
    store: Store, provision: Provision, conninfo: str
) -> None:
    key = create_checkpoint_key(secrets.token_bytes)
    await fill(store, provision, 2)
    for number in (1, 2):
        with administration(conninfo) as connection:
            made = audit.add_checkpoint(connection, verify(conninfo).heads, key)
        assert made.number == number
        await fill(store, provision, 1)
    report = verify(conninfo, [public_key_of(key)])
    assert report.finding is None and report.checkpoints == 2
    execute(conninfo, "DELETE FROM audit_checkpoints WHERE number = 1")
    finding = verify(conninfo, [public_key_of(key)]).finding
    assert finding is not None and (finding.what, finding.sequence) == ("checkpoint", 1)
