"""Who a certificate belongs to, by its names."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from kdc.errors import LocalError

ONE = TlsPeer("one", frozenset({"one.example", ip_address("192.0.2.1")}))
TWO = TlsPeer("two", frozenset({"two.example"}))


def test_any_of_its_names_and_nobody_elses() -> None:
    table = TlsPeerTable((ONE, TWO))
    assert table.find({"one.example"}) == ONE
    assert table.find({"one.example", "www.example", ip_address("192.0.2.1")}) == ONE
    assert table.find({"two.example", "unknown.example"}) == TWO
    nobody: list[set[str]] = [set(), {"192.0.2.1"}, {"*.example"}, {"a.one.example"}]
    for names in nobody:
        assert table.find(names) is None


def test_a_certificate_of_two_is_nobodys() -> None:
    assert TlsPeerTable((ONE, TWO)).find({"one.example", "two.example"}) is None


def test_a_name_belongs_to_one_peer_and_a_peer_has_one() -> None:
    with pytest.raises(LocalError, match=r"one and two: the same name one\.example"):
        TlsPeerTable((ONE, TlsPeer("two", frozenset({"one.example"}))))
    with pytest.raises(LocalError, match="peer three"):
        TlsPeer("three", frozenset())


def test_the_name_that_matches_is_told() -> None:
    assert TWO.matches(frozenset({"two.example", "x.example"})) == "two.example"
    assert TWO.matches(frozenset({"x.example"})) is None
    both = frozenset({"one.example", ip_address("192.0.2.1")})
    assert ONE.matches(both) == ip_address("192.0.2.1")
