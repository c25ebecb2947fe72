"""A foreign agent's seeds cannot produce KEY1 (PROTOCOL 7.2: one seed per pair).

The agent tries both derivations of section 7.2, written here from the page, over all that it has
opened, holds or has seen, and is even told the SPI and the name of KEY1.
"""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from aaa.exchange import AccessAccept
from aaa.roles.foreign_agent import Delivery, Relayed
from aaa.roles.mobile_node import Registered
from kdc.model import Mode, Pair, Secret, SecurityAssociation
from kdc.negotiation import OfferPlan
from kdc.sealing import open_extension
from kdc.wire import numbers
from kdc.wire.association import decode_sa_info
from tests.protocol.resealed import read_reply, wrapping_seal
from tests.protocol.test_negotiated_cycle import GCM, fa_terms, home_terms, mn_terms
from tests.protocol.world import NO_OFFERS, VISITED, World

REGISTRATIONS = 12
KEY_OCTETS = 96  # more than any KEY1 of these tests has
Name = tuple[bytes, bytes]  # NAI and packed address


def formula_5(seed: bytes, responder: Name, initiator: Name) -> bytes:
    s = responder[0] + initiator[0] + responder[1] + initiator[1]
    block = keys = hmac.digest(seed, s, "sha256")
    for n in itertools.count(2):
        if len(keys) >= KEY_OCTETS:
            return keys
        block = hmac.digest(seed, block + s + bytes([n]), "sha256")
        keys += block
    raise AssertionError


