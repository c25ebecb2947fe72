"""Negotiated cycles as stories: modes, rounds, renewal, and what a hub or a bad value brings."""

from __future__ import annotations

import dataclasses

import pytest

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject, AccessRequest
from aaa.roles import foreign_agent
from aaa.roles.foreign_agent import Delivery, ForeignAgent
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent import DEFAULT_TERMS
from aaa.roles.home_agent_terms import HomeTerms
from aaa.roles.mobile_node import DeniedByHome, HintFromFa, Registered, next_spi
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from kdc.crypto import dh
from kdc.errors import ACCEPTED, LocalError, NotAcceptable, RemoteError, ReplyRefused
from kdc.model import Mode, Pair, Secret, Suite
from kdc.negotiation import History, OfferPlan, Policy, PreparedOffer, Standing, prepare_offer
from kdc.wire.payloads import KeA, SaPayload, decode_fa_sa_payloads, encode_sa_payload
from tests.protocol.test_cycle import flips
from tests.protocol.world import NO_OFFERS, World, replaced

GCM, CHACHA, HMAC, CBC = Suite(3, 20), Suite(3, 28), Suite(1, 5), Suite(2, 12)
MN_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)
X25519 = 31


def mn_terms(plan: OfferPlan, pairs: tuple[Pair, ...] = MN_PAIRS, **policy: object) -> MnTerms:
    own = Policy(preferred=((GCM,),))
    own = dataclasses.replace(own, **policy)  # type: ignore[arg-type]
    return MnTerms(dict.fromkeys(MN_PAIRS, own), dict.fromkeys(pairs, plan))


def fa_terms(plan: OfferPlan | None, **policy: object) -> FaTerms:
    own = dataclasses.replace(Policy(preferred=()), **policy)  # type: ignore[arg-type]
    return FaTerms(dict.fromkeys(Pair, own), plan)


def home_terms(**policy: object) -> HomeTerms:
    own = dataclasses.replace(Policy(preferred=()), **policy)  # type: ignore[arg-type]
    return HomeTerms(dict.fromkeys(Pair, own), (GCM,))


def negotiating(plan: OfferPlan, **policy: object) -> World:
    """All four pairs offered by the same plan."""
    if plan.in_the_clear:
        raise ValueError("not with sealed FA keys")
    return World(
        mn_terms=mn_terms(plan, MN_PAIRS, **policy),
        fa_terms=fa_terms(plan, preferred=((GCM,),), **policy),
        home_terms=home_terms(**policy),
    )


PLANS = {
    "stateful": OfferPlan(Mode.STATEFUL),
    "stateful-ke-c": OfferPlan(Mode.STATEFUL, sealed=True),
    "stateful-mixed": OfferPlan(Mode.STATEFUL, (X25519,)),
    "semi-stateful": OfferPlan(Mode.SEMISTATEFUL),
    "semi-stateful-ke-c": OfferPlan(Mode.SEMISTATEFUL, sealed=True),
    "semi-stateful-mixed": OfferPlan(Mode.SEMISTATEFUL, (X25519,)),
    "stateless": OfferPlan(Mode.STATELESS, (X25519,)),
    "stateless-implied": OfferPlan(None, (X25519,)),
}
by_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@by_plan
def test_each_key_of_four_pairs_is_held_by_exactly_its_holders(plan: OfferPlan) -> None:
    world = negotiating(plan)
    delivery, answer = world.exchange(world.agents[0])
    assert isinstance(answer, Registered) and answer.mn_smm is not None
    fa_ha, mn_fa, mn_smm = delivery.associations
    assert [item.pair for item in delivery.associations] == [Pair.FA_HA, Pair.MN_FA, Pair.MN_SMM]
    assert (answer.mn_fa, answer.mn_smm) == (mn_fa, mn_smm)
    mode = plan.mode or Mode.STATELESS
    assert {item.mode for item in (*answer.associations, fa_ha)} == {mode}
    registration = world.store.registrations[0].registration
    assert registration is not None
    stored = {item.pair: item.keys for item in registration.associations}
    # KEY3 and the SMM's key are not in the database, whatever the mode.
    assert stored == {
        Pair.MN_HA: answer.mn_ha.keys,
        Pair.FA_HA: fa_ha.keys,
        Pair.MN_FA: None,
        Pair.MN_SMM: None,
    }
    keys = {item.keys.reveal() for item in (*answer.associations, fa_ha)}
    assert len(keys) == 4
    assert isinstance(world.answered, AccessAccept)
    seen = delivery.octets + world.answered.registration_reply
    assert not any(key[:16] in seen for key in keys), "a key is readable on the wire"


