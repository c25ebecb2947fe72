"""Shows packets and decisions to whoever looks on: blocks of lines on standard error.

What of a packet is shown is aaa.radius.dictionary's to say; secrets, keys and what is sealed beside
them never are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from aaa.net.observing import Hop
from aaa.radius.dictionary import describe
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import Packet, decode

_CODES: Final = {
    1: "Access-Request",
    2: "Access-Accept",
    3: "Access-Reject",
    4: "Accounting-Request",
    5: "Accounting-Response",
    11: "Access-Challenge",
    12: "Status-Server",
    40: "Disconnect-Request",
    41: "Disconnect-ACK",
    42: "Disconnect-NAK",
    43: "CoA-Request",
    44: "CoA-ACK",
    45: "CoA-NAK",
}


class Trace:
    """Writes blocks through `write`, by default to standard error at once."""

    def __init__(self, vendor_id: int, write: Callable[[str], object] | None = None) -> None:
        self._vendor_id = vendor_id
        self._write = write or _write_to_standard_error

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        """One packet with its attributes; of one that cannot be read, how long it is."""
        direction = "to" if what.startswith("sent") else "from"
        where = f"{direction} {_of(hop)} over {hop.transport}, {len(octets)} octets"
        try:
            packet = decode(octets, signed=False)
        except MalformedPacket as error:
            self._block(f"{what}: a packet {where}", (f"not readable: {error}",))
        else:
            attributes = describe(packet, self._vendor_id)
            lines = (f"{name}: {value}" for name, value in attributes)
            self._block(f"{what}: {_name(packet)} {where}", lines)

    def unread(self, hop: Hop, octets: bytes, what: str) -> None:
        """A packet that is not even looked into."""
        where = f"from {_of(hop)} over {hop.transport}, {len(octets)} octets"
        self._block(f"{what}: a packet {where}", ())

    def decided(self, client: str, request: Packet, decision: str) -> None:
        """A line of its own: it may come long after the packet."""
        self._block(f"decided: {_name(request)} from {client}", (f"=> {decision}",))

    def _block(self, head: str, lines: Iterable[str]) -> None:
        now = datetime.now(UTC).strftime("%H:%M:%S.%f")
        self._write("".join((f"[trace] {now} {head}\n", *(f"    {line}\n" for line in lines))))


def _name(packet: Packet) -> str:
    return f"{_CODES.get(packet.code, f'code {packet.code}')} Id {packet.identifier}"


def _of(hop: Hop) -> str:
    host, port = hop.address
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{hop.name} ({address})" if hop.name else address


def _write_to_standard_error(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever looked on has gone: nobody's request fails by it
        sys.stderr.write(text)
        sys.stderr.flush()
