"""What transports tell of packets and clients, for the log and the trace of their process.

What is written of it, and how often, is decided where the observer is made; nothing here writes.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from aaa.net.udp import Address
from aaa.radius.packet import Packet

# What of a client is worth a line, beside what is dropped.
OVER_LIMIT: Final = "over the limit"
SHED: Final = "shed"
OLD_SECRET: Final = "old secret"  # noqa: S105 - a name, not one
UNSIGNED: Final = "unsigned"  # an Access-Request that by exception needs no Message-Authenticator


class Hop(NamedTuple):
    """The other end: `name` as it is configured, empty for a stranger."""

    transport: str  # "UDP" or "TLS"
    name: str
    address: Address


class Observer(Protocol):
    """`on`: packets and decisions are shown; to be looked at before `packet` and `decided`."""

    on: bool

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        """A packet whose signatures are right, or one of ours; `what`: "received", "sent"."""

    def decided(self, client: str, request: Packet, decision: str) -> None:
        """What becomes of a request of `client`."""

    def dropped(self, hop: Hop, octets: bytes, why: str) -> None:
        """A packet that is not looked at any further; `why` is the name that it is counted by."""

    def noticed(self, what: str, client: str) -> None:
        """One of the names above."""


class Unobserved:
    """Where nobody looks."""

    on = False

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        """Not shown."""

    def decided(self, client: str, request: Packet, decision: str) -> None:
        """Not shown."""

    def dropped(self, hop: Hop, octets: bytes, why: str) -> None:
        """Counted where it was dropped."""

    def noticed(self, what: str, client: str) -> None:
        """Not logged."""


UNOBSERVED: Final = Unobserved()
