"""RADIUS clients on a real PostgreSQL: sealed, rotated, and every edit seen by a server."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from ipaddress import ip_network

import psycopg
import pytest

from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store import Store, migrate, radius_clients
from kdc.store.database import Connection, administration
from kdc.store.keyring import Keyring
from kdc.store.radius_clients import (
    ClientEntry,
    ClientExists,
    ClientUnknown,
    StoredClient,
    load_radius_clients,
    radius_clients_version,
)
from tests.conftest import PostgresServer


class Operator:
    """An administrator's connection, and what is drawn for it."""

    def __init__(self, connection: Connection, keyring: Keyring) -> None:
        self.connection, self.keyring = connection, keyring

    def add(self, name: str, network: str, **changes: object) -> Secret:
        secret = Secret(secrets.token_bytes(32))
        entry = ClientEntry(name, ip_network(network), **changes)  # type: ignore[arg-type]
        radius_clients.add(
            self.connection, entry, secret, self.keyring, entropy=secrets.token_bytes
        )
        return secret

    def rotate(self, name: str, old_valid_s: int) -> Secret:
        secret = Secret(secrets.token_bytes(32))
        radius_clients.rotate(
            self.connection,
            name,
            secret,
            self.keyring,
            old_valid_s=old_valid_s,
            entropy=secrets.token_bytes,
        )
        return secret


@pytest.fixture
def operator(postgres: PostgresServer, database_name: str) -> Iterator[Operator]:
    with administration(postgres.conninfo(database_name)) as connection:
        yield Operator(connection, migrate.load_keyring(connection, postgres.kek))


async def _client(store: Store) -> StoredClient:
    (client,) = (await load_radius_clients(store)).clients
    return client


async def test_what_an_operator_adds_a_server_loads(store: Store, operator: Operator) -> None:
    assert (await load_radius_clients(store)).clients == ()
    one = operator.add(
        "proxy.visited",
        "198.51.100.0/24",
        realms=("visited.example", "other.example"),
        require_message_authenticator=False,
        requests_per_second=50,
        dynamic_authorization="198.51.100.7:3799",
    )
    two = operator.add("six", "2001:db8::/32")
    loaded = await load_radius_clients(store)
    assert loaded.unreadable == ()
    assert loaded.clients == (
        StoredClient(
            "proxy.visited",
            ip_network("198.51.100.0/24"),
            (one,),
            frozenset({"visited.example", "other.example"}),
            False,
            50,
            "198.51.100.7:3799",
        ),
        StoredClient("six", ip_network("2001:db8::/32"), (two,), frozenset(), True, None, None),
    )


async def test_each_edit_gives_another_version_and_nothing_else_does(
    store: Store, operator: Operator, postgres: PostgresServer, database_name: str
) -> None:
    seen = [await radius_clients_version(store)]
    assert await radius_clients_version(store) == seen[0]

    async def changed() -> None:
        version = await radius_clients_version(store)
        assert version not in seen
        assert (await load_radius_clients(store)).version == version
        seen.append(version)

    operator.add("a", "192.0.2.1/32")
    await changed()
    operator.add("b", "192.0.2.2/32")
    await changed()
    radius_clients.set_enabled(operator.connection, "a", enabled=False)
    await changed()
    assert [c.name for c in (await load_radius_clients(store)).clients] == ["b"]
    radius_clients.set_enabled(operator.connection, "a", enabled=True)
    await changed()
    operator.rotate("a", 3600)
    await changed()
    radius_clients.remove(operator.connection, "b")
    await changed()
    with psycopg.connect(postgres.conninfo(database_name)) as plain:
        plain.execute("UPDATE radius_clients SET requests_per_second = 9")
    await changed()  # by hand, past our own code
    assert await radius_clients_version(store) == seen[-1]


async def test_an_edit_that_becomes_visible_late_is_not_missed(
    store: Store, operator: Operator, postgres: PostgresServer, database_name: str
) -> None:
    """Its revision is drawn first and committed last: the greatest revision tells nothing of it."""
    operator.add("slow", "192.0.2.1/32")
    operator.add("quick", "192.0.2.2/32")
    with psycopg.connect(postgres.conninfo(database_name)) as slow:
        slow.execute(
            "UPDATE radius_clients SET enabled = false,"
            " revision = nextval('radius_clients_revision') WHERE name = 'slow'"
        )
        radius_clients.set_enabled(operator.connection, "quick", enabled=False)
        between = await load_radius_clients(store)
        assert [c.name for c in between.clients] == ["slow"]
        slow.commit()
    assert await radius_clients_version(store) != between.version
    assert (await load_radius_clients(store)).clients == ()


async def test_a_server_that_asks_each_second_has_an_edit_within_two(
    store: Store, operator: Operator
) -> None:
    loop = asyncio.get_running_loop()
    added: list[float] = []

    def edit() -> None:
        operator.add("new", "192.0.2.0/24")
        added.append(loop.time())

    version = await radius_clients_version(store)
    await asyncio.to_thread(edit)
    while await radius_clients_version(store) == version:
        await asyncio.sleep(1)
        assert loop.time() < added[0] + 2
    assert (await _client(store)).name == "new"


