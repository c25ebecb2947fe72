"""The home AAA (steps 4 and 5): admits an Access-Request to a home agent, or refuses it.

It holds hop secrets and no key; what the sealed registration says is the home agent's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from aaa.exchange import AccessReject, AccessRequest, Peer
from kdc.errors import DENIED_UNKNOWN_HOME_AGENT
from kdc.wire.registration import decode_home_agent

ERROR_CAUSE_NOT_ROUTABLE = 502  # RFC 5176 §3.5: Request Not Routable (Proxy)


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
        return AccessReject(0, ERROR_CAUSE_NOT_ROUTABLE)
    home_agent = decode_home_agent(access.registration_request)
    if home_agent not in home_agents:
        return AccessReject(DENIED_UNKNOWN_HOME_AGENT)
    return Admitted(access, peer, home_agent)