def test_a_node_offers_pair_1_with_forward_secrecy_by_default() -> None:
    world = World(mn_terms=MnTerms())
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, Registered)
    assert (answer.mn_ha.mode, answer.mn_ha.derivation) == (Mode.STATEFUL, 3)
    assert (answer.mn_fa.mode, answer.mn_fa.derivation) == (Mode.STATEFUL, 0)


def test_formula_5_is_used_where_all_three_allow_it_and_nowhere_else() -> None:
    plan = OfferPlan(Mode.SEMISTATEFUL)
    _, answer = (allowed := negotiating(plan, formula_5=True)).exchange(allowed.agents[0])
    assert isinstance(answer, Registered) and answer.mn_ha.derivation == 1
    careful = negotiating(plan, formula_5=True)
    careful.mn_terms = mn_terms(plan)
    with pytest.raises(ReplyRefused):
        careful.exchange(careful.agents[0])
    pending = careful.request(careful.agents[0])
    relayed = careful.relay(careful.agents[0], pending.octets)
    careful.agents[0]._terms = fa_terms(plan)
    assert careful.deliver(careful.agents[0], relayed, careful.ask_home(relayed)).code == 67


@pytest.mark.parametrize("group", [1, 2, 14, 15, 16, 19, 31])
@pytest.mark.parametrize("raw", [False, True])
def test_pair_1_in_every_group(group: int, raw: bool) -> None:
    plan = OfferPlan(Mode.STATELESS, (group,))
    groups = frozenset({group})
    world = World(
        mn_terms=mn_terms(plan, (Pair.MN_HA,), groups=groups, raw_dh=raw),
        home_terms=home_terms(groups=groups, raw_dh=raw),
    )
    _, answer = world.exchange(world.agents[0])
    if raw and group in (19, 31):
        # 32 octets of Z do not make the 36 of the suite (7.3): not acceptable.
        assert isinstance(answer, DeniedByHome) and answer.is_negotiable
        return
    assert isinstance(answer, Registered)
    assert answer.mn_ha.derivation == (0 if raw else 3)


@pytest.mark.parametrize("group", [1, 2])
def test_a_legacy_group_needs_its_switch(group: int) -> None:
    plan = OfferPlan(Mode.STATELESS, (group,))
    world = World(mn_terms=mn_terms(plan, (Pair.MN_HA,), groups=frozenset({group})))
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, DeniedByHome) and answer.is_negotiable


# --- rounds ---------------------------------------------------------------------------------


def test_a_counter_proposal_of_home_is_taken_in_the_next_request() -> None:
    both = ((GCM,), (CHACHA,))
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_HA,), preferred=both),
        home_terms=home_terms(suites=frozenset({CHACHA}), preferred=((CHACHA,),)),
    )
    delivery, answer = world.exchange(world.agents[0])
    assert isinstance(answer, DeniedByHome) and answer.is_negotiable
    assert delivery.code == 129 and world.store.record.rounds == 1
    counter = answer.counter_proposals[Pair.MN_HA]
    assert counter.proposals[0].number == 2
    world.now += 1
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, Registered) and answer.mn_ha.suites == (CHACHA,)
    assert world.negotiation.standing is Standing.AGREED
    assert world.store.record.rounds == 0


def _single(world: World, suite: Suite) -> PreparedOffer:
    """A first offer of one suite alone, entered into the node's negotiation."""
    policy = Policy(preferred=((suite,),))
    offer = prepare_offer(Pair.MN_HA, policy, OfferPlan(Mode.STATEFUL), History())
    assert offer is not None
    world.negotiation = dataclasses.replace(world.negotiation, standing=Standing.OFFERED)
    return offer