async def test_two_secrets_are_valid_during_a_rotation_and_one_afterwards(
    store: Store, operator: Operator
) -> None:
    first = operator.add("a", "192.0.2.1/32")
    second = operator.rotate("a", 2)
    during = await load_radius_clients(store)
    assert during.clients[0].secrets == (second, first)
    until = asyncio.get_running_loop().time() + 10
    while await radius_clients_version(store) == during.version:
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.2)
    assert (await _client(store)).secrets == (second,)
    third = operator.rotate("a", 3600)
    fourth = operator.rotate("a", 3600)
    assert (await _client(store)).secrets == (fourth, third)
    fifth = operator.rotate("a", 0)
    assert (await _client(store)).secrets == (fifth,)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE radius_clients SET sealed_secret = sealed_secret || 'x' WHERE name = 'bad'",
        """UPDATE radius_clients SET sealed_secret =
           (SELECT sealed_secret FROM radius_clients WHERE name = 'good') WHERE name = 'bad'""",
        "UPDATE radius_clients SET sealed_secret = sealed_previous WHERE name = 'bad'",
        "UPDATE radius_clients SET sealed_previous = sealed_secret WHERE name = 'bad'",
        """UPDATE radius_clients SET data_key_id =
           (SELECT id FROM data_keys WHERE purpose = 'record') WHERE name = 'bad'""",
    ],
)
async def test_a_seal_that_does_not_open_refuses_that_client_alone(
    damage: str, store: Store, operator: Operator, postgres: PostgresServer, database_name: str
) -> None:
    operator.add("bad", "192.0.2.1/32")
    operator.rotate("bad", 3600)
    good = operator.add("good", "192.0.2.2/32")
    with psycopg.connect(postgres.conninfo(database_name)) as plain:
        assert plain.execute(damage).rowcount == 1
    loaded = await load_radius_clients(store)
    assert loaded.unreadable == ("bad",)
    assert [(c.name, c.secrets) for c in loaded.clients] == [("good", (good,))]


async def test_a_data_key_that_is_made_after_the_start_is_learnt(
    postgres: PostgresServer, database_name: str, store: Store, operator: Operator
) -> None:
    """As where the SQL was run by hand, then a server started, then `kdc db upgrade` run."""
    operator.add("a", "192.0.2.1/32")
    store.keyring._seals.pop(operator.keyring.current("client").key_id)
    assert (await _client(store)).name == "a"


def test_names_and_networks_of_enabled_clients_are_there_once(operator: Operator) -> None:
    operator.add("a", "192.0.2.0/24")
    with pytest.raises(ClientExists, match="name"):
        operator.add("a", "198.51.100.0/24")
    with pytest.raises(ClientExists, match="network"):
        operator.add("b", "192.0.2.0/24")
    operator.add("inside", "192.0.2.128/25")
    radius_clients.set_enabled(operator.connection, "a", enabled=False)
    operator.add("b", "192.0.2.0/24")
    with pytest.raises(ClientExists, match="network"):
        radius_clients.set_enabled(operator.connection, "a", enabled=True)
    listed = [(row.name, row.enabled) for row in radius_clients.list_all(operator.connection)]
    assert listed == [("a", False), ("b", True), ("inside", True)]


def test_a_client_that_is_not_there_is_told(operator: Operator) -> None:
    for act in (
        lambda: radius_clients.load(operator.connection, "nobody"),
        lambda: radius_clients.set_enabled(operator.connection, "nobody", enabled=True),
        lambda: radius_clients.remove(operator.connection, "nobody"),
        lambda: operator.rotate("nobody", 0),
    ):
        with pytest.raises(ClientUnknown, match="nobody"):
            act()


@pytest.mark.parametrize(
    ("name", "network", "changes"),
    [
        ("", "192.0.2.0/24", {}),
        ("two words", "192.0.2.0/24", {}),
        ("a", "::ffff:192.0.2.0/120", {}),
        ("a", "192.0.2.0/24", {"requests_per_second": 0}),
        ("a", "192.0.2.0/24", {"dynamic_authorization": "192.0.2.1"}),
        ("a", "192.0.2.0/24", {"dynamic_authorization": "192.0.2.1:65536"}),
        ("a", "192.0.2.0/24", {"dynamic_authorization": "a\nb:1"}),
    ],
)
def test_what_no_server_could_use_is_refused(
    name: str, network: str, changes: dict[str, object]
) -> None:
    with pytest.raises(LocalError):
        ClientEntry(name, ip_network(network), **changes)  # type: ignore[arg-type]


def test_rotations_at_once_leave_two_secrets_that_somebody_has(
    operator: Operator, postgres: PostgresServer, database_name: str
) -> None:
    """One waits for the other: what it keeps valid is what the other made."""
    operator.add("a", "192.0.2.1/32")
    made: list[Secret] = []

    def rotate() -> None:
        with administration(postgres.conninfo(database_name)) as connection:
            made.append(Operator(connection, operator.keyring).rotate("a", 3600))

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect(postgres.conninfo(database_name)) as plain:
        row = plain.execute(
            "SELECT id, data_key_id, sealed_secret, sealed_previous FROM radius_clients"
        ).fetchone()
    assert row is not None
    current, previous = (
        radius_clients._open(operator.keyring, row[1], sealed, column, row[0])
        for sealed, column in (
            (row[2], radius_clients.SECRET_COLUMN),
            (row[3], radius_clients.PREVIOUS_COLUMN),
        )
    )
    assert current in made and previous in made and current != previous


async def test_no_secret_of_a_client_is_in_the_database(
    operator: Operator, postgres: PostgresServer, database_name: str
) -> None:
    planted = [operator.add("a", "192.0.2.1/32"), operator.rotate("a", 3600)]
    with psycopg.connect(postgres.conninfo(database_name)) as plain:
        dump = str(plain.execute("SELECT t::text FROM radius_clients AS t").fetchall())
    assert "192.0.2.1" in dump
    for secret in planted:
        assert secret.reveal().hex()[:16] not in dump
