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
    realm_of_operator,
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


@dataclass(frozen=True, slots=True)
class Accounted:
    """An Accounting-Request that its peer may send."""

    operator_realm: str | None  # lowered


def judge_accounting(
    peer: Peer,
    *,
    user_realm: str | None,
    fa_realm: str | None,
    operator_name: bytes | None,
    realm: str,
) -> Accounted | str:
    """Whether a peer may report a session of that user at that operator, or why not.

    Realms are lowered, None where nothing is said; a name without a realm is nobody else's.  The
    peer must be allowed to speak for the operator and for the FA's realm, as for an Access-Request.
    """
    if user_realm not in (None, realm):
        return "user_realm"
    if fa_realm is not None and not peer.may_speak_for(fa_realm):
        return "fa_realm"
    if operator_name is None:
        return Accounted(None)
    operator_realm = realm_of_operator(operator_name)
    if operator_realm is None or not peer.may_speak_for(operator_realm):
        return "operator_realm"
    return Accounted(operator_realm)
