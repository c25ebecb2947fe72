"""The network interfaces of this machine and their IPv4 addresses, asked from the kernel.

The standard library has the names alone; addresses and prefixes come by one rtnetlink dump
(rtnetlink(7), RTM_GETADDR).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from kdc.errors import LocalError

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_REQUEST_DUMP: Final = 0x0301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_IFA_ADDRESS: Final = 1  # of the prefix; the other end's on a point-to-point link
_IFA_LOCAL: Final = 2
_TIMEOUT_S: Final = 2.0
_READ_OCTETS: Final = 65536


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as it was when asked.

    `address` is the one it was found by, or its first; None if it has no IPv4 address.
    """

    name: str
    index: int
    address: IPv4Address | None
    own: frozenset[IPv4Address]
    networks: tuple[IPv4Network, ...]

    @property
    def has_neighbours(self) -> bool:
        """Whether its prefixes say anything about others: a node that keeps /32 knows none."""
        return any(
            network.prefixlen < 32 or network[0] not in self.own for network in self.networks
        )

    def is_neighbour(self, address: IPv4Address) -> bool:
        """RFC 1256 §4.2: an address under one of the prefixes here, and none of our own."""
        return address not in self.own and any(address in network for network in self.networks)


def find_interface(name_or_address: str) -> Interface:
    """The interface of that name, or the one that has that IPv4 address.

    Raises `LocalError` that says what was expected.
    """
    try:
        indices = {name: index for index, name in socket.if_nameindex()}
        known = list(_addresses())
    except OSError as error:
        raise LocalError(f"the kernel does not tell its addresses: {error}") from None
    index, chosen = indices.get(name_or_address), None
    if index is None:
        for at, local, _ in known:
            if str(local) == name_or_address:
                index, chosen = at, local
    names = {number: name for name, number in indices.items()}
    if index is None or index not in names:
        raise LocalError(
            f"{name_or_address}: expected an interface or a local IPv4 address, such as "
            f"{', '.join(sorted(indices))}"
        )
    here = [(local, network) for at, local, network in known if at == index]
    if chosen is None and here:
        chosen = here[0][0]
    return Interface(
        names[index],
        index,
        chosen,
        frozenset(local for local, _ in here),
        tuple(network for _, network in here),
    )


def _addresses() -> Iterator[tuple[int, IPv4Address, IPv4Network]]:
    """Interface index, local address and prefix of each IPv4 address."""
    body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.sendto(
            _HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + body, (0, 0)
        )
        while True:
            octets = kernel.recv(_READ_OCTETS)
            while octets:
                length, type_ = _HEADER.unpack_from(octets)[:2]
                if type_ == _NLMSG_DONE:
                    return
                if type_ == _NLMSG_ERROR or length < _HEADER.size:
                    raise LocalError("the kernel does not tell its addresses")
                if type_ == _RTM_NEWADDR:
                    yield from _read_address(octets[_HEADER.size : length])
                octets = octets[_aligned(length) :]


def _read_address(octets: bytes) -> Iterator[tuple[int, IPv4Address, IPv4Network]]:
    family, prefix_length, _, _, index = _ADDRESS.unpack_from(octets)
    found: dict[int, bytes] = {}
    rest = octets[_ADDRESS.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, type_ = _ATTRIBUTE.unpack_from(rest)
        if length < _ATTRIBUTE.size:
            break
        found[type_] = rest[_ATTRIBUTE.size : length]
        rest = rest[_aligned(length) :]
    if family == socket.AF_INET and _IFA_ADDRESS in found:
        of_prefix = IPv4Address(found[_IFA_ADDRESS])
        local = IPv4Address(found.get(_IFA_LOCAL, found[_IFA_ADDRESS]))
        yield index, local, IPv4Network((of_prefix, prefix_length), strict=False)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