def test_a_counter_proposal_of_the_agent_comes_back_authenticated_by_home() -> None:
    plan = OfferPlan(Mode.STATEFUL)
    world = World(
        mn_terms=mn_terms(plan, (Pair.MN_FA,)),
        fa_terms=fa_terms(None, suites=frozenset({CHACHA}), preferred=((CHACHA,),)),
    )
    delivery, answer = world.exchange(world.agents[0])
    assert isinstance(answer, DeniedByHome) and delivery.code == 129
    counter = answer.counter_proposals[Pair.MN_FA]
    assert [p.transforms[0].transform_id for p in counter.proposals] == [28]
    # The node would not have offered it: its own suites are used up, and it stops.
    assert not world.negotiation.can_offer(world.mn_terms)


def test_a_pair_that_the_agent_leaves_out_is_denied() -> None:
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_FA,)),
        fa_terms=fa_terms(None, suites=frozenset({CHACHA})),
    )
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, DeniedByHome)
    assert answer.is_negotiable and answer.counter_proposals == {}


def test_the_third_failure_in_a_row_is_final_and_a_fourth_begins_anew() -> None:
    world = World(home_terms=home_terms(suites=frozenset({CHACHA})))
    rounds = []
    for _ in range(4):
        world.now += 1
        offers = (_single(world, GCM),)
        delivery, _ = world.exchange_with(world.agents[0], offers)
        rounds.append((delivery.code, world.store.record.rounds))
        world.negotiation = Negotiation()
    assert rounds == [(129, 1), (129, 2), (67, 0), (129, 1)]
    assert world.store.registrations == []


def test_a_suite_that_was_rejected_is_not_offered_again() -> None:
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_HA,), preferred=((GCM,), (HMAC, CBC))),
        home_terms=home_terms(suites=frozenset({CHACHA})),
    )
    offered = []
    for _ in range(2):
        world.now += 1
        assert world.negotiation.can_offer(world.mn_terms)
        offers = world.offers()
        offered += [(p.number, p.transforms[0].transform_id) for p in offers[0].payload.proposals]
        _, answer = world.exchange_with(world.agents[0], offers)
        assert isinstance(answer, DeniedByHome)
    assert offered == [(1, 20), (2, 5), (2, 12)]
    assert not world.negotiation.can_offer(world.mn_terms)
    with pytest.raises(NotAcceptable):
        world.offers()


def test_no_third_request_follows_three_failures() -> None:
    negotiation = Negotiation()
    world = World(mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_HA,)))
    for failures in range(1, 4):
        negotiation = dataclasses.replace(negotiation, histories={})
        negotiation, offers = negotiation.offer(
            world.mn_terms, spi=next_spi(world.node), entropy=world.rng.randbytes
        )
        negotiation = negotiation.refused(offers, {})
        assert negotiation.failures == failures
    assert negotiation.standing is Standing.FAILED
    with pytest.raises(LocalError):
        negotiation.offer(world.mn_terms, spi=256, entropy=world.rng.randbytes)


def test_a_redefinition_is_a_renewal_with_another_offer() -> None:
    world = World(mn_terms=MnTerms())
    _, first = world.exchange(world.agents[0])
    world.now += 10
    world.mn_terms = mn_terms(OfferPlan(Mode.SEMISTATEFUL), preferred=((HMAC, CBC),))
    _, second = world.exchange(world.agents[0])
    assert isinstance(first, Registered) and isinstance(second, Registered)
    assert first.mn_ha.suites == (GCM,) and second.mn_ha.suites == (HMAC, CBC)
    assert {item.keys.reveal() for item in first.associations}.isdisjoint(
        item.keys.reveal() for item in second.associations
    )


def test_the_lowest_lifetime_of_offer_policy_and_registration_holds() -> None:
    plan = OfferPlan(Mode.STATEFUL, lifetime_s=300)
    world = World(mn_terms=mn_terms(plan), home_terms=home_terms(), fa_terms=fa_terms(None))
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, Registered) and answer.lifetime_s == 600
    assert {item.lifetime_s for item in answer.associations} == {300}


# --- duplicates, cost, bad values -------------------------------------------------------------


