"""KEY0 in two versions, codes that are good once, and subscribers who are removed."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from kdc.crypto.transport import unwrap_key
from kdc.errors import LocalError
from kdc.model import Enrolment, HomeAddressKind, Nai, Secret
from kdc.store import CommitResult, Store, enrolment_codes, migrate, rotation, subscribers
from kdc.store.database import administration
from kdc.store.enrolment_codes import CodeRefused
from kdc.store.keyring import Keyring
from tests.conftest import PostgresServer
from tests.integration.domains import Domains
from tests.integration.stored import Provision, change_of, register

HOME = ("--config", "home.toml")


class Home:
    """Provisioning beside a running store."""

    def __init__(self, postgres: PostgresServer, name: str) -> None:
        self.conninfo = postgres.conninfo(name)
        with administration(self.conninfo) as connection:
            self.keyring: Keyring = migrate.load_keyring(connection, postgres.kek)

    def rotate(self, nai: Nai, grace_s: int = 3600) -> Enrolment:
        with administration(self.conninfo) as connection:
            return rotation.rotate(
                connection, nai, self.keyring, grace_s=grace_s, entropy=secrets.token_bytes
            )

    def issue(self, nai: Nai, valid_s: int = 60) -> str:
        with administration(self.conninfo) as connection:
            return enrolment_codes.issue(
                connection, nai, self.keyring, valid_s=valid_s, entropy=secrets.token_bytes
            )

    def redeem(self, code: str) -> Enrolment:
        with administration(self.conninfo) as connection:
            return enrolment_codes.redeem(connection, code, self.keyring)

    def ask(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.conninfo) as plain:
            return plain.execute(statement, values).fetchall()

    def run(self, statement: str) -> None:
        with psycopg.connect(self.conninfo) as plain:
            plain.execute(statement)


@pytest.fixture
def home(postgres: PostgresServer, database_name: str) -> Home:
    return Home(postgres, database_name)


async def test_both_versions_are_valid_until_the_new_one_is_used(
    store: Store, provision: Provision, home: Home
) -> None:
    (old,) = provision(kind=HomeAddressKind.DYNAMIC)
    before = await register(store, old)
    new = home.rotate(old.nai)
    assert new.key0 != old.key0 and not set(new.spis) & set(old.spis)
    assert await _key(store, old.spis[1]) == old.key0
    assert await _key(store, new.spis[0]) == new.key0
    again = await register(store, _now_of(home, old))  # the device has not heard of it yet
    live = home.ask("SELECT DISTINCT class_id FROM live_associations")
    assert {row[0] for row in live} == {before.class_id, again.class_id}
    spi = _now_of(home, old).spis[0]
    used = await register(store, new)
    assert (await store.load([*old.spis, spi])).records == {}
    assert await _key(store, new.spis[1]) == new.key0
    live = home.ask("SELECT DISTINCT class_id FROM live_associations")
    assert {row[0] for row in live} == {again.class_id, used.class_id}, "an overlap, as ever"
    retired, current = home.ask(
        "SELECT sealed_key0, unspent, registered_until, dynamic_address, replaces,"
        " previous_until > clock_timestamp() FROM key0_records ORDER BY version"
    )
    assert retired == (b"", [], None, None, None, True)
    assert current[2] is not None and current[4] is None
    assert home.ask("SELECT ended_at IS NOT NULL FROM key0_rotations") == [(True,)]
    assert home.ask("SELECT count(*) FROM key0_spis") == [(5,)]
    with administration(home.conninfo) as connection:
        (shown,) = subscribers.list_all(connection)
    assert (shown.key_version, shown.rotating, shown.unspent_spis) == (2, False, 4)
    assert shown.current_fa == "fa1@visited.example"


async def test_both_versions_in_one_batch_leave_only_the_new_one(
    store: Store, provision: Provision, home: Home
) -> None:
    """The old version's own commit of the same statement does not bring its SPIs back."""
    (old,) = provision()
    new = home.rotate(old.nai)
    loaded = await store.load([old.spis[0], new.spis[0]])
    changes = [
        await change_of(store, loaded.records[spi].record, spi, loaded.clock)
        for spi in (old.spis[0], new.spis[0])
    ]
    assert await store.commit(changes, clock=loaded.clock) == [CommitResult.COMMITTED] * 2
    assert (await store.load([*old.spis, *changes[0].added_spis])).records == {}
    assert home.ask("SELECT count(*) FROM key0_spis") == [(5,)]


