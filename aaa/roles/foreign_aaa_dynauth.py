"""The foreign AAA and dynamic authorization: which agent gets a Disconnect- or CoA-Request.

RFC 5176, RFC 8559: routed by Operator-Name, never by User-Name; that one shows whether the home may
ask at all.  Signatures, retransmission and sockets are for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aaa.exchange import EVENT_WINDOW_S, Addressing, Peer
from aaa.proxying import (
    NOT_ROUTABLE,
    OWN_PROXY_STATE_OCTETS,
    Attributes,
    Forward,
    forward,
    realm_of_operator,
)
from aaa.roles.foreign_aaa import Agent

# RFC 5176 §3.5
MISSING_ATTRIBUTE: Final = 402
NAS_IDENTIFICATION_MISMATCH: Final = 403
INVALID_REQUEST: Final = 404
UNSUPPORTED_EXTENSION: Final = 406
OTHER_PROXY_PROCESSING_ERROR: Final = 505
RESOURCES_UNAVAILABLE: Final = 506

_EXTENDED_TYPE_1: Final = 241  # RFC 6929 §2.1
_OPERATOR_NAS_IDENTIFIER: Final = 8  # 241.8: RFC 8559 §3.4


@dataclass(frozen=True, slots=True)
class Nak:
    """Answer with a NAK of this Error-Cause; `reason` is for log and counters alone."""

    reason: str
    error_cause: int


@dataclass(frozen=True, slots=True)
class Discard:
    """Say nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Asker:
    """The server that asks, and which lowered realms it is a home of."""

    name: str
    speaks_for: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class VisitedDomain:
    """What is behind us: our own realm, lowered, the agents in it, and proxies of other operators.

    The realms that a proxy may speak for are those that requests are sent to it for.
    """

    realm: str
    agents: tuple[Agent, ...]
    proxies: tuple[Peer, ...] = ()

    def find_agent(self, request: Addressing) -> Agent | None:
        """The agent that all names in a request are of."""
        for agent in self.agents:
            if agent.is_named_by(request) and request.fa_nai in (None, agent.fa_nai):
                return agent
        return None

    def find_proxy(self, operator_realm: str, asker: Asker) -> Peer | None:
        """The proxy of another operator's realm; never the one that asks."""
        for proxy in self.proxies:
            if proxy.may_speak_for(operator_realm) and proxy.name != asker.name:
                return proxy
        return None


def route_dynauth(
    request: Addressing,
    attributes: Attributes,
    *,
    asker: Asker,
    domain: VisitedDomain,
    now: float,
    entropy: Callable[[int], bytes],
) -> Forward | Nak | Discard:
    """Where a verified Disconnect- or CoA-Request goes, or what it is answered with.

    RFC 5176 §6.3: what is not current is silently discarded, before anything else is told.
    RFC 8559 §3.2, §3.3 and §4.3.1: nobody's operator, and a home that asks for another's visitors,
    are not routable (502); §5.2: an agent that is not here is 403.
    """
    if request.event_timestamp is None:
        return Nak("no_event_timestamp", MISSING_ATTRIBUTE)
    if abs(now - request.event_timestamp) > EVENT_WINDOW_S:
        return Discard("event_timestamp")
    if request.realm is None or not asker.speaks_for(request.realm):
        return Nak("home_realm", NOT_ROUTABLE)
    operator_name = request.operator_name
    operator_realm = None if operator_name is None else realm_of_operator(operator_name)
    if operator_realm is None:
        return Nak("operator", NOT_ROUTABLE)
    if operator_realm == domain.realm:
        agent = domain.find_agent(request)
        if agent is None:
            return Nak("agent", NAS_IDENTIFICATION_MISMATCH)
        name, operator_name = agent.name, None
        attributes = _without_signalling(attributes)
    else:
        proxy = domain.find_proxy(operator_realm, asker)
        if proxy is None:
            return Nak("operator", NOT_ROUTABLE)
        name = proxy.name
    decision = forward(
        name,
        attributes,
        operator_name=operator_name,
        own_proxy_state=entropy(OWN_PROXY_STATE_OCTETS),
    )
    if isinstance(decision, Forward):
        return decision
    loop = bool(decision.attributes)
    return Nak(decision.reason, NOT_ROUTABLE if loop else OTHER_PROXY_PROCESSING_ERROR)


def _without_signalling(attributes: Attributes) -> Attributes:
    """RFC 8559 §4.2: what proxies tell each other is not for the agent.

    The Operator-Name goes as well (aaa.proxying); Proxy-States stay, the agent echoes them.
    """
    return tuple(
        [
            (kind, value)
            for kind, value in attributes
            if not (kind == _EXTENDED_TYPE_1 and value[:1] == bytes((_OPERATOR_NAS_IDENTIFIER,)))
        ]
    )
