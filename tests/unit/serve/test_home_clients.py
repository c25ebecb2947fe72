"""The clients of a home's file and of its database as one: the file is never displaced."""

from __future__ import annotations

import asyncio
import secrets
import threading
from ipaddress import ip_network

import pytest

from aaa.config.home import HomeClient
from aaa.exchange import Peer
from aaa.radius.counters import Counters
from aaa.serve.home_clients import ClientWatch, KnownClients, configured_clients, join_clients
from aaa.serve.peer_requests import PeerAddress
from kdc.model import Secret
from kdc.store import Store, migrate, radius_clients
from kdc.store.database import administration
from kdc.store.radius_clients import ClientEntry, StoredClient
from tests.conftest import PostgresServer

CONFIGURED = HomeClient.model_construct(
    name="visited",
    address="192.0.2.0/24",
    secret_file=Secret(b"of the file, 16+"),
    realms=("visited.example",),
    dynamic_authorization="192.0.2.1:3799",
)
OLD, NEW = Secret(b"before a rotation"), Secret(b"after the rotation")


def _stored(
    name: str = "other", network: str = "198.51.100.0/24", **changes: object
) -> StoredClient:
    given: dict[str, object] = {
        "name": name,
        "network": ip_network(network),
        "secrets": (NEW, OLD),
        "realms": frozenset({"other.example"}),
        "require_message_authenticator": False,
        "requests_per_second": None,
        "dynamic_authorization": "198.51.100.1:3799",
    }
    return StoredClient(**(given | changes))  # type: ignore[arg-type]


def _join(*stored: StoredClient) -> tuple[KnownClients, list[str]]:
    refused: list[str] = []
    addresses = {"other": ("198.51.100.1", 3799), "visited": ("203.0.113.1", 3799)}
    known = join_clients(
        configured_clients((CONFIGURED,)),
        stored,
        addresses,
        lambda name, reason: refused.append(f"{name}: {reason}"),
    )
    return known, refused


def test_both_are_known_with_all_that_is_said_of_them() -> None:
    known, refused = _join(_stored())
    assert not refused
    other, visited = known.table().find("198.51.100.9"), known.table().find("192.0.2.9")
    assert other is not None and visited is not None
    assert (other.name, other.secrets) == ("other", (NEW, OLD))
    assert other.realms == {"other.example"}
    assert not other.require_message_authenticator
    assert (visited.name, visited.secrets) == ("visited", (CONFIGURED.secret_file,))
    assert known.peers["other"] == Peer("other", frozenset({"other.example"}))
    assert CONFIGURED.secret_file is not None
    assert known.names_of("other.example") == ["other"]
    assert known.names_of("nobody.example") == []
    assert known.addresses == {
        "visited": PeerAddress(("192.0.2.1", 3799), (CONFIGURED.secret_file,)),
        "other": PeerAddress(("198.51.100.1", 3799), (NEW, OLD)),
    }


def test_a_stored_client_takes_neither_name_nor_network_of_the_file() -> None:
    known, refused = _join(
        _stored("visited", "203.0.113.0/24"), _stored("thief", "192.0.2.0/24"), _stored()
    )
    assert refused == [
        "visited: the file has a client of this name",
        "thief: the file has a client at 192.0.2.0/24",
    ]
    assert known.table().find("203.0.113.1") is None
    found = known.table().find("192.0.2.1")
    assert found is not None and found.name == "visited"
    assert set(known.peers) == {"visited", "other"}
    assert known.addresses["visited"].address == ("192.0.2.1", 3799)


def test_a_smaller_network_inside_one_of_the_file_is_the_stored_clients() -> None:
    """By the longest prefix, as among the clients of the file."""
    known, refused = _join(_stored(network="192.0.2.7/32"))
    assert not refused
    names = {address: known.table().find(address) for address in ("192.0.2.7", "192.0.2.8")}
    assert [found and found.name for found in names.values()] == ["other", "visited"]


def test_one_that_cannot_be_used_is_left_out_alone() -> None:
    short = _stored("short", "203.0.113.0/24", secrets=(Secret(b"too short"),))
    known, refused = _join(short, _stored())
    assert len(refused) == 1 and refused[0].startswith("short: ")
    assert "too short" not in refused[0]
    assert set(known.peers) == {"visited", "other"}


def test_without_an_address_there_is_no_way_by_udp() -> None:
    other = CONFIGURED.model_copy(update={"dynamic_authorization": None})
    assert configured_clients((other,)).addresses == {}


async def test_a_name_server_that_is_silent_keeps_nobody_in_force(
    store: Store,
    postgres: PostgresServer,
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def silent(host: str, port: int) -> tuple[str, int]:
        assert answered.wait(20)
        return "198.51.100.1", port

    monkeypatch.setattr("aaa.serve.home_clients.resolve", silent)
    told: list[KnownClients] = []
    watch = ClientWatch(store, configured_clients(()), told.append, Counters())
    with administration(postgres.conninfo(database_name)) as connection:
        keyring = migrate.load_keyring(connection, postgres.kek)
        entry = ClientEntry("a", ip_network("198.51.100.0/24"), dynamic_authorization="a.ex:3799")
        radius_clients.add(connection, entry, NEW, keyring, entropy=secrets.token_bytes)
        async with asyncio.timeout(5):
            await watch.refresh()
            assert [client.name for client in told[-1].clients] == ["a"]
            assert told[-1].addresses == {}
            radius_clients.set_enabled(connection, "a", enabled=False)
            await watch.refresh()
            assert told[-1].clients == ()
            radius_clients.set_enabled(connection, "a", enabled=True)
            await watch.refresh()
            answered.set()
            while not told[-1].addresses:  # noqa: ASYNC110 - a thread's work
                await asyncio.sleep(0.01)
    assert told[-1].addresses == {"a": PeerAddress(("198.51.100.1", 3799), (NEW,))}
    watch.close()
