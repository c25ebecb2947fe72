"""Which codes belong to which port: what comes to another one is dropped before it is verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    COA_REQUEST,
    DISCONNECT_REQUEST,
    STATUS_SERVER,
)


@dataclass(frozen=True, slots=True)
class Port:
    """What is asked for at one kind of port, and how a Status-Server is answered there."""

    name: str
    requests: frozenset[int]
    status_answer: int | None = None  # None: no Status-Server is answered

    @property
    def codes(self) -> frozenset[int]:
        """All codes that are taken in."""
        return self.requests | ({STATUS_SERVER} if self.status_answer is not None else set())


# RFC 2865 §3, RFC 2866 §3, RFC 5176 §2.3; Status-Server by RFC 5997 §3 and §4.1.
AUTHENTICATION: Final = Port("authentication", frozenset({ACCESS_REQUEST}), ACCESS_ACCEPT)
ACCOUNTING: Final = Port("accounting", frozenset({ACCOUNTING_REQUEST}), ACCOUNTING_RESPONSE)
DYNAMIC_AUTHORIZATION: Final = Port(
    "dynamic authorization", frozenset({DISCONNECT_REQUEST, COA_REQUEST})
)
# RFC 6614 §2.1 and §3.1: one port for all; PROTOCOL section 9 has no keys in what it adds.
TLS: Final = Port(
    "RADIUS over TLS",
    AUTHENTICATION.requests | ACCOUNTING.requests | DYNAMIC_AUTHORIZATION.requests,
    ACCESS_ACCEPT,
)
