"""The clients of a home's file and of its database as one: the file is never displaced."""

from __future__ import annotations

from ipaddress import ip_network

from aaa.config.home import HomeClient
from aaa.exchange import Peer
from aaa.serve.home_clients import KnownClients, configured_clients, join_clients
from aaa.serve.peer_requests import PeerAddress
from kdc.model import Secret
from kdc.store.radius_clients import StoredClient

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