async def test_a_commit_of_the_old_version_that_comes_too_late_is_a_conflict(
    store: Store, provision: Provision, home: Home
) -> None:
    (old,) = provision()
    loaded = await store.load([old.spis[0]])
    late = await change_of(store, loaded.records[old.spis[0]].record, old.spis[0], loaded.clock)
    await register(store, home.rotate(old.nai))
    assert await store.commit([late], clock=loaded.clock) == [CommitResult.CONFLICT]


async def test_grace_ends_the_old_version_though_nobody_used_the_new_one(
    store: Store, provision: Provision, home: Home
) -> None:
    (old,) = provision()
    registration = await register(store, old)
    new = home.rotate(old.nai)
    await store.sweep()
    assert await _key(store, old.spis[1]) == old.key0
    home.run("UPDATE key0_rotations SET valid_until = clock_timestamp() - interval '1 second'")
    await store.sweep()
    assert (await store.load(_now_of(home, old).spis)).records == {}
    assert await _key(store, new.spis[0]) == new.key0
    live = home.ask("SELECT DISTINCT class_id FROM live_associations")
    assert live == [(registration.class_id,)], "what is registered lives on"
    used = await register(store, new)
    home.run("UPDATE key0_records SET previous_until = clock_timestamp() - interval '1 second'")
    live = home.ask("SELECT DISTINCT class_id FROM live_associations")
    assert live == [(used.class_id,)]


async def test_rotating_again_replaces_what_was_never_used(
    store: Store, provision: Provision, home: Home
) -> None:
    (old,) = provision()
    lost, new = home.rotate(old.nai), home.rotate(old.nai)
    assert (await store.load(lost.spis)).records == {}
    assert await _key(store, old.spis[0]) == old.key0
    await register(store, new)
    assert (await store.load(old.spis)).records == {}
    assert home.ask("SELECT count(*) FROM key0_records WHERE sealed_key0 <> ''") == [(1,)]
    with administration(home.conninfo) as connection:
        assert subscribers.load(connection, old.nai).key_version == 3


async def test_no_grace_is_at_once_and_who_is_revoked_gets_no_key(
    store: Store, provision: Provision, home: Home
) -> None:
    (old,) = provision()
    new = home.rotate(old.nai, grace_s=0)
    assert (await store.load(old.spis)).records == {}
    assert await _key(store, new.spis[0]) == new.key0
    with administration(home.conninfo) as connection:
        subscribers.set_status(connection, old.nai, subscribers.REVOKED)
    with pytest.raises(subscribers.SubscriberRevoked):
        home.rotate(old.nai)
    with pytest.raises(subscribers.SubscriberUnknown):
        home.rotate(Nai.parse("nobody@home.example"))


async def test_a_rotation_under_load_loses_no_registration(
    store: Store, provision: Provision, home: Home
) -> None:
    """The device goes on with the old key, rotated again and again, and then takes the newest."""
    (old,) = provision()
    done = asyncio.Event()

    async def work() -> int:
        registrations = 0
        while not done.is_set():
            current = await asyncio.to_thread(_now_of, home, old)
            loaded = await store.load(current.spis)
            record = next(iter(loaded.records.values())).record
            change = await change_of(store, record, record.unspent[0], loaded.clock)
            (result,) = await store.commit([change], clock=loaded.clock)
            registrations += result is CommitResult.COMMITTED
        return registrations

    task = asyncio.create_task(work())
    for _ in range(20):
        new = await asyncio.to_thread(home.rotate, old.nai)
    done.set()
    made = await asyncio.wait_for(task, 20)
    assert home.ask("SELECT count(*) FROM registrations") == [(made,)] and made > 5
    await register(store, new)
    assert home.ask("SELECT count(*) FROM key0_spis") == [(5,)]


# --- enrolment codes ---


