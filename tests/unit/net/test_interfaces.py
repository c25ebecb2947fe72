"""What the kernel says of an interface, and who is a neighbour by that."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from aaa.net.interfaces import Interface, find_interface
from kdc.errors import LocalError


@pytest.mark.parametrize("name_or_address", ["lo", "127.0.0.1"])
def test_an_interface_is_found_by_name_and_by_address(name_or_address: str) -> None:
    found = find_interface(name_or_address)
    assert (found.name, found.address) == ("lo", IPv4Address("127.0.0.1"))
    assert IPv4Network("127.0.0.0/8") in found.networks
    assert found.is_neighbour(IPv4Address("127.9.9.9"))
    assert not found.is_neighbour(IPv4Address("127.0.0.1"))
    assert not found.is_neighbour(IPv4Address("192.0.2.1"))


@pytest.mark.parametrize("name_or_address", ["nowhere", "192.0.2.254", ""])
def test_one_that_is_not_there_is_said_with_those_that_are(name_or_address: str) -> None:
    with pytest.raises(LocalError, match=r"expected an interface or a local IPv4 address.*\blo\b"):
        find_interface(name_or_address)


@pytest.mark.parametrize(
    ("own", "networks", "knows"),
    [
        ((), (), False),
        (("203.0.113.9",), ("203.0.113.9/32",), False),  # a home address on a foreign link
        (("203.0.113.9",), ("198.51.100.7/32",), True),  # point to point: the other end
        (("198.51.100.9",), ("198.51.100.0/24",), True),
    ],
)
def test_a_node_that_keeps_its_address_alone_knows_no_neighbours(
    own: tuple[str, ...], networks: tuple[str, ...], knows: bool
) -> None:
    interface = Interface(
        "x", 1, None, frozenset(map(IPv4Address, own)), tuple(map(IPv4Network, networks))
    )
    assert interface.has_neighbours is knows
    assert interface.is_neighbour(IPv4Address("198.51.100.7")) is knows
