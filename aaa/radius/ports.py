"""Which codes belong to which port: what comes to another one is dropped before it is verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aaa.exchange import EVENT_WINDOW_S
from aaa.radius.duplicates import ANSWERED_FOR_S
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
    answered_for_s: float = ANSWERED_FOR_S  # how long an answer is kept for duplicates

    @property
    def codes(self) -> frozenset[int]:
        """All codes that are taken in."""
        return self.requests | ({STATUS_SERVER} if self.status_answer is not None else set())


# RFC 2865 §3, RFC 2866 §3, RFC 5176 §2.3; Status-Server by RFC 5997 §3 and §4.1.
AUTHENTICATION: Final = Port("authentication", frozenset({ACCESS_REQUEST}), ACCESS_ACCEPT)
ACCOUNTING: Final = Port("accounting", frozenset({ACCOUNTING_REQUEST}), ACCOUNTING_RESPONSE)
# RFC 5176 §6.3: duplicates are known for as long as an Event-Timestamp is taken for current.
DYNAMIC_AUTHORIZATION: Final = Port(
    "dynamic authorization",
    frozenset({DISCONNECT_REQUEST, COA_REQUEST}),
    answered_for_s=EVENT_WINDOW_S,
)
# RFC 6614 §2.1 and §3.1: one port for all; PROTOCOL section 9 has no keys in what it adds.
TLS: Final = Port(
    "RADIUS over TLS",
    AUTHENTICATION.requests | ACCOUNTING.requests | DYNAMIC_AUTHORIZATION.requests,
    ACCESS_ACCEPT,
)
