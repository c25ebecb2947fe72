"""What an eavesdropper at two foreign agents sees of one subscriber: nothing that comes twice."""

from __future__ import annotations

from collections import Counter

from aaa.exchange import AccessAccept, AccessReject
from aaa.roles.mobile_node import Registered, accept_reply
from kdc.model import DEFAULT_VENDOR_ID
from kdc.wire.parts import Part
from kdc.wire.registration import (
    decode_reply_for_mn,
    decode_request,
)
from tests.protocol.world import World

VISITS = 100
LOST_REPLIES = 0.2
_WINDOW_OCTETS = 6


def _sealed(part: Part) -> list[bytes]:
    return [extension.info for extension in part.extensions.values() if extension.sealed]


def _windows(octets: bytes) -> set[bytes]:
    return {octets[i : i + _WINDOW_OCTETS] for i in range(len(octets) - _WINDOW_OCTETS + 1)}


def test_a_hundred_visits_have_nothing_in_common_but_realm_and_home_agent() -> None:
    world = World(seed=20)
    spis: Counter[int] = Counter()
    identifications: Counter[bytes] = Counter()
    windows: Counter[bytes] = Counter()
    constants: set[tuple[str, object]] = set()
    lost = registered = 0
    for visit in range(VISITS):
        world.now += 30 + world.rng.random() * 30
        agent = world.agents[visit % 2]
        pending = world.request(agent)
        response, delivery = world.accepted(agent, pending)
        request = decode_request(pending.octets, DEFAULT_VENDOR_ID)
        reply = decode_reply_for_mn(delivery.octets, DEFAULT_VENDOR_ID)
        assert reply.mhae is not None and reply.mfae is not None
        spis.update({request.mhae.spi, reply.mfae.spi})
        identifications[request.identification] += 1
        seen = {request.mhae.digest, reply.mhae.digest, reply.mfae.digest}
        seen |= {*_sealed(request.part), *_sealed(reply.part)}
        windows.update(set().union(*map(_windows, seen)))
        constants |= {
            ("realm", request.realm),
            ("home agent", request.home_agent),
            ("home address", reply.home_address),
            ("lifetime", request.lifetime_s),
            ("flags", request.flags),
        }
        if world.rng.random() < LOST_REPLIES:
            lost += 1
            continue
        registered += 1
        world.node, answer = accept_reply(world.node, pending, delivery.octets, now=world.now)
        assert isinstance(answer, Registered) and isinstance(response, AccessAccept)
    assert lost > 10 and registered > 60
    assert max(spis.values()) == 1, "an SPI was seen at two visits"
    assert max(identifications.values()) == 1
    assert max(windows.values()) == 1, "sealed or authenticated octets were seen twice"
    # Hidden home address: what is constant says which home, never who.
    assert len(constants) == 5


def test_a_recorded_request_has_one_outcome_whenever_it_is_replayed() -> None:
    world = World(seed=21)
    agent = world.agents[0]
    recorded = world.request(agent)
    relayed = world.relay(agent, recorded.octets)
    world.deliver(agent, relayed, world.ask_home(relayed))
    outcomes = set()
    for visit in range(VISITS):
        world.now += 30
        pending = world.request(world.agents[visit % 2])
        _, delivery = world.accepted(world.agents[visit % 2], pending)
        if world.rng.random() >= LOST_REPLIES:
            world.node, _ = accept_reply(world.node, pending, delivery.octets, now=world.now)
        replayed = world.ask_home(relayed)
        assert isinstance(replayed, AccessReject)
        outcomes.add(replayed)
    assert outcomes == {AccessReject(131)}
    assert len(world.store.registrations) == VISITS + 1


def test_the_alias_of_each_visit_is_another() -> None:
    world = World(seed=22)
    aliases = set()
    for visit in range(10):
        world.now += 30
        pending = world.request(world.agents[visit % 2])
        response, delivery = world.accepted(world.agents[visit % 2], pending)
        aliases.add(str(response.user_name))
        world.node, _ = accept_reply(world.node, pending, delivery.octets, now=world.now)
    assert len(aliases) == 10
