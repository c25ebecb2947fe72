"""What every RADIUS proxy does with attributes, ours on both sides: it forwards, and takes replies.

Attributes come and go as (type, octets); what is not named here passes byte for byte.  Whether and
where to forward is a role's affair, signatures and sockets are others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from kdc.errors import ReplyRefused

PROXY_STATE: Final = 33  # RFC 2865 §5.33
MESSAGE_AUTHENTICATOR: Final = 80  # RFC 3579 §3.2
ERROR_CAUSE: Final = 101  # RFC 5176 §3.5
OPERATOR_NAME: Final = 126  # RFC 5580 §4.1
REALM_NAMESPACE: Final = b"1"  # RFC 5580 §4.1: the operator is named by its realm
NOT_ROUTABLE: Final = 502  # RFC 5176 §3.5: Request Not Routable (Proxy)

MAXIMUM_PROXY_STATES: Final = 8  # more proxies on one way are a loop
OWN_PROXY_STATE_OCTETS: Final = 8
MAXIMUM_ATTRIBUTES: Final = 200
# 4,096 of RADIUS less the header and the Message-Authenticator that the encoder puts first.
_ROOM_OCTETS: Final = 4096 - 20 - 18

Attributes = tuple[tuple[int, bytes], ...]


# By the code of a request what says no to it: Access-Reject (RFC 2865 §4.3), Disconnect-NAK and
# CoA-NAK (RFC 5176 §2.3).  An Accounting-Request has no such answer (RFC 2866 §4.2: what is not
# recorded is not acknowledged), and its client tries again.
_REFUSALS: Final = {1: 3, 40: 42, 43: 45}


class Route(NamedTuple):
    """Where requests for a realm go: servers that can stand in for each other."""

    pool: str
    servers: tuple[str, ...]  # the names of its members


@dataclass(frozen=True, slots=True)
class Forward:
    """Send `attributes` to `pool`; a reply must carry exactly `proxy_states`, ours the last."""

    pool: str  # the name of the servers that may be the next hop
    attributes: Attributes
    proxy_states: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Say no, with `attributes`; `reason` is for log and counters alone."""

    reason: str
    attributes: Attributes = ()

    @staticmethod
    def code(request_code: int) -> int | None:
        """The code of the answer; None where there is none and the request is dropped."""
        return _REFUSALS.get(request_code)


def realm_of_operator(operator_name: bytes) -> str | None:
    """The realm in an Operator-Name, its ASCII letters lowered; None where it names none."""
    if operator_name[:1] != REALM_NAMESPACE:
        return None
    try:
        return operator_name[1:].lower().decode()  # bytes.lower() touches ASCII letters alone
    except UnicodeDecodeError:
        return None


def judge_assertions(
    fa_realm: str, operator_name: bytes | None, may_speak_for: Callable[[str], bool]
) -> Refuse | None:
    """None where a peer may say what it says (PROTOCOL section 9), or why it may not.

    The realm of the FA, and that of an Operator-Name, must be configured for it.
    """
    if not may_speak_for(fa_realm):
        return Refuse("fa_realm")
    if operator_name is not None:
        realm = realm_of_operator(operator_name)
        if realm is None or not may_speak_for(realm):
            return Refuse("operator_realm")
    return None


def unroutable(reason: str) -> Refuse:
    """A refusal that tells why (RFC 5176 §3.5, RFC 2607)."""
    return Refuse(reason, ((ERROR_CAUSE, NOT_ROUTABLE.to_bytes(4, "big")),))


def forward(
    pool: str, attributes: Attributes, *, operator_name: bytes | None, own_proxy_state: bytes
) -> Forward | Refuse:
    """The request for the next hop, one of `pool`: `operator_name` in the place of any given.

    What has gone round too often, or no longer fits a packet, is refused.
    """
    if len(_proxy_states(attributes)) >= MAXIMUM_PROXY_STATES:
        return unroutable("loop")
    kept = [a for a in attributes if a[0] not in (MESSAGE_AUTHENTICATOR, OPERATOR_NAME)]
    if operator_name is not None:
        kept.append((OPERATOR_NAME, operator_name))
    kept.append((PROXY_STATE, own_proxy_state))
    if sum(len(value) + 2 for _, value in kept) > _ROOM_OCTETS:
        return Refuse("too_long")
    if len(kept) >= MAXIMUM_ATTRIBUTES:  # the Message-Authenticator is one more
        return Refuse("too_many_attributes")
    return Forward(pool, tuple(kept), _proxy_states(kept))


def _proxy_states(attributes: Attributes | list[tuple[int, bytes]]) -> tuple[bytes, ...]:
    return tuple([value for kind, value in attributes if kind == PROXY_STATE])


def take_reply(attributes: Attributes, forwarded: Forward) -> Attributes:
    """A verified reply's attributes, less Message-Authenticator and Proxy-States.

    Whoever signs it anew echoes the client's own Proxy-States.  Raises `ReplyRefused` unless the
    reply has exactly the Proxy-States that were sent, ours the last: such a reply is discarded.
    """
    if _proxy_states(attributes) != forwarded.proxy_states:
        raise ReplyRefused("Proxy-States are not those sent")
    return tuple([a for a in attributes if a[0] not in (MESSAGE_AUTHENTICATOR, PROXY_STATE)])
