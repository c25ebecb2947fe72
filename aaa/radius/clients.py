"""Who may speak RADIUS to us, found by source address before a single octet is parsed.

What a client's request may assert is decided by the roles from the values here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from kdc.errors import LocalError
from kdc.model import IpAddress, Secret

MINIMUM_SECRET_OCTETS: Final = 16  # PROTOCOL section 9
_REMEMBERED_ADDRESSES: Final = 4096

IpNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Client:
    """One RADIUS client (UDP).  Raises `LocalError` for a secret below 16 octets.

    `secrets` are those that it may sign with, the current one first: two during a rotation.
    `realms`, lowered, are those it may speak for.
    """

    name: str
    network: IpNetwork
    secrets: tuple[Secret, ...]
    realms: frozenset[str] = frozenset()
    require_message_authenticator: bool = True

    def __post_init__(self) -> None:
        if not self.secrets:
            raise LocalError(f"client {self.name}: no shared secret")
        for secret in self.secrets:
            if len(secret) < MINIMUM_SECRET_OCTETS:
                raise LocalError(
                    f"client {self.name}: the shared secret has {len(secret)} octets,"
                    f" at least {MINIMUM_SECRET_OCTETS} are needed"
                )


class ClientTable:
    """Clients by longest prefix.  Raises `LocalError` for one prefix given twice."""

    __slots__ = ("_by_network", "_prefix_lengths", "_remembered")

    def __init__(self, clients: Iterable[Client]) -> None:
        self._by_network: dict[tuple[int, int, int], Client] = {}
        for client in clients:
            network = client.network
            key = (network.version, network.prefixlen, int(network.network_address))
            if key in self._by_network:
                raise LocalError(
                    f"clients {self._by_network[key].name} and {client.name}: the same {network}"
                )
            self._by_network[key] = client
        self._prefix_lengths = {
            version: sorted({k[1] for k in self._by_network if k[0] == version}, reverse=True)
            for version in (4, 6)
        }
        self._remembered: dict[str, Client | None] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(self._by_network.values())

    def find(self, address: str) -> Client | None:
        """The client with the longest prefix around a source `address`, or None."""
        try:
            return self._remembered[address]
        except KeyError:
            client = self._search(address)
        if len(self._remembered) >= _REMEMBERED_ADDRESSES:
            self._remembered.clear()  # a flood of forged sources must not grow it
        self._remembered[address] = client
        return client

    def _search(self, address: str) -> Client | None:
        parsed: IpAddress = ip_address(address.partition("%")[0])  # no zone of a link-local source
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # a dual-stack socket shows IPv4 sources so
        number, bits = int(parsed), parsed.max_prefixlen
        for prefix_length in self._prefix_lengths[parsed.version]:
            shift = bits - prefix_length
            key = (parsed.version, prefix_length, number >> shift << shift)
            client = self._by_network.get(key)
            if client is not None:
                return client
        return None
