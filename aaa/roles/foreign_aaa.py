"""The foreign AAA, a RADIUS proxy: which home gets a request, and what it may assert.

Step 3 of the cycle (PROTOCOL sections 2 and 9).  Attributes come and go as (type, octets); what
is not named here passes byte for byte.  Signatures, retransmission and sockets are for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aaa.exchange import AccessRequest
from kdc.errors import ReplyRefused
from kdc.model import IpAddress, Nai

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
class Agent:
    """The foreign agent behind one RADIUS client, as configured: all that it may say it is."""

    name: str
    fa_nai: Nai
    nas_address: IpAddress
    nas_identifier: bytes


@dataclass(frozen=True, slots=True)
class HomeServer:
    """A next hop; `peer` is its name, the same as a client's where both are one party."""

    peer: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Send `attributes` to `server`; a reply must carry exactly `proxy_states`, ours the last."""

    server: HomeServer
    attributes: Attributes
    proxy_states: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an Access-Reject of `attributes`; `reason` is for log and counters alone."""

    reason: str
    attributes: Attributes = ()


def route(
    request: AccessRequest,
    attributes: Attributes,
    *,
    agent: Agent,
    own_realm: str,
    homes: Mapping[str, HomeServer],
    entropy: Callable[[int], bytes],
) -> Forward | Refuse:
    """Step 3: the next hop of a verified Access-Request of `agent`, or why there is none.

    `request` is what `attributes` (all of the packet's) assert; `homes` maps lowered realms.
    """
    if request.fa_nai != agent.fa_nai:
        return Refuse("fa_nai")
    if request.nas_address != agent.nas_address:
        return Refuse("nas_address")
    if request.nas_identifier != agent.nas_identifier:
        return Refuse("nas_identifier")
    server = homes.get(request.realm)
    if server is None:
        return _unroutable("realm")
    if server.peer == agent.name:
        return _unroutable("back_to_peer")
    if sum(kind == PROXY_STATE for kind, _ in attributes) >= MAXIMUM_PROXY_STATES:
        return _unroutable("loop")
    forwarded = _forwarded(attributes, own_realm, entropy(OWN_PROXY_STATE_OCTETS))
    if sum(len(value) + 2 for _, value in forwarded) > _ROOM_OCTETS:
        return Refuse("too_long")
    if len(forwarded) >= MAXIMUM_ATTRIBUTES:  # the Message-Authenticator is one more
        return Refuse("too_many_attributes")
    return Forward(server, forwarded, _proxy_states(forwarded))


def _unroutable(reason: str) -> Refuse:
    return Refuse(reason, ((ERROR_CAUSE, NOT_ROUTABLE.to_bytes(4, "big")),))


def _forwarded(attributes: Attributes, own_realm: str, own_proxy_state: bytes) -> Attributes:
    # RFC 5580 §4.1: the operator's name is its AAA server's to give, not the client's.
    kept = [a for a in attributes if a[0] not in (MESSAGE_AUTHENTICATOR, OPERATOR_NAME)]
    kept.append((OPERATOR_NAME, REALM_NAMESPACE + own_realm.encode()))
    kept.append((PROXY_STATE, own_proxy_state))
    return tuple(kept)


def _proxy_states(attributes: Attributes) -> tuple[bytes, ...]:
    return tuple([value for kind, value in attributes if kind == PROXY_STATE])


def on_reply(attributes: Attributes, forward: Forward) -> Attributes:
    """A verified reply's attributes for the agent, less Message-Authenticator and Proxy-States.

    Whoever signs it anew echoes the agent's own Proxy-States.  Raises `ReplyRefused` unless the
    reply has exactly the Proxy-States that were sent, ours the last: such a reply is discarded.
    """
    if _proxy_states(attributes) != forward.proxy_states:
        raise ReplyRefused("Proxy-States are not those sent")
    return tuple([a for a in attributes if a[0] not in (MESSAGE_AUTHENTICATOR, PROXY_STATE)])