@by_plan
def test_a_duplicate_gets_the_same_octets_without_another_exponentiation(plan: OfferPlan) -> None:
    world = negotiating(plan)
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    first = world.ask_home(relayed)
    made = world.home.exponentiations
    assert made == (2 if plan.groups else 0)
    for _ in range(5):
        world.now += 1
        assert world.ask_home(relayed) == first
    assert world.home.exponentiations == made and len(world.store.registrations) == 1


def test_a_denial_is_repeated_octet_for_octet_and_counted_once() -> None:
    world = World(mn_terms=MnTerms(), home_terms=home_terms(suites=frozenset({CHACHA})))
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    first = world.ask_home(relayed)
    assert isinstance(first, AccessChallenge)
    world.now += 2
    assert world.ask_home(relayed) == first and world.store.record.rounds == 1


def test_no_exponentiation_before_the_mhae_has_verified() -> None:
    world = negotiating(OfferPlan(Mode.STATELESS, (X25519,)))
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    for flipped in flips(pending.octets):
        tampered = replaced(registration_request=flipped)
        assert isinstance(world.ask_home(relayed, tampered), AccessReject)
    assert world.home.exponentiations == 0


def test_an_agent_makes_no_exponentiation_before_the_access_accept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = negotiating(OfferPlan(Mode.STATELESS, (X25519,)))
    agent = world.agents[0]
    pending = world.request(agent)

    def refuse(*_: object) -> None:
        raise AssertionError("an exponentiation before the Access-Accept")

    with monkeypatch.context() as patch:
        patch.setattr(dh.DhKey, "of", refuse)
        patch.setattr(dh, "agree", refuse)
        patch.setattr(foreign_agent, "unwrap", refuse)
        relayed = world.relay(agent, pending.octets)
        for response in (AccessReject(131), None):
            agent.on_response(relayed, response)
    delivery = world.deliver(agent, relayed, world.ask_home(relayed))
    assert delivery.code == ACCEPTED


def _with_public_value(offer: PreparedOffer, value: bytes) -> PreparedOffer:
    last = offer.payload.proposals[-1]
    ke = last.key_exchanges[0]
    assert isinstance(ke, KeA)
    last = dataclasses.replace(last, key_exchanges=(dataclasses.replace(ke, data=value),))
    payload = SaPayload(offer.payload.pair, (*offer.payload.proposals[:-1], last))
    return PreparedOffer(encode_sa_payload(payload), payload, offer.keys)


P14 = dh.FIXED_GROUPS[14].prime


@pytest.mark.parametrize(
    ("group", "value"),
    [
        pytest.param(14, bytes(256), id="0"),
        pytest.param(14, (1).to_bytes(256, "big"), id="1"),
        pytest.param(14, (P14 - 1).to_bytes(256, "big"), id="P-1"),
        pytest.param(14, P14.to_bytes(256, "big"), id="P"),
        pytest.param(14, (P14 - 2).to_bytes(256, "big"), id="non-residue"),
        pytest.param(31, bytes(32), id="all-zero-X25519"),
        pytest.param(19, b"\x04" + bytes(64), id="off-the-curve"),
    ],
)
def test_a_bad_public_value_is_129_and_spends_the_spi(group: int, value: bytes) -> None:
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATELESS, (group,)), (Pair.MN_HA,)),
        home_terms=home_terms(preferred=((GCM,),)),
    )
    (offer,) = world.offers()
    _, answer = world.exchange_with(world.agents[0], (_with_public_value(offer, value),))
    assert isinstance(answer, DeniedByHome)
    assert answer.is_negotiable and answer.counter_proposals == {}
    assert world.store.record.rounds == 1 and world.store.record.last_spent is not None
    assert world.store.registrations == []