def sp800_108(
    seed: bytes, association: bytes, responder: Name, initiator: Name, bits: int
) -> bytes:
    """`association` is pair(1) | SPI(4) | Key-Name(8)."""
    context = association
    for part in (responder[0], initiator[0], responder[1], initiator[1]):
        context += bytes([len(part)]) + part
    fixed = b"roamkey semi v1\0" + context + bits.to_bytes(4, "big")
    blocks = (n.to_bytes(4, "big") + fixed for n in range(1, 2 + bits // 256))
    return b"".join(hmac.digest(seed, block, "sha256") for block in blocks)


@dataclass
class Known:
    """What the agent has of one registration, sorted by what it can serve for."""

    seeds: set[bytes]
    spis: set[int]
    names: set[bytes]
    parties: set[Name]
    seen: list[bytes]

    def candidates(self, key_bits: int) -> Iterator[bytes]:
        ordered = list(itertools.permutations(self.parties, 2))
        lengths = {key_bits, 288, 544}
        for seed, (responder, initiator) in itertools.product(self.seeds, ordered):
            yield formula_5(seed, responder, initiator)
            for pair, spi, name in itertools.product((1, 2, 3, 4), self.spis, self.names):
                association = bytes([pair]) + spi.to_bytes(4, "big") + name
                for bits in lengths:
                    yield sp800_108(seed, association, responder, initiator, bits)


def known_to_the_agent(
    world: World, relayed: Relayed, accept: AccessAccept, delivery: Delivery
) -> Known:
    """Everything that it opened with W, holds, or saw in the clear."""
    agent = world.agents[0]
    seal, reply = wrapping_seal(agent, accept), read_reply(accept)
    assert reply.fa_part is not None and accept.fa_wrapped_key is not None
    opened = {
        kind: open_extension(seal, extension, reply.fixed_header)
        for kind, extension in reply.fa_part.extensions.items()
    }
    infos = [
        decode_sa_info(opened[kind], pair)
        for kind, pair in ((numbers.SA_FA_HA, Pair.FA_HA), (numbers.SA_MN_FA, Pair.MN_FA))
    ]
    keys = [item.keys.reveal() for item in delivery.associations]
    w = seal_key(world, accept)
    fragments = [info.secret.reveal() for info in infos] + keys + [w, agent_key(world)]
    seeds = {fragment[start : start + 32] for fragment in fragments for start in (0, 32)}
    address = agent.identity.care_of_address.packed
    return Known(
        seeds={seed for seed in seeds if seed} | {bytes(32)},
        spis={*(info.spi for info in infos), relayed.request.mhae.spi},
        names={info.key_name for info in infos},
        parties={
            (
                opened[numbers.NAI_MN],
                delivery.home_address.packed if delivery.home_address else b"",
            ),
            (opened[numbers.NAI_HA], reply.home_agent.packed),
            (agent.identity.nai.octets, address),
        },
        seen=[
            relayed.access.registration_request,
            relayed.access.fa_sa_payload,
            accept.registration_reply,
            accept.fa_wrapped_key,
            delivery.octets,
            *opened.values(),
            *keys,
            w,
        ],
    )


def seal_key(world: World, accept: AccessAccept) -> bytes:
    """W, as the home side has it for this agent."""
    (found,) = (
        key.w.reveal()
        for _, key in world.home.center._wrapping_keys._keys.values()
        if key.wrapped == accept.fa_wrapped_key
    )
    return found


def agent_key(world: World) -> bytes:
    return world.agents[0]._keys[0].key.private_key.reveal()


def _find(key1: SecurityAssociation, known: Known) -> bool:
    """Whether any 16 octets in a row of KEY1 stand in what can be computed or was seen."""
    octets = key1.keys.reveal()
    windows = [octets[start : start + 16] for start in range(len(octets) - 15)]
    if any(window in seen for window in windows for seen in known.seen):
        return True
    return any(
        window in candidate for candidate in known.candidates(8 * len(octets)) for window in windows
    )


def _register(world: World) -> tuple[SecurityAssociation, Known, Secret]:
    """One registration: KEY1, what the agent knows, and the seed of KEY1 that it does not."""
    agent = world.agents[0]
    world.now += 7
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    handled = world.home.handle(relayed.access, VISITED, world.now)
    assert isinstance(handled.response, AccessAccept) and handled.issued is not None
    delivery = world.deliver(agent, relayed, handled.response)
    answer = world.accept(pending, delivery.octets)
    assert isinstance(answer, Registered) and answer.mn_ha.mode is Mode.SEMISTATEFUL
    known = known_to_the_agent(world, relayed, handled.response, delivery)
    # It is told even what home sealed for the node alone, all but the seed.
    known.spis.add(answer.mn_ha.spi)
    known.names.add(answer.mn_ha.key_name)
    issued = handled.issued.find(Pair.MN_HA)
    assert issued is not None
    return answer.mn_ha, known, issued.secret


SEMISTATEFUL = OfferPlan(Mode.SEMISTATEFUL)


def _world(seed: int, *, negotiated: bool, formula: bool) -> World:
    policy = {"formula_5": formula, "default_mode": Mode.SEMISTATEFUL}
    return World(
        seed=seed,
        mn_terms=mn_terms(SEMISTATEFUL, (Pair.MN_HA, Pair.MN_FA), **policy)
        if negotiated
        else replace(NO_OFFERS, policies=mn_terms(SEMISTATEFUL, (), **policy).policies),
        fa_terms=fa_terms(SEMISTATEFUL if negotiated else None, preferred=((GCM,),), **policy),
        home_terms=home_terms(**policy),
    )


@pytest.mark.parametrize("negotiated", [False, True], ids=["by-default", "negotiated"])
@pytest.mark.parametrize("formula", [False, True], ids=["derivation-2", "derivation-1"])
def test_nothing_that_an_agent_has_leads_to_key1(negotiated: bool, formula: bool) -> None:
    key_names = set()
    for seed in range(REGISTRATIONS // 4):
        world = _world(seed, negotiated=negotiated, formula=formula)
        remembered: set[bytes] = set()
        for _ in range(4):
            key1, known, its_seed = _register(world)
            assert key1.derivation == (1 if formula else 2)
            remembered |= known.seeds  # of earlier registrations too
            known.seeds |= remembered
            assert not _find(key1, known)
            # With the seed alone added it would: the search is able to find.
            known.seeds.add(its_seed.reveal())
            assert _find(key1, known)
            key_names.add(key1.key_name)
    assert len(key_names) == REGISTRATIONS


def test_the_agents_own_keys_are_what_its_seeds_make() -> None:
    """The derivations written here are those of the product."""
    for formula in (False, True):
        world = _world(7, negotiated=False, formula=formula)
        agent = world.agents[0]
        pending = world.request(agent)
        relayed = world.relay(agent, pending.octets)
        accept = world.ask_home(relayed)
        assert isinstance(accept, AccessAccept)
        delivery = world.deliver(agent, relayed, accept)
        known = known_to_the_agent(world, relayed, accept, delivery)
        assert _find(delivery.associations[0], replace(known, seen=[]))
