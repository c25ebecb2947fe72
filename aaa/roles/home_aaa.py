"""The home AAA (steps 4 and 5): admits an Access-Request to a home agent, or refuses it.

It holds hop secrets and no key; what the sealed registration says is the home agent's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from aaa.exchange import AccessReject, AccessRequest, Peer
from aaa.proxying import (
    NOT_ROUTABLE,
    OWN_PROXY_STATE_OCTETS,
    Attributes,
    Forward,
    Refuse,
    forward,
    judge_assertions,
)
from kdc.errors import DENIED_UNKNOWN_HOME_AGENT
from kdc.wire.registration import decode_home_agent


@dataclass(frozen=True, slots=True)
class Admitted:
    """An Access-Request on its way to the home agent that its request names."""

    access: AccessRequest
    peer: Peer
    home_agent: IPv4Address


def admit(
    access: AccessRequest, peer: Peer, *, realm: str, home_agents: frozenset[IPv4Address]
) -> Admitted | AccessReject:
    """Step 4: whether the realm is ours and the home agent one that we serve.

    Raises `Malformed` for a registration message without a whole fixed header.
    """
    # Step 4
    if access.realm != realm:
        return AccessReject(0, NOT_ROUTABLE)
    home_agent = decode_home_agent(access.registration_request)
    if home_agent not in home_agents:
        return AccessReject(DENIED_UNKNOWN_HOME_AGENT)
    return Admitted(access, peer, home_agent)


def route(
    admitted: Admitted,
    attributes: Attributes,
    *,
    pool: str,
    entropy: Callable[[int], bytes],
) -> Forward | Refuse:
    """Step 5 for a home agent behind us: what it gets, once its peer may say what it says.

    The home agent knows us alone, so that what the peer may speak for is judged here.
    """
    # Step 5
    access, peer = admitted.access, admitted.peer
    refused = judge_assertions(access.fa_nai.realm, access.operator_name, peer.may_speak_for)
    if refused is not None:
        return refused
    return forward(
        pool,
        attributes,
        operator_name=access.operator_name,
        own_proxy_state=entropy(OWN_PROXY_STATE_OCTETS),
    )
