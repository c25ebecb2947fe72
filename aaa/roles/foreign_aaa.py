"""The foreign AAA, a RADIUS proxy: which home gets a request, and what it may assert.

Step 3 of the cycle (PROTOCOL sections 2 and 9).  What a proxy does with attributes is
aaa.proxying's; signatures, retransmission and sockets are for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aaa.exchange import AccessRequest
from aaa.proxying import (
    OWN_PROXY_STATE_OCTETS,
    REALM_NAMESPACE,
    Attributes,
    Forward,
    Refuse,
    forward,
    unroutable,
)
from kdc.model import IpAddress, Nai


@dataclass(frozen=True, slots=True)
class Agent:
    """The foreign agent behind one RADIUS client, as configured: all that it may say it is."""

    name: str
    fa_nai: Nai
    nas_address: IpAddress
    nas_identifier: bytes


def route(
    request: AccessRequest,
    attributes: Attributes,
    *,
    agent: Agent,
    own_realm: str,
    homes: Mapping[str, str],
    entropy: Callable[[int], bytes],
) -> Forward | Refuse:
    """Step 3: the next hop of a verified Access-Request of `agent`, or why there is none.

    `request` is what `attributes` (all of the packet's) assert; `homes` maps lowered realms to
    the names of servers, the same as a client's where both are one party.
    """
    if request.fa_nai != agent.fa_nai:
        return Refuse("fa_nai")
    if request.nas_address != agent.nas_address:
        return Refuse("nas_address")
    if request.nas_identifier != agent.nas_identifier:
        return Refuse("nas_identifier")
    server = homes.get(request.realm)
    if server is None:
        return unroutable("realm")
    if server == agent.name:
        return unroutable("back_to_peer")
    # RFC 5580 §4.1: the operator's name is its AAA server's to give, not the client's.
    return forward(
        server,
        attributes,
        operator_name=REALM_NAMESPACE + own_realm.encode(),
        own_proxy_state=entropy(OWN_PROXY_STATE_OCTETS),
    )
