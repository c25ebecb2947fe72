"""The foreign AAA, a RADIUS proxy: which home gets a request, and what it may assert.

Step 3 of the cycle (PROTOCOL sections 2 and 9).  What a proxy does with attributes is
aaa.proxying's; signatures, retransmission, the choice of a server and sockets are for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aaa.exchange import AccessRequest, Peer
from aaa.proxying import (
    OWN_PROXY_STATE_OCTETS,
    REALM_NAMESPACE,
    Attributes,
    Forward,
    Refuse,
    Route,
    forward,
    judge_assertions,
    realm_of_operator,
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
    client: Agent | Peer,
    own_realm: str,
    way: Route | None,
    entropy: Callable[[int], bytes],
) -> Forward | Refuse:
    """Step 3: the next hop of a verified Access-Request, or why there is none.

    `request` is what `attributes` (all of the packet's) assert; `client` is who sent it, a foreign
    agent or a proxy before us; `way` is that of the request's realm, its servers' names the same as
    a client's where both are one party.
    """
    refused = (
        _judge_agent(request, client)
        if isinstance(client, Agent)
        else _judge_proxy(request, client, own_realm)
    )
    if refused is not None:
        return refused
    if way is None:
        return unroutable("realm")
    if all(server == client.name for server in way.servers):
        return unroutable("back_to_peer")
    operator_name = request.operator_name
    if isinstance(client, Agent):
        # RFC 5580 §4.1: the operator's name is its AAA server's to give, not the client's.
        operator_name = REALM_NAMESPACE + own_realm.encode()
    return forward(
        way.pool,
        attributes,
        operator_name=operator_name,
        own_proxy_state=entropy(OWN_PROXY_STATE_OCTETS),
    )


def _judge_agent(request: AccessRequest, agent: Agent) -> Refuse | None:
    if request.fa_nai != agent.fa_nai:
        return Refuse("fa_nai")
    if request.nas_address != agent.nas_address:
        return Refuse("nas_address")
    if request.nas_identifier != agent.nas_identifier:
        return Refuse("nas_identifier")
    return None


def _judge_proxy(request: AccessRequest, proxy: Peer, own_realm: str) -> Refuse | None:
    operator = request.operator_name
    if (
        operator is not None
        and realm_of_operator(operator) == own_realm
        and not proxy.may_speak_for(own_realm)
    ):
        return unroutable("operator_loop")  # what we have sent has come round
    return judge_assertions(request.fa_nai.realm, operator, proxy.may_speak_for)
