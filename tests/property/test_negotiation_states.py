"""A node, two agents and a home in any order of events, and what must hold after each of them.

The node is aaa.roles.mobile_node with its Negotiation, driven as a process drives it: one request
outstanding, a 133 tried again, a 129 followed by another offer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject, AccessRequest, AccessResponse
from aaa.roles.foreign_agent import Delivery, Relayed
from aaa.roles.mobile_node import (
    DeniedByHome,
    Deregistered,
    HintFromFa,
    Pending,
    Registered,
    accept_reply,
    build_request,
    next_spi,
)
from aaa.roles.mobile_node_terms import Negotiation
from kdc.errors import NotAcceptable, RemoteError
from kdc.model import Mode, Pair, SecurityAssociation, Suite
from kdc.negotiation import OfferPlan, PreparedOffer, Standing
from kdc.wire.payloads import SaPayload
from tests.protocol.test_negotiated_cycle import fa_terms, home_terms, mn_terms
from tests.protocol.world import VISITED, World

GCM, CHACHA, HMAC, CBC, SHA512 = Suite(3, 20), Suite(3, 28), Suite(1, 5), Suite(2, 12), Suite(1, 7)
PREFERRED: dict[str, tuple[tuple[Suite, ...], ...]] = {
    "few": ((GCM,), (HMAC, CBC), (CHACHA,)),
    # Eight proposals are the limit of a payload: what is left is for the rounds that follow.
    "many": (
        (HMAC, CBC, GCM),
        (HMAC, CBC, CHACHA),
        (HMAC, GCM),
        (SHA512, CBC, GCM),
        (SHA512, CBC, CHACHA),
        (SHA512, GCM),
        (HMAC, CBC),
        (GCM,),
        (CHACHA,),
    ),
}
MN_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)
READY, OFFERED, AGREED, FAILED = (
    Standing.READY,
    Standing.OFFERED,
    Standing.AGREED,
    Standing.FAILED,
)
# Section 6, what may follow what: an offer goes out; it is answered with code 0, with 133 (offered
# again), with 129 (another offer, or none is left); a lost one is offered again; three failures, or
# nothing left to offer, are the end.  A renewal is a new negotiation.
FOLLOWS = {
    READY: {OFFERED, FAILED},
    OFFERED: {OFFERED, READY, AGREED, FAILED},
    AGREED: set[Standing](),
    FAILED: set[Standing](),
}
COUNTED = {(0, 1), (1, 2), (2, 0), (1, 0)}  # record: failures in a row, the third one final
PLANS = {
    "stateful": OfferPlan(Mode.STATEFUL),
    "stateful in a KE-c": OfferPlan(Mode.STATEFUL, sealed=True),
    "semi-stateful": OfferPlan(Mode.SEMISTATEFUL),
    "mixed": OfferPlan(Mode.STATEFUL, (31,)),
    "stateless": OfferPlan(Mode.STATELESS, (31,)),
}
TASTES = {
    "everything": {GCM, CHACHA, HMAC, CBC, SHA512},
    "chacha": {CHACHA},
    "classic": {HMAC, CBC},
    "all but GCM": {CHACHA, HMAC, CBC},
    "nothing that is offered": {SHA512},
}
COUNTERS: dict[str, tuple[tuple[Suite, ...], ...]] = {
    "none": (),
    "its own": ((CHACHA,), (HMAC, CBC)),
    "what it refuses itself": ((GCM,), (SHA512,)),
}
MET: Counter[str] = Counter()


@dataclass
class Flight:
    """One request on its way, and what has become of it."""

    agent: int
    pending: Pending
    repeats_spi: bool  # the node had none left (5.4)
    relayed: Relayed | None = None
    response: AccessResponse | None = None


@dataclass
class Rejected:
    """What the node has seen refused in this negotiation, kept by the test itself."""

    failures: int = 0
    suites: dict[Pair, set[tuple[Suite, ...]]] = field(default_factory=dict)
    highest: dict[Pair, int] = field(default_factory=dict)


def suites_of(payload: SaPayload) -> set[tuple[Suite, ...]]:
    """Each offered AND of suites; our offers have one transform a proposal."""
    numbers = {proposal.number for proposal in payload.proposals}
    return {
        tuple(
            Suite(proposal.protocol_id, proposal.transforms[0].transform_id)
            for proposal in payload.proposals
            if proposal.number == number
        )
        for number in numbers
    }


class Parties(RuleBasedStateMachine):
    """Rules are what the node, the network and the operators can do."""

    def __init__(self) -> None:
        super().__init__()
        self.skew_s = 0
        self.flight: Flight | None = None
        self.old: list[Flight] = []
        self.rejected = Rejected()
        self.association_spis: set[int] = set()
        self.granted: dict[int, list[Flight]] = {}
        self.standings: list[Standing] = [READY]
        self.rounds = 0

    @initialize(
        seed=st.integers(0, 2**16),
        plan=st.sampled_from(sorted(PLANS)),
        pairs=st.sampled_from([MN_PAIRS, (Pair.MN_HA,), (Pair.MN_HA, Pair.MN_FA), (Pair.MN_FA,)]),
        preferred=st.sampled_from(sorted(PREFERRED)),
        tastes=st.tuples(*[st.sampled_from([*sorted(TASTES), *["everything"] * 4])] * 3),
        counter=st.sampled_from(sorted(COUNTERS)),
    )
    def begin(
        self,
        seed: int,
        plan: str,
        pairs: tuple[Pair, ...],
        preferred: str,
        tastes: tuple[str, ...],
        counter: str,
    ) -> None:
        self.plan = dataclasses.replace(PLANS[plan], alternatives=(1, 2, 8)[seed % 3])
        self.fa_plan = self.plan if seed % 2 else None  # whether the agents offer pair 3
        self.world = World(
            seed=seed, mn_terms=mn_terms(self.plan, pairs, preferred=PREFERRED[preferred])
        )
        self.home_changes_its_mind(tastes[0], counter)
        self.an_agent_changes_its_mind(0, tastes[1], counter)
        self.an_agent_changes_its_mind(1, tastes[2], counter)
        MET[plan] += 1

    # --- the operators ---

    @rule(taste=st.sampled_from(sorted(TASTES)), counter=st.sampled_from(sorted(COUNTERS)))
    def home_changes_its_mind(self, taste: str, counter: str) -> None:
        terms = home_terms(suites=frozenset(TASTES[taste]), preferred=COUNTERS[counter])
        agent = self.world.home.registrar.home_agent
        agent.policy = dataclasses.replace(agent.policy, terms=terms)

    @rule(
        agent=st.integers(0, 1),
        taste=st.sampled_from(sorted(TASTES)),
        counter=st.sampled_from(sorted(COUNTERS)),
    )
    def an_agent_changes_its_mind(self, agent: int, taste: str, counter: str) -> None:
        self.world.agents[agent]._terms = fa_terms(
            self.fa_plan, suites=frozenset(TASTES[taste]), preferred=COUNTERS[counter]
        )

    # --- time ---

    @rule(seconds=st.sampled_from([1, 5, 8, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(skew_s=st.sampled_from([0, 0, 3, -3600, 3600]))
    def the_nodes_clock_is_wrong(self, skew_s: int) -> None:
        self.skew_s = skew_s

    # --- the node ---

    @rule(agent=st.integers(0, 1))
    def register(self, agent: int) -> None:
        """A first offer, the next round, a retry after a loss, a renewal or a handoff."""
        world = self.world
        if world.negotiation.standing in (AGREED, FAILED):
            self._begin_anew()
        try:
            world.negotiation, offers = world.negotiation.offer(
                world.mn_terms, spi=next_spi(world.node), entropy=world.rng.randbytes
            )
        except NotAcceptable:
            MET["nothing left"] += 1
            self._stand(world.negotiation.exhausted(), FAILED)
            return
        self._stand(world.negotiation, OFFERED)
        self._check_offers(offers)
        self._send(agent, 600, offers)

    @rule(agent=st.integers(0, 1), duplicates=st.integers(0, 2), wait_s=st.sampled_from([0, 1, 6]))
    def a_whole_exchange(self, agent: int, duplicates: int, wait_s: int) -> None:
        """All the steps of one request in a row, which single rules would seldom make."""
        self.world.now += 1
        self.register(agent)
        if self.world.negotiation.standing is FAILED:
            return
        self.the_agent_relays()
        for _ in range(1 + duplicates):
            self.home_is_asked()
        self.world.now += wait_s
        self.the_reply_arrives()

    @precondition(lambda self: self.world.negotiation.standing is READY and self.rejected.failures)
    @rule(agent=st.integers(0, 1))
    def the_next_round(self, agent: int) -> None:
        self.a_whole_exchange(agent, 0, 0)

    @rule(agent=st.integers(0, 1), at_once=st.booleans())
    def deregister(self, agent: int, at_once: bool) -> None:
        self._begin_anew()
        self._send(agent, 0, ())
        if at_once:
            self.the_agent_relays()
            self.home_is_asked()
            self.the_reply_arrives()

    def _begin_anew(self) -> None:
        self.world.negotiation = Negotiation()
        self.rejected = Rejected()
        self.standings = [READY]

    def _stand(self, negotiation: Negotiation, expected: Standing) -> None:
        assert negotiation.standing is expected
        self.world.negotiation = negotiation
        self.standings.append(negotiation.standing)

    def _check_offers(self, offers: tuple[PreparedOffer, ...]) -> None:
        assert {offer.payload.pair for offer in offers} == set(self.world.mn_terms.plans)
        for offer in offers:
            pair = offer.payload.pair
            again = suites_of(offer.payload) & self.rejected.suites.get(pair, set())
            assert not again, "a suite once rejected is offered again"
            lowest = offer.payload.proposals[0].number
            assert lowest > self.rejected.highest.get(pair, 0), "a number is used again"

    def _send(self, agent: int, lifetime_s: int, offers: tuple[PreparedOffer, ...]) -> None:
        world = self.world
        repeats = not world.node.unspent
        world.node, pending = build_request(
            world.node,
            world.heard(world.agents[agent]),
            lifetime_s=lifetime_s,
            now=world.now + self.skew_s,
            entropy=world.rng.randbytes,
            offers=offers,
        )
        if self.flight is not None:
            self.old.append(self.flight)
        self.flight = Flight(agent, pending, repeats)

    # --- the network ---

    @precondition(lambda self: self.flight is not None and self.flight.relayed is None)
    @rule()
    def the_agent_relays(self) -> None:
        assert self.flight is not None
        relayed = self.world.agents[self.flight.agent].on_request(
            self.flight.pending.octets, ("link", 1)
        )
        assert isinstance(relayed, Relayed)
        self.flight.relayed = relayed

    @precondition(lambda self: self.flight is not None and self.flight.relayed is not None)
    @rule()
    def the_node_repeats_its_octets(self) -> None:
        """While the agent waits for home, the same octets are under way already."""
        assert self.flight is not None
        agent = self.world.agents[self.flight.agent]
        assert agent.on_request(self.flight.pending.octets, ("link", 1)) is None

    @precondition(lambda self: self.flight is not None and self.flight.relayed is not None)
    @rule()
    def home_is_asked(self) -> None:
        """Once or again: within the window a duplicate of the last request gets the same octets."""
        assert self.flight is not None and self.flight.relayed is not None
        first = self.flight.response
        apart_s = abs(self.flight.pending.identification.unix - int(self.world.now))
        again = self.world.store.record.last_spent == self.flight.pending.spi and apart_s <= 7
        response = self._ask(self.flight, self.flight.relayed.access)
        answered = isinstance(first, AccessAccept | AccessChallenge)
        if answered and again and not isinstance(response, AccessReject):
            assert response == first
            MET["duplicate"] += 1
        if first is None or not answered:
            self.flight.response = response

    def _ask(self, flight: Flight, access: AccessRequest) -> AccessResponse:
        registrations, record = len(self.world.store.registrations), self.world.store.record
        handled = self.world.home.handle(access, VISITED, self.world.now)
        self._count(record.rounds, handled.response)
        if len(self.world.store.registrations) > registrations:
            assert self.world.store.record.rounds == 0, "a success sets the counter to 0"
            self._check_issue(flight)
        return handled.response

    def _count(self, before: int, response: AccessResponse) -> None:
        after = self.world.store.record.rounds
        assert after == before or (before, after) in COUNTED
        refused = isinstance(response, AccessChallenge) and response.registration_reply[1] == 129
        if after > before:
            assert refused
        if before == 2 and after == 0 and not isinstance(response, AccessAccept):
            assert response == AccessReject(129)
            MET["third failure"] += 1

    def _check_issue(self, flight: Flight) -> None:
        """No SPI of an association is issued twice, and one KEY0 SPI serves one issue."""
        registration = self.world.store.registrations[-1].registration
        assert registration is not None
        spis = {item.spi for item in registration.associations}
        assert len(spis) == len(registration.associations)
        assert not spis & self.association_spis
        self.association_spis |= spis
        before = self.granted.setdefault(flight.pending.spi, [])
        assert not before or flight.repeats_spi, "one SPI has been spent for two issues"
        assert all(item.pending.octets != flight.pending.octets for item in before)
        before.append(flight)

    @precondition(lambda self: bool(self.old))
    @rule(which=st.integers(0, 50), at_home=st.booleans())
    def an_older_request_is_replayed(self, which: int, at_home: bool) -> None:
        """Home gives a duplicate's outcome, refuses, or takes what it has never seen."""
        flight = self.old[which % len(self.old)]
        if flight.relayed is None or not at_home:
            agent = self.world.agents[flight.agent]
            relayed = agent.on_request(flight.pending.octets, ("another link", which))
            if not isinstance(relayed, Relayed):
                return
            delivery = agent.on_response(relayed, self._ask(flight, relayed.access))
        else:
            delivery = self._deliver(flight, self._ask(flight, flight.relayed.access))
        MET["replay"] += 1
        self._refuse_as_foreign(delivery)

    def _refuse_as_foreign(self, delivery: Delivery) -> None:
        """The reply to another request teaches the node nothing."""
        if self.flight is None:
            return
        before = self.world.node
        try:
            accept_reply(
                before, self.flight.pending, delivery.octets, now=self.world.now + self.skew_s
            )
        except RemoteError:
            return
        raise AssertionError("a reply to another request was taken")

    @precondition(lambda self: self.flight is not None)
    @rule()
    def something_is_lost(self) -> None:
        """The request or its reply; the node will send a new one."""
        assert self.flight is not None
        if self.flight.relayed is not None:
            agent = self.world.agents[self.flight.agent]
            assert agent.on_response(self.flight.relayed, None).code == 78
        self.old.append(self.flight)
        self.flight = None
        MET["loss"] += 1

    @precondition(lambda self: self.flight is not None and self.flight.response is not None)
    @rule()
    def the_reply_arrives(self) -> None:
        flight = self.flight
        assert flight is not None and flight.response is not None
        delivery = self._deliver(flight, flight.response)
        self._take(flight, delivery)

    def _deliver(self, flight: Flight, response: AccessResponse) -> Delivery:
        assert flight.relayed is not None
        delivery = self.world.agents[flight.agent].on_response(flight.relayed, response)
        if not isinstance(response, AccessAccept) or delivery.code != 0:
            assert delivery.associations == (), "installed though it was not granted"
        return delivery

    def _take(self, flight: Flight, delivery: Delivery) -> None:
        world, before = self.world, self.world.node
        try:
            world.node, answer = accept_reply(
                world.node,
                flight.pending,
                delivery.octets,
                now=world.now + self.skew_s,
                terms=world.mn_terms,
            )
        except RemoteError:
            raise AssertionError("an honest reply was refused") from None
        MET[f"{type(answer).__name__} {delivery.code}"] += 1
        if isinstance(answer, HintFromFa):
            assert world.node == before
            flight.relayed = flight.response = None  # the node sends the same octets again
            return
        self.old.append(flight)
        self.flight = None
        match answer:
            case Registered():
                self._stand(world.negotiation.accepted(), AGREED)
                self._check_keys(answer, delivery)
            case Deregistered():
                assert delivery.associations == ()
            case DeniedByHome(code=133) if flight.pending.lifetime_s:
                self._stand(world.negotiation.stale(), READY)
            case DeniedByHome() if answer.is_negotiable:
                self._refused(flight.pending.offers, answer)

    def _refused(self, offers: tuple[PreparedOffer, ...], answer: DeniedByHome) -> None:
        counters, failed = answer.counter_proposals, answer.failed_pair
        if counters:
            assert failed is None
            MET[f"counter-proposal for pair {min(counters)}"] += 1
        self.rejected.failures += 1
        assert self.rejected.failures <= 3
        last = self.rejected.failures == 3
        self._stand(
            self.world.negotiation.refused(offers, counters, failed), FAILED if last else READY
        )
        for offer in offers:
            pair = offer.payload.pair
            if counters and pair not in counters:
                continue
            if failed not in (None, pair):
                MET["another pair failed"] += 1
                continue
            self.rejected.suites.setdefault(pair, set()).update(suites_of(offer.payload))
            highest = max(proposal.number for proposal in offer.payload.proposals)
            self.rejected.highest[pair] = max(self.rejected.highest.get(pair, 0), highest)
        MET["three rounds"] += last

    def _check_keys(self, answer: Registered, delivery: Delivery) -> None:
        """What node, agent and home hold of one pair is the same, and what they may hold."""
        node: dict[Pair, SecurityAssociation] = {item.pair: item for item in answer.associations}
        agent = {item.pair: item for item in delivery.associations}
        spis = {item.spi for item in (*node.values(), *agent.values())}
        (stored,) = (
            change.registration.associations
            for change in self.world.store.registrations
            if change.registration is not None
            and {item.spi for item in change.registration.associations} == spis
        )
        home: dict[Pair, Any] = {item.pair: item for item in stored}
        assert set(node) | set(agent) == set(home)
        assert node.keys() & agent.keys() == set(home) - {Pair.MN_HA, Pair.FA_HA}
        for pair in node.keys() & agent.keys():
            assert node[pair] == agent[pair]
        assert home[Pair.MN_HA].keys == node[Pair.MN_HA].keys
        assert home[Pair.FA_HA].keys == agent[Pair.FA_HA].keys
        assert {item.keys for pair, item in home.items() if pair in (2, 4)} == {None}
        for pair, item in (node | agent).items():
            assert item.suites == home[pair].suites and item.mode is home[pair].mode
            assert item.lifetime_s <= answer.lifetime_s

    # --- always ---

    @invariant()
    def standings_follow_the_table(self) -> None:
        for before, after in zip(self.standings, self.standings[1:], strict=False):
            assert after in FOLLOWS[before], f"{before} -> {after}"

    @invariant()
    def the_record_counts_to_two(self) -> None:
        if hasattr(self, "world"):
            assert self.world.store.record.rounds in (0, 1, 2)
            assert self.world.negotiation.failures == self.rejected.failures <= 3

    @invariant()
    def an_spi_is_unspent_or_spent(self) -> None:
        if hasattr(self, "world"):
            record = self.world.store.record
            assert record.last_spent not in record.unspent
            assert len(set(record.unspent)) == len(record.unspent) == 4


LEAST = {
    **dict.fromkeys(PLANS, 5),
    "Registered 0": 30,
    "Deregistered 0": 3,
    "another pair failed": 5,
    "DeniedByHome 129": 60,
    "DeniedByHome 133": 20,
    "HintFromFa 67": 60,
    "counter-proposal for pair 1": 20,
    "counter-proposal for pair 2": 5,
    "duplicate": 100,
    "loss": 100,
    "nothing left": 1,
    "replay": 100,
    "third failure": 5,
    "three rounds": 1,
}


def test_whatever_the_order_of_events() -> None:
    MET.clear()
    run_state_machine_as_test(
        Parties,
        settings=settings(
            max_examples=400,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    rare = {event: MET[event] for event, least in LEAST.items() if MET[event] < least}
    assert not rare, MET
