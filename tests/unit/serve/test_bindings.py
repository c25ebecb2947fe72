"""A deregistration at a foreign agent ends what the same sender installed, and no other's."""

from __future__ import annotations

from ipaddress import IPv4Address

from aaa.serve.bindings import Bindings, Home

HA1 = Home("home.example", IPv4Address("192.0.2.1"))
HA2 = Home("home.example", IPv4Address("192.0.2.2"))
SAME_ADDRESS = Home("other.example", HA1.agent)
ALICE, BOB = IPv4Address("10.1.2.3"), IPv4Address("10.1.2.4")


def test_two_nodes_are_held_apart() -> None:
    bindings = Bindings()
    alice, bob = bindings.install("a", HA1, ALICE), bindings.install("b", HA1, BOB)
    assert alice != bob
    assert bindings.deregister("c", HA1) is None, "who installed nothing ends nothing"
    assert bindings.deregister("b", HA2) is None, "nor at another home agent"
    assert bindings.deregister("b", HA1) == bob
    assert bindings.deregister("b", HA1) is None
    assert bindings.deregister("a", HA1) == alice


def test_one_home_address_at_two_homes_is_two_nodes() -> None:
    bindings = Bindings()
    homes = (HA1, HA2, SAME_ADDRESS)
    assert len({bindings.install("a", home, ALICE) for home in homes}) == 3


def test_a_node_that_comes_from_another_address_is_the_same() -> None:
    bindings = Bindings()
    first = bindings.install("a", HA1, ALICE)
    assert bindings.install("b", HA1, ALICE) == first
    assert bindings.deregister("a", HA1) is None, "who has its old address is not it"
    assert bindings.deregister("b", HA1) == first


def test_several_nodes_behind_one_address_end_none_of_the_others() -> None:
    bindings = Bindings()
    alice = bindings.install("nat", HA1, ALICE)
    bindings.install("nat", HA1, BOB)
    assert bindings.deregister("nat", HA1) is None
    assert bindings.install("b", HA1, BOB) != alice
    assert bindings.deregister("nat", HA1) == alice


def test_the_oldest_are_forgotten_first() -> None:
    bindings = Bindings(maximum=3)
    names = [bindings.install(str(n), HA1, ALICE + n) for n in range(5)]
    found = [bindings.deregister(str(n), HA1) for n in range(5)]
    assert found == [None, None, *names[2:]]
    assert bindings._senders == {} and bindings._installed == {}
