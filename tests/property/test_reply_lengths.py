"""How long a reply can become is known before anything is computed for it, and never too little.

The real replies are those of the roles themselves, for offers of every kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from aaa.exchange import AccessAccept, AccessChallenge, AccessResponse
from aaa.roles import home_agent
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent_terms import HomeTerms, count_reply_octets
from kdc.crypto.dh import FIXED_GROUPS, USER_DEFINED, DhGroup, DhKey, DhShare, user_group
from kdc.model import Mode, Pair, Secret, Suite
from kdc.negotiation import History, OfferPlan, Policy, PreparedOffer, prepare_offer
from kdc.wire.numbers import MAXIMUM_MESSAGE_OCTETS
from kdc.wire.payloads import (
    KeA,
    KeC,
    KeyExchange,
    SaPayload,
    encode_sa_payload,
)
from tests.property.negotiation_offers import KE_C_SPI, ROWS, Choices, make_offer
from tests.protocol.test_negotiated_cycle import home_terms, mn_terms
from tests.protocol.world import World, replaced

ANY_GROUP = frozenset({1, 2, 14, 15, 16, 19, 31})
LONG_SUITES = (Suite(1, 7), Suite(2, 12))
EVERYTHING = Policy(
    suites=frozenset({*LONG_SUITES, Suite(1, 5), Suite(3, 20), Suite(3, 28)}),
    groups=ANY_GROUP,
    user_groups=True,
    fa_dh_any=True,
    preferred=(LONG_SUITES,),
)


@contextmanager
def counted() -> Iterator[list[int]]:
    """The lengths that the home agent counts meanwhile."""
    lengths: list[int] = []

    def count(*args: object, **kwargs: object) -> int:
        lengths.append(count_reply_octets(*args, **kwargs))  # type: ignore[arg-type]
        return lengths[-1]

    with patch.object(home_agent, "count_reply_octets", count):
        yield lengths


def long_realm(octets: int) -> str:
    return "r" * (octets - len(".example")) + ".example"


class AnyWorld(World):
    """A world whose home side answers every public value with one of the group's length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wanted: list[DhGroup] = []
        self.home._conclude = self._conclude  # type: ignore[method-assign]

    def _conclude(self, agreeable: home_agent.Agreeable) -> home_agent.Grant | home_agent.Deny:
        shares: dict[Pair, DhShare | None] = {}
        for wanted in agreeable.exponentiations:
            self.wanted.append(wanted.group)
            value = b"\x07" * wanted.group.value_octets
            shares[wanted.pair] = DhShare(value, Secret(bytes(wanted.group.shared_octets)))
        return self.home.registrar.home_agent.conclude(agreeable, shares)


def fitted(pair: Pair, offer: SaPayload, *, x25519: bytes, spi: int) -> PreparedOffer:
    """A random offer as one of this exchange: its pair, its SPI, the agent's key."""

    def fit(ke: KeyExchange) -> KeyExchange:
        if isinstance(ke, KeA) and ke.group == 31 and len(ke.data) == 32:
            return dataclasses.replace(ke, data=x25519)
        if isinstance(ke, KeC) and ke.spi == KE_C_SPI:
            return dataclasses.replace(ke, spi=spi)
        return ke

    proposals = tuple(
        dataclasses.replace(item, key_exchanges=tuple(map(fit, item.key_exchanges)))
        for item in offer.proposals
    )
    payload = SaPayload(pair, proposals)
    return PreparedOffer(encode_sa_payload(payload), payload)


def asked(world: World, row: bytes, pairs: set[Pair], realm: str) -> AccessResponse | None:
    """Home's answer to a request with random offers for these pairs."""
    choices, key = Choices(row), world.agents[0]._keys[0]
    spi = world.node.enrolment.spis[0]
    offers = {
        pair: fitted(
            pair,
            make_offer(choices),
            x25519=key.key.public_key,
            spi=key.spi if pair is Pair.FA_HA else spi,
        )
        for pair in sorted(pairs)
    }
    own = offers.pop(Pair.FA_HA, None)
    return asked_with(world, tuple(offers.values()), realm, own)


def asked_with(
    world: World,
    offers: tuple[PreparedOffer, ...],
    realm: str,
    fa_ha: PreparedOffer | None = None,
) -> AccessResponse | None:
    """The same with these, the agent's own beside them; None for a request that is too long."""
    agent = world.agents[0]
    enrolment = dataclasses.replace(world.node.enrolment, realm=realm)
    world.node = dataclasses.replace(world.node, enrolment=enrolment)
    pending = world.request(agent, offers=offers)
    if len(pending.octets) > MAXIMUM_MESSAGE_OCTETS:
        return None
    relayed = world.relay(agent, pending.octets)
    sa_payload = relayed.access.fa_sa_payload + (fa_ha.octets if fa_ha is not None else b"")
    changes = {
        "realm": world.policy.realm,  # what it is routed by, and the home side asks for
        "fa_public_keys": (agent._keys[0].attribute_3,),
        "fa_sa_payload": sa_payload,
    }
    return world.ask_home(relayed, replaced(**changes))