def test_a_value_of_low_order_toward_the_agent_is_passed_over_by_it_and_refused_by_home() -> None:
    plan = OfferPlan(Mode.STATELESS, (X25519,))
    world = World(mn_terms=mn_terms(plan, (Pair.MN_FA,)), fa_terms=fa_terms(None))
    (offer,) = world.offers()
    bad = _with_public_value(offer, bytes(32))
    agent = world.agents[0]
    pending = world.request(agent, offers=(bad,))
    relayed = world.relay(agent, pending.octets)
    assert relayed.access.fa_sa_payload == b""
    # An agent that takes it all the same finds home in its way.
    (good,) = decode_fa_sa_payloads(
        world.relay(
            world.agents[1], world.request(world.agents[1], offers=(offer,)).octets
        ).access.fa_sa_payload
    ).values()
    ours = _agents_key(agent)
    answer = PreparedOffer(good.octets, good.payload)
    forged = _with_public_value(answer, ours).octets
    response = world.ask_home(relayed, replaced(fa_sa_payload=forged))
    assert isinstance(response, AccessChallenge) and response.registration_reply[1] == 129


def _agents_key(agent: ForeignAgent) -> bytes:
    return agent._keys[0].key.public_key


# --- a hub in attribute 5 ---------------------------------------------------------------------


def _stripped(access: AccessRequest) -> AccessRequest:
    return dataclasses.replace(access, fa_sa_payload=b"")


@by_plan
def test_no_flipped_octet_of_attribute_5_gets_a_key_installed(plan: OfferPlan) -> None:
    world = negotiating(plan)
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    record, stored = world.store.record, world.store.stored
    for flipped in flips(relayed.access.fa_sa_payload):
        world.store.stored = stored  # each on a fresh record
        response = world.ask_home(relayed, replaced(fa_sa_payload=flipped))
        delivery = world.deliver(agent, relayed, response)
        assert delivery.associations == ()
    assert world.store.record.record_id == record.record_id


def test_a_hub_that_strips_the_agents_answers_is_refused() -> None:
    world = negotiating(OfferPlan(Mode.STATEFUL))
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    response = world.ask_home(relayed, _stripped)
    assert isinstance(response, AccessChallenge) and response.registration_reply[1] == 129


def test_a_hub_with_a_value_of_its_own_for_the_agent_is_refused_by_the_channel_binding() -> None:
    world = negotiating(OfferPlan(Mode.STATELESS, (X25519,)))
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    own = dh.DhKey.of(dh.FIXED_GROUPS[X25519], Secret(bytes(31) + b"\x07")).public_value
    swapped = relayed.access.fa_sa_payload.replace(_agents_key(agent), own)
    assert swapped != relayed.access.fa_sa_payload
    response = world.ask_home(relayed, replaced(fa_sa_payload=swapped))
    assert response == AccessReject(132)


@by_plan
def test_no_flipped_octet_of_a_reply_is_installed(plan: OfferPlan) -> None:
    world = negotiating(plan)
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    accept = world.ask_home(relayed)
    assert isinstance(accept, AccessAccept)
    for flipped in flips(accept.registration_reply):
        response = dataclasses.replace(accept, registration_reply=flipped)
        delivery = agent.on_response(relayed, response)
        assert delivery.associations == () and delivery.code == 67
    good = world.deliver(agent, relayed, accept)
    for flipped in flips(good.octets):
        try:
            answer = world.accept(pending, flipped)
        except RemoteError:
            continue
        assert isinstance(answer, HintFromFa)
    assert isinstance(world.accept(pending, good.octets), Registered)


def test_a_handoff_makes_new_keys_at_the_second_agent() -> None:
    world = World(mn_terms=MnTerms())
    deliveries: list[Delivery] = []
    for agent in world.agents:
        world.now += 5
        delivery, answer = world.exchange(agent)
        assert isinstance(answer, Registered)
        deliveries.append(delivery)
    first, second = ({a.keys.reveal() for a in d.associations} for d in deliveries)
    assert first.isdisjoint(second)
    assert world.store.record.current_fa == world.agents[1].identity.nai


def test_nothing_offered_is_the_homes_default() -> None:
    world = World(
        mn_terms=NO_OFFERS,
        home_terms=HomeTerms(
            dict(DEFAULT_TERMS.policies) | {Pair.MN_FA: Policy(default_mode=Mode.SEMISTATEFUL)},
            (GCM,),
        ),
    )
    _, answer = world.exchange(world.agents[0])
    assert isinstance(answer, Registered)
    assert (answer.mn_ha.mode, answer.mn_fa.mode) == (Mode.STATEFUL, Mode.SEMISTATEFUL)