async def test_a_code_is_good_once_and_its_second_use_is_counted(
    store: Store, provision: Provision, home: Home
) -> None:
    (enrolment,) = provision()
    code = home.issue(enrolment.nai)
    stored = home.ask("SELECT code_hash FROM enrolment_codes")[0][0]
    assert code.replace("-", "").encode() not in stored and len(stored) == 32
    assert home.redeem(f" {code.lower()}\n") == enrolment
    refusals = []
    for bad in (code, "AAAA-BBBB", "", "é"):
        with pytest.raises(CodeRefused) as told:
            home.redeem(bad)
        refusals.append(str(told.value))
    assert len(set(refusals)) == 1
    with administration(home.conninfo) as connection:
        assert enrolment_codes.second_uses(connection) == 1
        (item,) = enrolment_codes.list_all(connection)
    assert item.used_at is not None and item.refused == 1


async def test_codes_that_are_old_replaced_or_of_somebody_suspended(
    provision: Provision, home: Home
) -> None:
    one, two = provision(2)
    replaced = home.issue(one.nai)
    code = home.issue(one.nai)
    old = home.issue(two.nai)
    home.run("UPDATE enrolment_codes SET expires_at = clock_timestamp() WHERE record_id = 2")
    with administration(home.conninfo) as connection:
        subscribers.set_status(connection, one.nai, subscribers.SUSPENDED)
    for bad in (replaced, code, old):
        with pytest.raises(CodeRefused):
            home.redeem(bad)
    with pytest.raises(subscribers.SubscriberUnknown):
        home.issue(one.nai)
    with administration(home.conninfo) as connection:
        assert enrolment_codes.second_uses(connection) == 0
        subscribers.set_status(connection, one.nai, subscribers.ACTIVE)
    assert home.redeem(code) == one, "a refusal has not used it up"


