"""All parties in one process with a fake clock and seeded entropy: the stage of the stories."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from aaa.exchange import AccessAccept, AccessRequest, AccessResponse, Peer
from aaa.roles.foreign_agent import Delivery, FaIdentity, ForeignAgent, Relayed
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent import DEFAULT_TERMS, HomeAgentPolicy
from aaa.roles.home_agent_terms import HomeTerms
from aaa.roles.mobile_node import (
    Answer,
    DeniedByHome,
    Heard,
    MobileNodeState,
    Pending,
    Registered,
    accept_reply,
    build_request,
    next_spi,
)
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from kdc.center import KeyDistributionCenter
from kdc.model import Enrolment, HomeAddressKind, Nai, Secret
from kdc.negotiation import PreparedOffer, Standing
from tests.protocol.home import MemoryHome, MemoryStore, new_record

VISITED = Peer("visited", frozenset({"visited.example"}))
EPOCH = 1_800_000_000.0
HOME_AGENT = IPv4Address("192.0.2.1")
NO_OFFERS = MnTerms(plans={})
Tamper = Callable[[AccessRequest], AccessRequest]


class RandomAllocator:
    """SPIs and addresses that no one else has, from seeded entropy."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.taken: set[int] = set()

    def take_key0(self) -> int:
        return self._take(2**16, 2**29)

    def take_association(self, expires_at: float) -> int:
        return self._take(2**29, 2**32)

    def take_home_address(self) -> IPv4Address:
        return IPv4Address("10.200.0.0") + self._take(1, 2**16)

    def _take(self, low: int, high: int) -> int:
        while True:
            number = self._rng.randrange(low, high)
            if number not in self.taken:
                self.taken.add(number)
                return number


@dataclass
class World:
    """One mobile node, its home, and two foreign agents of one visited realm."""

    seed: int = 1
    kind: HomeAddressKind = HomeAddressKind.HIDDEN
    static: bool = False
    now: float = EPOCH
    home_terms: HomeTerms = DEFAULT_TERMS
    fa_terms: FaTerms = field(default_factory=FaTerms)
    mn_terms: MnTerms = field(default_factory=lambda: NO_OFFERS)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.allocator = RandomAllocator(self.rng)
        key0 = Secret(self.rng.randbytes(32))
        spis = tuple(self.allocator.take_key0() for _ in range(1 if self.static else 4))
        address = None if self.kind is HomeAddressKind.DYNAMIC else IPv4Address("10.1.2.3")
        record = new_record(spis=spis, static=self.static, kind=self.kind, home_address=address)
        self.policy = HomeAgentPolicy(
            HOME_AGENT, Nai.parse("ha1@home.example"), "home.example", terms=self.home_terms
        )
        self.store = MemoryStore(record, key0)
        self.home = MemoryHome(
            self.store,
            self.policy,
            KeyDistributionCenter(self.rng.randbytes),
            self.allocator,
            self.rng.randbytes,
        )
        self.node = MobileNodeState.enrolled(
            Enrolment(record.nai, key0, spis, HOME_AGENT, self.policy.nai, "home.example")
        )
        self.negotiation = Negotiation()
        self.agents = [self._agent(1, "198.51.100.7"), self._agent(2, "198.51.100.8")]

    def _agent(self, number: int, address: str) -> ForeignAgent:
        identity = FaIdentity(
            Nai.parse(f"fa{number}@visited.example"),
            IPv4Address(address),
            IPv4Address(address),
            b"fa%d" % number,
        )
        agent = ForeignAgent(identity, self.fa_terms)
        agent.rotate_key(now=self.now, entropy=self.rng.randbytes)
        return agent

    def heard(self, agent: ForeignAgent) -> Heard:
        identity = agent.identity
        return Heard(agent.announcement, identity.address, identity.care_of_address)

    def request(
        self,
        agent: ForeignAgent,
        *,
        lifetime_s: int = 600,
        offers: tuple[PreparedOffer, ...] | None = None,
    ) -> Pending:
        """Step 1 with what the node's terms offer, or `offers`; the node's state is stored."""
        if offers is None:
            offers = self.offers() if lifetime_s else ()
        self.node, pending = build_request(
            self.node,
            self.heard(agent),
            lifetime_s=lifetime_s,
            now=self.now,
            entropy=self.rng.randbytes,
            offers=offers,
        )
        return pending

    def offers(self) -> tuple[PreparedOffer, ...]:
        """The next round's offers, their public values fresh."""
        if self.negotiation.standing is Standing.AGREED:
            self.negotiation = Negotiation()  # a renewal is negotiated anew
        self.negotiation, offers = self.negotiation.offer(
            self.mn_terms, spi=next_spi(self.node), entropy=self.rng.randbytes
        )
        return offers

    def accept(self, pending: Pending, octets: bytes) -> Answer:
        """Step 12; the node's state and negotiation are stored."""
        self.node, answer = accept_reply(
            self.node, pending, octets, now=self.now, terms=self.mn_terms
        )
        if isinstance(answer, Registered):
            self.negotiation = self.negotiation.accepted()
        elif isinstance(answer, DeniedByHome) and answer.is_negotiable:
            self.negotiation = self.negotiation.refused(
                pending.offers, answer.counter_proposals, answer.failed_pair
            )
        return answer

    def exchange(self, agent: ForeignAgent) -> tuple[Delivery, Answer]:
        """One request and its answer, whatever they are."""
        return self.exchange_with(agent, self.offers())

    def exchange_with(
        self, agent: ForeignAgent, offers: tuple[PreparedOffer, ...]
    ) -> tuple[Delivery, Answer]:
        """The same with these offers."""
        pending = self.request(agent, offers=offers)
        relayed = self.relay(agent, pending.octets)
        self.answered = self.ask_home(relayed)
        delivery = self.deliver(agent, relayed, self.answered)
        return delivery, self.accept(pending, delivery.octets)

    def relay(self, agent: ForeignAgent, octets: bytes) -> Relayed:
        """Steps 2 and 3."""
        relayed = agent.on_request(octets, ("link", 1))
        assert isinstance(relayed, Relayed)
        return relayed

    def ask_home(self, relayed: Relayed, tamper: Tamper = lambda access: access) -> AccessResponse:
        """Steps 4 to 10, with what a proxy on the way makes of the request."""
        return self.home.handle(tamper(relayed.access), VISITED, self.now).response

    def deliver(
        self, agent: ForeignAgent, relayed: Relayed, response: AccessResponse | None
    ) -> Delivery:
        """Step 11."""
        return agent.on_response(relayed, response)

    def accepted(self, agent: ForeignAgent, pending: Pending) -> tuple[AccessAccept, Delivery]:
        """Steps 2 to 11 of a registration that goes well."""
        relayed = self.relay(agent, pending.octets)
        response = self.ask_home(relayed)
        assert isinstance(response, AccessAccept)
        return response, self.deliver(agent, relayed, response)


def replaced(**changes: object) -> Tamper:
    """A proxy that replaces what the Access-Request asserts."""
    return lambda access: dataclasses.replace(access, **changes)  # type: ignore[arg-type]
