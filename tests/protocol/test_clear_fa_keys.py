"""Where `fa_keys = clear` is granted: the FA's part is in the clear, and a KE-a 240 may carry KEY2.

PROTOCOL sections 6 and 8.
"""

from __future__ import annotations

import dataclasses

import pytest

from aaa.exchange import AccessAccept, AccessReject, Peer
from aaa.roles.foreign_agent import Delivery, ForeignAgent
from aaa.roles.mobile_node import Registered
from kdc.model import Mode, Pair
from kdc.negotiation import OfferPlan
from kdc.wire.payloads import KE_SECRET, KeA
from kdc.wire.registration import decode_reply_for_fa
from tests.protocol.test_negotiated_cycle import GCM, fa_terms
from tests.protocol.world import VISITED, World

GRANTED = dataclasses.replace(VISITED, clear_fa_keys=True)
CLEAR = OfferPlan(Mode.STATEFUL, in_the_clear=True)


def _agent(world: World, plan: OfferPlan | None) -> ForeignAgent:
    identity = dataclasses.replace(world.agents[0].identity, clear_keys=True)
    return ForeignAgent(identity, fa_terms(plan, preferred=((GCM,),)))


def _register(world: World, agent: ForeignAgent, peer: Peer) -> tuple[AccessAccept, Delivery]:
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    response = world.home.handle(relayed.access, peer, world.now).response
    assert isinstance(response, AccessAccept)
    delivery = world.deliver(agent, relayed, response)
    answer = world.accept(pending, delivery.octets)
    assert isinstance(answer, Registered) and answer.mn_fa in delivery.associations
    return response, delivery


@pytest.mark.parametrize("mode", [Mode.STATEFUL, Mode.SEMISTATEFUL])
def test_the_secret_of_key2_stands_in_the_answer_and_there_alone(mode: Mode) -> None:
    world = World()
    agent = _agent(world, dataclasses.replace(CLEAR, mode=mode))
    accept, delivery = _register(world, agent, GRANTED)
    assert accept.fa_wrapped_key is None
    reply = decode_reply_for_fa(accept.registration_reply, 32473, fa_spi=None)
    assert reply.fa_part is not None
    (ke,) = reply.fa_part.sa_payloads[Pair.FA_HA].payload.proposals[0].key_exchanges
    assert isinstance(ke, KeA) and ke.group == KE_SECRET
    assert len(ke.data) == (36 if mode is Mode.STATEFUL else 32)
    assert accept.registration_reply.count(ke.data) == 1
    registration = world.store.registrations[0].registration
    assert registration is not None
    stored = {item.pair: item.keys for item in registration.associations}
    fa_ha = next(item for item in delivery.associations if item.pair is Pair.FA_HA)
    assert stored[Pair.FA_HA] == fa_ha.keys and fa_ha.mode is mode


def test_without_an_offer_the_secret_stands_in_the_sa_info() -> None:
    world = World()
    _, delivery = _register(world, _agent(world, None), GRANTED)
    assert [item.pair for item in delivery.associations] == [Pair.FA_HA, Pair.MN_FA]


def test_what_is_not_granted_is_refused() -> None:
    world = World()
    agent = _agent(world, CLEAR)
    relayed = world.relay(agent, world.request(agent).octets)
    assert world.home.handle(relayed.access, VISITED, world.now).response == AccessReject(132)
    assert world.store.registrations == []


def test_an_agent_with_a_key_asks_in_vain_for_its_secret_in_the_clear() -> None:
    world = World(fa_terms=fa_terms(CLEAR, preferred=((GCM,),)))
    agent = world.agents[0]
    _, delivery = _register(world, agent, GRANTED)
    assert {item.pair for item in delivery.associations} == {Pair.FA_HA, Pair.MN_FA}
    relayed = world.relay(agent, world.request(agent).octets)
    response = world.home.handle(relayed.access, GRANTED, world.now).response
    assert isinstance(response, AccessAccept) and response.fa_wrapped_key is not None
    spi = int.from_bytes(response.fa_wrapped_key[:4], "big")
    reply = decode_reply_for_fa(response.registration_reply, 32473, fa_spi=spi)
    assert reply.fa_part is not None
    answered = reply.fa_part.sa_payloads[Pair.FA_HA].payload
    assert all(proposal.key_exchanges == () for proposal in answered.proposals)