async def test_one_of_many_who_use_a_code_at_once_gets_the_key(
    provision: Provision, home: Home
) -> None:
    (enrolment,) = provision()
    code = home.issue(enrolment.nai)
    tries = [asyncio.to_thread(home.redeem, code) for _ in range(8)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [
        *["CodeRefused"] * 7,
        "Enrolment",
    ]
    with administration(home.conninfo) as connection:
        assert enrolment_codes.second_uses(connection) == 7


async def test_a_code_is_for_the_newest_version(provision: Provision, home: Home) -> None:
    (old,) = provision()
    new = home.rotate(old.nai)
    code = home.issue(old.nai)
    assert home.redeem(code) == new


# --- removal ---


async def test_what_is_deleted_leaves_registrations_without_a_name(
    store: Store, provision: Provision, home: Home
) -> None:
    one, two = provision(2)
    await register(store, one)
    home.rotate(one.nai)
    home.issue(one.nai)
    with administration(home.conninfo) as connection:
        with pytest.raises(LocalError, match="revoke it first"):
            rotation.delete(connection, one.nai)
        subscribers.set_status(connection, one.nai, subscribers.REVOKED)
        rotation.delete(connection, one.nai)
        with pytest.raises(subscribers.SubscriberUnknown):
            rotation.delete(connection, one.nai)
    for table, rows in (("subscribers", 1), ("key0_records", 1), ("key0_spis", 4)):
        assert home.ask(f"SELECT count(*) FROM {table}") == [(rows,)]
    assert home.ask("SELECT count(*) FROM enrolment_codes") == [(0,)]
    assert home.ask("SELECT count(*) FROM registrations") == [(1,)]
    assert home.ask("SELECT count(*) FROM live_associations") == [(0,)]
    assert await _key(store, two.spis[0]) == two.key0


# --- as an operator runs them ---


async def test_an_operator_rotates_enrols_exports_and_deletes(
    domains: Domains, store: Store
) -> None:
    added = json.loads(domains.kdc("subscriber", "add", "a@home.example", "--json", *HOME))
    rotated = json.loads(
        domains.kdc("subscriber", "rotate", "a@home.example", "--grace", "60", "--json", *HOME)
    )
    assert rotated["key0"] != added["key0"]
    given = json.loads(
        domains.kdc("subscriber", "rotate", "a@home.example", "--enrolment-code", "--json", *HOME)
    )
    assert set(given) == {"nai", "code"}
    enrolled = _enrol(domains, given["code"])
    stored = (await store.load(enrolled["spis"])).records[enrolled["spis"][0]]
    assert stored.key0 == Secret(bytes.fromhex(enrolled["key0"]))
    assert "not valid" in _enrol(domains, given["code"])["refused"]
    (told,) = _objects(domains.kdc("subscriber", "enrolment-codes", "--json", *HOME))
    assert told["refused"] == 1
    assert "refused 1" in domains.kdc("subscriber", "enrolment-codes", *HOME)
    domains.kdc("subscriber", "add", "b@home.example", "--roam", "v.example", *HOME)
    _check_exports(domains, Secret(bytes.fromhex(enrolled["key0"])))
    assert "--yes" in domains.kdc("subscriber", "delete", "a@home.example", *HOME, expect=1)
    domains.kdc("subscriber", "delete", "a@home.example", "--yes", *HOME)
    domains.kdc("subscriber", "show", "a@home.example", *HOME, expect=1)


def _check_exports(domains: Domains, key0: Secret) -> None:
    """An export is what an import finds unchanged; keys are in it only wrapped."""
    transport = Secret(secrets.token_bytes(32))
    path = domains.folder / "transport.key"
    path.write_text(transport.reveal().hex())
    path.chmod(0o600)
    domains.kdc("transport-key", "add", "new-home", "--file", path.name, *HOME)
    keyed = ("--with-keys", "--transport-key", "new-home")
    domains.kdc("subscriber", "export", "--with-keys", *HOME, expect=2)
    for form in ("csv", "jsonl"):
        plain = domains.kdc("subscriber", "export", "--format", form, *HOME)
        wrapped = domains.kdc("subscriber", "export", "--format", form, *keyed, *HOME)
        assert "key0" not in plain and key0.reveal().hex() not in wrapped
        for name, printed, options in (("plain", plain, ()), ("keyed", wrapped, keyed[1:])):
            file = domains.folder / f"{name}.{form}"
            file.write_text(printed)
            counts = domains.kdc("subscriber", "import", file.name, *options, "--json", *HOME)
            assert json.loads(counts)["unchanged"] == 2, counts
    alice = _objects(wrapped)[0]
    assert unwrap_key(bytes.fromhex(alice["key0_wrapped"]), transport) == key0


def _enrol(domains: Domains, code: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "kdc", "enrol", *HOME],
        input=code + "\n",
        cwd=domains.folder,
        env=domains.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return json.loads(done.stdout) if done.returncode == 0 else {"refused": done.stderr}


def _objects(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


async def _key(store: Store, spi: int) -> Secret:
    return (await store.load([spi])).records[spi].key0


def _now_of(home: Home, enrolment: Enrolment) -> Enrolment:
    """The same with the SPIs that its first version has now."""
    ((unspent,),) = home.ask(
        "SELECT r.unspent FROM key0_records AS r JOIN subscribers AS s ON s.id = r.subscriber_id"
        " WHERE s.nai = %s AND r.version = 1",
        str(enrolment.nai),
    )
    return replace(enrolment, spis=tuple(unspent) or enrolment.spis)


def test_spis_are_found_where_many_are_taken(home: Home) -> None:
    """With millions of subscribers some of each draw are taken: the rest of it is kept."""
    taken = 70_000
    home.run(
        "INSERT INTO key0_spis (spi, record_id)"
        f" SELECT spi, 0 FROM generate_series({2**16}, {2**16 + taken - 1}) AS spi"
    )
    draws = 0

    def entropy(octets: int) -> bytes:
        """Half of all numbers are taken ones."""
        nonlocal draws
        draws += 1
        first = 2**16 + (secrets.randbelow(taken) if draws % 2 else taken + draws)
        return first.to_bytes(octets, "big")

    with administration(home.conninfo) as connection:
        found = subscribers.free_spis(connection, 2000, entropy)
    assert len(set(found)) == 2000 and min(found) >= 2**16 + taken and draws < 10_000
