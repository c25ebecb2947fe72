"""The foreign AAA and accounting: which home gets an Accounting-Request, and what it may assert.

RFC 2866 knows no refusal, so that what is refused here is not answered; the client's next try finds
the same.  Signatures, retransmission and sockets are for others.
"""

from __future__ import annotations

from collections.abc import Callable

from aaa.exchange import Addressing, Peer
from aaa.proxying import (
    OWN_PROXY_STATE_OCTETS,
    REALM_NAMESPACE,
    Attributes,
    Forward,
    Refuse,
    Route,
    forward,
    realm_of_operator,
)
from aaa.roles.foreign_aaa import Agent


def route_accounting(
    request: Addressing,
    attributes: Attributes,
    *,
    client: Agent | Peer,
    own_realm: str,
    way: Route | None,
    entropy: Callable[[int], bytes],
) -> Forward | Refuse:
    """The next hop of a verified Accounting-Request, or why there is none.

    `client` and `way` as for an Access-Request (aaa.roles.foreign_aaa).  An agent names itself by
    identifier, address or both (RFC 2866 §4.1), and as no other; the name of its operator is ours
    to give (RFC 5580 §4.1).  What a proxy before us says of an operator passes if it may say so.
    """
    if isinstance(client, Agent):
        refused = _judge_agent(request, client)
        operator_name: bytes | None = REALM_NAMESPACE + own_realm.encode()
    else:
        refused = _judge_proxy(request, client)
        operator_name = request.operator_name
    if refused is not None:
        return refused
    if way is None:
        return Refuse("realm")
    if all(server == client.name for server in way.servers):
        return Refuse("back_to_peer")
    return forward(
        way.pool,
        attributes,
        operator_name=operator_name,
        own_proxy_state=entropy(OWN_PROXY_STATE_OCTETS),
    )


def _judge_agent(request: Addressing, agent: Agent) -> Refuse | None:
    if not agent.is_named_by(request):
        return Refuse("nas")
    if request.fa_nai not in (None, agent.fa_nai):
        return Refuse("fa_nai")
    return None


def _judge_proxy(request: Addressing, proxy: Peer) -> Refuse | None:
    if request.fa_nai is not None and not proxy.may_speak_for(request.fa_nai.realm):
        return Refuse("fa_realm")
    if request.operator_name is not None:
        realm = realm_of_operator(request.operator_name)
        if realm is None or not proxy.may_speak_for(realm):
            return Refuse("operator_realm")
    return None