@settings(max_examples=1000, deadline=None)
@given(
    ROWS,
    st.sets(st.sampled_from(sorted(Pair))),
    st.sampled_from([12, 60, 200, 252]),
    st.sampled_from(list(Mode)),
)
def test_a_reply_is_never_longer_than_was_counted_before_it(
    row: bytes, pairs: set[Pair], realm_octets: int, mode: Mode
) -> None:
    policy = dataclasses.replace(EVERYTHING, default_mode=mode)
    if mode is Mode.STATELESS:
        policy = dataclasses.replace(policy, default_mode=Mode.SEMISTATEFUL)
    world = AnyWorld(
        home_terms=HomeTerms(dict.fromkeys(Pair, policy), LONG_SUITES),
        fa_terms=FaTerms(dict.fromkeys(Pair, policy), None, (14, 19)),
    )
    with counted() as lengths:
        response = asked(world, row, pairs, long_realm(realm_octets))
    if not isinstance(response, AccessAccept):
        event("denied")
        return
    real = len(response.registration_reply)
    assert real <= MAXIMUM_MESSAGE_OCTETS
    if not lengths:
        event("nothing answered")
        return
    (counted_before,) = lengths
    event("answered")
    assert real <= counted_before <= MAXIMUM_MESSAGE_OCTETS
    assert counted_before - real < 700  # else what would fit were refused


@pytest.mark.parametrize("group", sorted(ANY_GROUP))
def test_a_real_public_value_has_the_length_that_was_counted_with(group: int) -> None:
    groups = frozenset({group})
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATEFUL, (group,)), (Pair.MN_HA,), groups=groups),
        home_terms=home_terms(groups=groups),
    )
    with counted() as lengths:
        world.exchange(world.agents[0])
    assert isinstance(world.answered, AccessAccept) and world.home.exponentiations == 1
    assert len(world.answered.registration_reply) <= lengths[0]


def offer_in(pair: Pair, group: DhGroup) -> PreparedOffer:
    """An offer with some value of this group, which is never computed with."""
    plan = OfferPlan(Mode.STATEFUL, (), group) if group.number == USER_DEFINED else None
    key = DhKey(group, Secret(b""), b"\x07" * group.value_octets)
    plan = plan or OfferPlan(Mode.STATEFUL, (group.number,))
    offer = prepare_offer(pair, EVERYTHING, plan, History(), keys=(key,))
    assert offer is not None
    return offer


def test_a_reply_that_would_be_too_long_is_denied_before_any_exponentiation() -> None:
    own = user_group((2**4096 - 1).to_bytes(512, "big"), b"\x02")
    world = AnyWorld(
        home_terms=HomeTerms(dict.fromkeys(Pair, EVERYTHING), LONG_SUITES),
        fa_terms=FaTerms(dict.fromkeys(Pair, EVERYTHING), None, (15,)),
    )
    agent, large = world.agents[0], FIXED_GROUPS[15]
    offers = (
        offer_in(Pair.MN_HA, own),
        offer_in(Pair.MN_FA, large),
        offer_in(Pair.MN_SMM, large),
    )
    pending = world.request(agent, offers=offers)
    relayed = world.relay(agent, pending.octets)
    assert len(pending.octets) < MAXIMUM_MESSAGE_OCTETS
    with counted() as lengths:
        response = world.ask_home(relayed)
    assert lengths and lengths[0] > MAXIMUM_MESSAGE_OCTETS
    assert isinstance(response, AccessChallenge) and response.registration_reply[1] == 129
    assert world.wanted == []
    assert world.store.record.rounds == 1 and world.store.registrations == []
    world.now += 1
    fewer = world.request(agent, offers=offers[:1])
    assert isinstance(world.ask_home(world.relay(agent, fewer.octets)), AccessAccept)
    assert world.wanted == [own]


def test_a_message_that_names_its_realm_at_length_is_answered_at_that_length() -> None:
    """The alias has the realm of the policy; the 131 of a reply has that of the request."""
    realms = ("home.example", long_realm(240))
    real, before = [], []
    for realm in realms:
        world = AnyWorld(home_terms=home_terms())
        with counted() as lengths:
            response = asked_with(world, (offer_in(Pair.MN_HA, FIXED_GROUPS[31]),), realm)
        assert isinstance(response, AccessAccept)
        real.append(len(response.registration_reply))
        before += lengths
    assert real[1] - real[0] == before[1] - before[0] == len(realms[1]) - len(realms[0])


def test_a_reply_without_an_answer_always_fits() -> None:
    """So that nothing is counted for what nobody negotiates."""
    policy = dataclasses.replace(EVERYTHING, default_mode=Mode.STATEFUL)
    home = HomeTerms(dict.fromkeys(Pair, policy), LONG_SUITES)
    terms = tuple(outline.terms for outline in home.defaults(600, named=True))
    longest = count_reply_octets(terms, nai_octets=253, policy_realm_octets=234, realm_octets=253)
    assert longest <= MAXIMUM_MESSAGE_OCTETS
