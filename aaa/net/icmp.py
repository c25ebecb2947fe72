"""Raw ICMP sockets on one interface: a foreign agent's, which advertises, and a mobile node's.

Both filter what arrives: the kernel by ICMP type (ICMP_FILTER), this module by the IP header
(time to live, source, destination) and the octets themselves.  What does not pass is counted under
its reason and forgotten; nothing is queued.  When to send is aaa.serve's affair.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Final

from aaa.net.interfaces import Interface, find_interface
from kdc.errors import LocalError, Malformed
from kdc.wire import numbers
from kdc.wire.icmp import (
    AgentAdvertisement,
    check_solicitation,
    decode_agent_advertisement,
    encode_solicitation,
)
from kdc.wire.ipv4 import IcmpDatagram, decode_icmp_datagram

ALL_SYSTEMS: Final = IPv4Address("224.0.0.1")  # RFC 5944 §2.1: where advertisements go
LIMITED_BROADCAST: Final = IPv4Address("255.255.255.255")
ALL_ROUTERS: Final = IPv4Address("224.0.0.2")  # RFC 1256 §5.1: where solicitations go
MOBILE_AGENTS: Final = IPv4Address("224.0.0.11")  # RFC 5944 §2.3: and here
DATAGRAMS_A_TURN: Final = 64
MAXIMUM_DATAGRAM_OCTETS: Final = 2048
RECEIVE_BUFFER_OCTETS: Final = 128 * 1024  # a flood is lost in the kernel, not kept
_SOL_RAW: Final = 255  # linux/icmp.h: option 1 of this level is ICMP_FILTER
_ICMP_FILTER: Final = 1
_IP_PKTINFO: Final = 8  # linux/in.h
_PKTINFO: Final = struct.Struct("=i4s4s")  # in_pktinfo: interface, our address, theirs
_MREQN: Final = struct.Struct("=4s4si")  # ip_mreqn: group, our address, interface


class IcmpEndpoint:
    """One raw socket bound to one interface; `on_datagram` gets each one of `type_` that parses."""

    def __init__(
        self,
        name_or_address: str,
        on_datagram: Callable[[IcmpDatagram], None],
        *,
        type_: int,
        groups: Iterable[IPv4Address],
    ) -> None:
        """Raises `LocalError` if there is no such interface or raw sockets are not permitted."""
        self._name_or_address = name_or_address
        self.interface: Interface = find_interface(name_or_address)
        self._on_datagram = on_datagram
        self._type = type_
        self.ignored: Counter[str] = Counter()  # by reason; the reasons are texts of our own
        self._loop = asyncio.get_running_loop()
        self._socket = _raw_socket()
        try:
            self._prepare(groups)
        except OSError as error:
            self._socket.close()
            raise LocalError(f"{self.interface.name}: {error.strerror}") from None
        self._loop.add_reader(self._socket, self._drain)

    def _prepare(self, groups: Iterable[IPv4Address]) -> None:
        raw = self._socket
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)
        raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF ^ 1 << self._type))
        raw.setsockopt(
            socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.name.encode() + b"\0"
        )
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)  # RFC 5944 §2.1, §2.2
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        anywhere = bytes(4)
        raw.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_MULTICAST_IF,
            _MREQN.pack(anywhere, anywhere, self.interface.index),
        )
        for group in groups:
            raw.setsockopt(
                socket.IPPROTO_IP,
                socket.IP_ADD_MEMBERSHIP,
                _MREQN.pack(group.packed, anywhere, self.interface.index),
            )

    def refresh(self) -> None:
        """Looks again which addresses the interface has; raises `LocalError` if it is gone."""
        self.interface = find_interface(self._name_or_address)

    def _drain(self) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            try:
                octets = self._socket.recv(MAXIMUM_DATAGRAM_OCTETS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # the interface went down: told once, and not by the next read
            try:
                self._on_octets(octets)
            except Malformed as reason:
                self.ignored[str(reason)] += 1

    def _on_octets(self, octets: bytes) -> None:
        datagram = decode_icmp_datagram(octets)
        # The kernel's filter knows types below 32 and lets all others pass (raw(7)).
        if datagram.message[:1] != bytes((self._type,)):
            return
        if datagram.ttl != 1:
            raise Malformed("time to live is not 1")
        self._on_datagram(datagram)

    def send(self, message: bytes, to: IPv4Address) -> None:
        """Sends from the interface's own address; raises `LocalError` with the kernel's reason."""
        source = self.interface.address
        if source is None:
            raise LocalError(f"{self.interface.name}: expected an interface with an IPv4 address")
        information = _PKTINFO.pack(self.interface.index, source.packed, bytes(4))
        try:
            self._socket.sendmsg(
                [message], [(socket.IPPROTO_IP, _IP_PKTINFO, information)], 0, (str(to), 0)
            )
        except OSError as error:
            raise LocalError(f"{self.interface.name}: not sent: {error.strerror}") from None

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()


class AgentEndpoint(IcmpEndpoint):
    """A foreign agent's: sends advertisements, hears solicitations.

    `on_solicitation` gets the source of each valid one, 0.0.0.0 included: RFC 5944 §2.3 forbids to
    ask that it be a neighbour.
    """

    def __init__(
        self, name_or_address: str, on_solicitation: Callable[[IPv4Address], None]
    ) -> None:
        """Raises `LocalError`."""
        self._on_solicitation = on_solicitation
        super().__init__(
            name_or_address,
            self._on_message,
            type_=numbers.ROUTER_SOLICITATION,
            groups=(ALL_ROUTERS, MOBILE_AGENTS),
        )

    def _on_message(self, datagram: IcmpDatagram) -> None:
        # Only these cannot have crossed a router, whatever its sender set as time to live.
        if datagram.destination not in (ALL_ROUTERS, MOBILE_AGENTS, LIMITED_BROADCAST):
            raise Malformed("destination of a solicitation")
        check_solicitation(datagram.message)
        self._on_solicitation(datagram.source)


class NodeEndpoint(IcmpEndpoint):
    """A mobile node's: sends solicitations, hears advertisements.

    `on_advertisement` gets each one that is well formed and comes from the link, with its source.
    """

    def __init__(
        self,
        name_or_address: str,
        on_advertisement: Callable[[AgentAdvertisement, IPv4Address], None],
        *,
        vendor_id: int,
    ) -> None:
        """Raises `LocalError`."""
        self._on_advertisement = on_advertisement
        self._vendor_id = vendor_id
        super().__init__(
            name_or_address,
            self._on_message,
            type_=numbers.ROUTER_ADVERTISEMENT,
            groups=(ALL_SYSTEMS,),
        )

    def _on_message(self, datagram: IcmpDatagram) -> None:
        self._check_origin(datagram)
        message = decode_agent_advertisement(datagram.message, self._vendor_id)
        listed = {item.address for item in message.agent.router_addresses}
        if listed and datagram.source not in listed:
            raise Malformed("source is not among the router addresses")
        self._on_advertisement(message, datagram.source)

    def _check_origin(self, datagram: IcmpDatagram) -> None:
        """RFC 1256 §5.3 ignores what is no neighbour's, which takes a prefix to know.

        A mobile node that keeps its home address on a foreign link has none; then only what no
        router passes on is taken: 224.0.0.1 and 255.255.255.255.
        """
        to_all = datagram.destination in (ALL_SYSTEMS, LIMITED_BROADCAST)
        if datagram.destination.is_multicast and not to_all:
            raise Malformed("destination of an advertisement")
        if datagram.source in self.interface.own:
            raise Malformed("source is our own address")
        if self.interface.has_neighbours:
            if not self.interface.is_neighbour(datagram.source):
                raise Malformed("source is no neighbour")
        elif not to_all:
            raise Malformed("unicast where no neighbour is known")

    @property
    def can_solicit(self) -> bool:
        """Without an address here, the kernel would show that of another interface."""
        return self.interface.address is not None

    def solicit(self, group: IPv4Address) -> None:
        """Raises `LocalError`."""
        self.send(encode_solicitation(), group)


def _raw_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        raise LocalError(
            "raw ICMP sockets are not permitted: needs CAP_NET_RAW, or use --advertisement FILE"
        ) from None
    except OSError as error:
        raise LocalError(f"raw ICMP sockets: {error.strerror}") from None
