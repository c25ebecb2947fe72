"""The values of one RADIUS exchange, between the roles that decide and the octets of RADIUS.

Both aaa.roles and aaa.radius speak in them; neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kdc.model import IpAddress, Nai

EVENT_WINDOW_S: Final = (
    300.0  # PROTOCOL section 9, RFC 5176 §6.3: how far off an Event-Timestamp is
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A RADIUS client of the home AAA, verified by its secret or certificate."""

    name: str
    realms: frozenset[str]  # the realms that it may speak for, lowered
    clear_fa_keys: bool = False  # PROTOCOL section 8: only the realm's own AAAF over TLS
    any_realm: bool = False  # our own home AAA, which has judged what its peers may say

    def may_speak_for(self, realm: str) -> bool:
        """Whether a realm, lowered, is one of this peer's."""
        return self.any_realm or realm in self.realms


@dataclass(frozen=True, slots=True)
class Addressing:
    """What a proxy reads of accounting and of dynamic authorization: of whom it is, and where to.

    All of it may be missing; who must say what is for the roles.
    """

    realm: str | None = None  # of User-Name, lowered; None also where it has none
    nas_identifier: bytes | None = None
    nas_addresses: tuple[IpAddress, ...] = ()  # NAS-IP-Address and NAS-IPv6-Address: 0 to 2
    fa_nai: Nai | None = None
    operator_name: bytes | None = None  # with its namespace octet
    event_timestamp: int | None = None  # Unix seconds
    is_of_nas: bool = False  # Accounting-On or -Off: of no session, and so of no realm


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """What an Access-Request asserts (PROTOCOL section 9), its Message-Authenticator verified."""

    realm: str  # of User-Name "@realm", lowered
    nas_identifier: bytes
    nas_address: IpAddress  # exactly one of NAS-IP-Address and NAS-IPv6-Address
    fa_nai: Nai  # attribute 9
    registration_request: bytes  # attribute 1, joined
    fa_public_keys: tuple[bytes, ...]  # attribute 3 as sent, in order, unchecked
    fa_sa_payload: bytes = b""  # attribute 5, joined
    operator_name: bytes | None = None  # attribute 126, with its namespace octet


@dataclass(frozen=True, slots=True)
class AccessAccept:
    """A registration granted (code 0)."""

    user_name: Nai  # the alias
    chargeable_user_identity: bytes
    class_id: bytes
    session_timeout_s: int | None  # None for a deregistration
    registration_reply: bytes  # attribute 2, joined
    fa_wrapped_key: bytes | None  # attribute 4; None for a deregistration or clear FA keys


@dataclass(frozen=True, slots=True)
class AccessChallenge:
    """A denial that the mobile node can act on: 129 or 133."""

    registration_reply: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class AccessReject:
    """Every other denial.  `code` and `reason` are for us alone, never for the peer."""

    code: int
    error_cause: int | None = None  # RFC 5176 §3.5; 502 where no route is known
    reason: str = field(default="", compare=False)  # the rule that was broken, for the trace


AccessResponse = AccessAccept | AccessChallenge | AccessReject
