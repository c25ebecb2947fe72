"""What every RADIUS proxy does with attributes, ours on both sides: it forwards, and takes replies.

Attributes come and go as (type, octets); what is not named here passes byte for byte.  Whether and
where to forward is a role's affair, signatures and sockets are others'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Forward:
    """Send `attributes` to `server`; a reply must carry exactly `proxy_states`, ours the last."""

    server: str  # the name of the next hop
    attributes: Attributes
    proxy_states: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an Access-Reject of `attributes`; `reason` is for log and counters alone."""

    reason: str
    attributes: Attributes = ()


def realm_of_operator(operator_name: bytes) -> str | None:
    """The realm in an Operator-Name, its ASCII letters lowered; None where it names none."""
    if operator_name[:1] != REALM_NAMESPACE:
        return None
    try:
        return operator_name[1:].lower().decode()  # bytes.lower() touches ASCII letters alone
    except UnicodeDecodeError:
        return None


def unroutable(reason: str) -> Refuse:
    """An Access-Reject that tells why (RFC 5176 §3.5, RFC 2607)."""
    return Refuse(reason, ((ERROR_CAUSE, NOT_ROUTABLE.to_bytes(4, "big")),))


def forward(
    server: str, attributes: Attributes, *, operator_name: bytes | None, own_proxy_state: bytes
) -> Forward | Refuse:
    """The request for the next hop: `operator_name` in the place of any that was given.

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
    return Forward(server, tuple(kept), _proxy_states(kept))


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
