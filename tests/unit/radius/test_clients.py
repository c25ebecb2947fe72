"""Clients by the longest prefix, unknown sources by nothing."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from kdc.errors import LocalError
from kdc.model import Secret


def _client(name: str, network: str) -> Client:
    return Client(name, ip_network(network), (Secret(b"sixteen octets!!"),))


TABLE = ClientTable(
    [
        _client("all", "10.0.0.0/8"),
        _client("one", "10.1.2.3/32"),
        _client("some", "10.1.0.0/16"),
        _client("six", "2001:db8::/32"),
        _client("link", "fe80::/10"),
    ]
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.9.9.9", "all"),
        ("10.1.9.9", "some"),
        ("10.1.2.3", "one"),
        ("::ffff:10.1.2.3", "one"),
        ("2001:db8::1", "six"),
        ("fe80::1%eth0", "link"),
        ("11.0.0.1", None),
        ("2001:db9::1", None),
    ],
)
def test_longest_prefix(address: str, name: str | None) -> None:
    for _ in range(2):  # searched, then remembered
        found = TABLE.find(address)
        assert (found.name if found else None) == name


def test_a_flood_of_sources_is_not_remembered_for_ever() -> None:
    table = ClientTable([_client("one", "10.1.2.3/32")])
    for number in range(10_000):
        assert table.find(f"11.0.{number >> 8}.{number & 255}") is None
    assert len(table._remembered) <= 4096
    assert table.find("10.1.2.3") is not None


def test_a_short_secret_and_a_prefix_given_twice_are_refused() -> None:
    with pytest.raises(LocalError, match=r"short: .* 15 octets") as refused:
        Client("short", ip_network("10.0.0.0/8"), (Secret(b"fifteen octets!"),))
    assert "fifteen" not in str(refused.value)
    with pytest.raises(LocalError, match="a and b"):
        ClientTable([_client("a", "10.0.0.0/8"), _client("b", "10.0.0.0/8")])


def test_counters() -> None:
    counters = Counters()
    counters.add("b")
    counters.add("a", 2)
    assert counters["none"] == 0
    assert list(counters.snapshot().items()) == [("a", 2), ("b", 1)]
