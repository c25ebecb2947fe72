"""What a receiver refuses of an SA-INFO (PROTOCOL 4.2), mobile node and foreign agent alike.

The home of these tests seals it in a reply of which everything else is right.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from aaa.exchange import AccessAccept
from aaa.roles.foreign_agent import Delivery, ForeignAgent, Relayed
from aaa.roles.mobile_node import Pending, Registered
from kdc.errors import Malformed, RemoteError
from kdc.model import Mode, Pair
from kdc.negotiation import DEFAULT_POLICY_SUITES, NULL, OfferPlan
from kdc.wire.association import KIND_OF_PAIR, decode_sa_info
from tests.protocol.resealed import Change, reseal_for_fa, reseal_for_mn, swap_answer
from tests.protocol.test_negotiated_cycle import fa_terms, home_terms, mn_terms
from tests.protocol.world import World

MN_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)
FA_PAIRS = (Pair.FA_HA, Pair.MN_FA, Pair.MN_SMM)
LIFETIME_S = 600
STATEFUL = OfferPlan(Mode.STATEFUL)
HEAD = struct.Struct(">II8sBBBB")


@dataclass
class Story:
    """One registration up to the Access-Accept, with all four pairs where they are offered."""

    world: World
    agent: ForeignAgent
    pending: Pending
    relayed: Relayed
    accept: AccessAccept

    @classmethod
    def of(
        cls, plan: OfferPlan | None, pairs: tuple[Pair, ...] = MN_PAIRS, **policy: object
    ) -> Story:
        """`plan` is for `pairs`, and with all of them for FA-HA; None: nothing is offered."""
        world = World(
            mn_terms=mn_terms(plan or STATEFUL, pairs if plan else (), **policy),
            fa_terms=fa_terms(
                plan if pairs == MN_PAIRS else None, **{"preferred": ((SUITE,),), **policy}
            ),
            home_terms=home_terms(**policy),
        )
        agent = world.agents[0]
        pending = world.request(agent, lifetime_s=LIFETIME_S)
        relayed = world.relay(agent, pending.octets)
        accept = world.ask_home(relayed)
        assert isinstance(accept, AccessAccept)
        return cls(world, agent, pending, relayed, accept)

    def deliver(self) -> Delivery:
        return self.world.deliver(self.agent, self.relayed, self.accept)

    def node_takes(self, pair: Pair, info: Info) -> bool:
        delivery = self.deliver()
        mn_fa = next(item for item in delivery.associations if item.pair is Pair.MN_FA)
        octets = reseal_for_mn(self.accept, self.pending, KIND_OF_PAIR[pair], info.change, mn_fa)
        before = self.world.node
        try:
            answer = self.world.accept(self.pending, octets)
        except RemoteError:
            assert self.world.node == before
            return False
        return isinstance(answer, Registered)

    def agent_takes(self, pair: Pair, info: Info) -> bool:
        response = reseal_for_fa(
            self.agent, self.relayed, self.accept, KIND_OF_PAIR[pair], info.change
        )
        delivery = self.agent.on_response(self.relayed, response)
        assert (delivery.code == 0) == bool(delivery.associations)
        assert delivery.code in (0, 67)
        return delivery.code == 0


@dataclass(frozen=True)
class Info:
    """What is changed of an SA-INFO; None stays as it is."""

    spi: int | None = None
    lifetime: int | None = None
    mode: int | None = None
    derivation: int | None = None
    count: int | None = None
    reserved: int = 0
    suites: str | None = None
    secret: int | None = None  # another length
    secret_length: int = 0  # Secret-Length tells so many more
    tail: bytes = b""
    cut: int | None = None

    def change(self, octets: bytes) -> bytes:
        spi, lifetime, name, mode, derivation, count, _ = HEAD.unpack(octets[: HEAD.size])
        suites = octets[HEAD.size : HEAD.size + 2 * count]
        secret = octets[HEAD.size + 2 * count + 2 :]
        if self.suites is not None:
            suites = bytes.fromhex(self.suites)
            count = len(suites) // 2
        if self.secret is not None:
            secret = (secret * 8)[: self.secret] if secret else bytes(self.secret)
        head = HEAD.pack(
            spi if self.spi is None else self.spi,
            lifetime if self.lifetime is None else self.lifetime,
            name,
            mode if self.mode is None else self.mode,
            derivation if self.derivation is None else self.derivation,
            count if self.count is None else self.count,
            self.reserved,
        )
        told = (len(secret) + self.secret_length).to_bytes(2, "big")
        return (head + suites + told + secret + self.tail)[: self.cut]


SUITE = home_terms().suites[0]
# Of a stateful SA with AES-256-GCM, negotiated or by default: 36 octets, pair 2's 68.
REFUSED = {
    "SPI 0": Info(spi=0),
    "SPI 255": Info(spi=255),
    "lifetime 0": Info(lifetime=0),
    "lifetime 2^32-1": Info(lifetime=2**32 - 1),
    "lifetime above the registration's": Info(lifetime=LIFETIME_S + 1),
    "mode 0": Info(mode=0),
    "mode 4": Info(mode=4),
    "mode 1, derivation 0": Info(mode=1, derivation=0),
    "mode 1, derivation 1": Info(mode=1, derivation=1),
    "mode 1, derivation 2": Info(mode=1, derivation=2),
    "mode 1, derivation 3": Info(mode=1, derivation=3, secret=32),
    "mode 1, derivation 3, no secret": Info(mode=1, derivation=3, secret=0),
    "mode 2, derivation 1": Info(derivation=1),
    "mode 2, derivation 2": Info(derivation=2),
    "mode 2, derivation 3": Info(derivation=3, secret=32),
    "mode 2, derivation 4": Info(derivation=4),
    "mode 3, derivation 0": Info(mode=3, derivation=0, secret=32),
    "mode 3, derivation 1 without formula_5": Info(mode=3, derivation=1, secret=32),
    "mode 3, derivation 3": Info(mode=3, derivation=3, secret=32),
    "mode 3, derivation 4": Info(mode=3, derivation=4, secret=32),
    "no suite": Info(suites=""),
    "5 suites": Info(suites="0105020c0314031c0107"),
    "a suite less than counted": Info(count=2),
    "an unknown suite": Info(suites="0363"),
    "a protocol of nobody": Info(suites="0914"),
    "a protocol twice": Info(suites="0314031c", secret=72),
    "a legacy suite": Info(suites="0101", secret=16),
    "NULL alone": Info(suites="020b", secret=0),
    "NULL beside an AEAD": Info(suites="0314020b"),
    "reserved octet": Info(reserved=1),
    "no secret": Info(secret=0),
    "a secret of 35 octets": Info(secret=35),
    "a secret of 37 octets": Info(secret=37),
    "a seed for a stateful SA": Info(secret=32),
    "Secret-Length above": Info(secret_length=1),
    "Secret-Length below": Info(secret_length=-1),
    "an octet too many": Info(tail=b"\0"),
    "an octet too few": Info(cut=-1),
    "a head alone": Info(cut=22),
}
# What a default of the home may be, and what a negotiated SA may not change into.
BY_DEFAULT = {
    "another suite of the policy": Info(suites="031c"),
    "two suites of the policy": Info(suites="0105020c"),
    "semi-stateful": Info(mode=3, derivation=2, secret=32),
}

refused = pytest.mark.parametrize(
    "info", REFUSED.values(), ids=[k.replace(" ", "-") for k in REFUSED]
)
by_default = pytest.mark.parametrize(
    "info", BY_DEFAULT.values(), ids=[k.replace(" ", "-") for k in BY_DEFAULT]
)
offered = pytest.mark.parametrize("plan", [None, STATEFUL], ids=["by-default", "negotiated"])


@offered
@refused
@pytest.mark.parametrize("pair", [Pair.MN_HA, Pair.MN_FA])
def test_a_node_refuses_the_whole_reply(plan: OfferPlan | None, pair: Pair, info: Info) -> None:
    assert not Story.of(plan).node_takes(pair, info)


@offered
@refused
@pytest.mark.parametrize("pair", [Pair.FA_HA, Pair.MN_FA])
def test_an_agent_installs_nothing_and_says_67(
    plan: OfferPlan | None, pair: Pair, info: Info
) -> None:
    assert not Story.of(plan).agent_takes(pair, info)


@refused
def test_the_smm_s_association_is_judged_alike(info: Info) -> None:
    story = Story.of(STATEFUL)
    assert not story.node_takes(Pair.MN_SMM, info)
    assert not story.agent_takes(Pair.MN_SMM, info)


@offered
def test_as_home_sealed_it_it_is_taken(plan: OfferPlan | None) -> None:
    pairs = MN_PAIRS if plan is not None else MN_PAIRS[:2]
    for pair in pairs:
        assert Story.of(plan).node_takes(pair, Info())
    for pair in FA_PAIRS[: len(pairs)]:
        assert Story.of(plan).agent_takes(pair, Info())
        assert Story.of(plan).agent_takes(pair, Info(lifetime=1))


def _fitting(pair: Pair, info: Info) -> Info:
    """The info with the stateful secret that its suites ask for."""
    if info.suites is None:
        return info
    octets = {"031c": 36, "0105020c": 64}[info.suites] + 32 * (pair is Pair.MN_FA)
    return Info(suites=info.suites, secret=octets)


@by_default
def test_what_home_may_choose_where_nothing_was_offered(info: Info) -> None:
    assert Story.of(None).node_takes(Pair.MN_HA, _fitting(Pair.MN_HA, info))
    for pair in (Pair.FA_HA, Pair.MN_FA):
        assert Story.of(None).agent_takes(pair, _fitting(pair, info))


def test_the_mfae_tells_a_node_that_the_agent_holds_another_key() -> None:
    for name in ("two suites of the policy", "semi-stateful"):
        info = _fitting(Pair.MN_FA, BY_DEFAULT[name])
        assert not Story.of(None).node_takes(Pair.MN_FA, info)


@by_default
@pytest.mark.parametrize("pair", MN_PAIRS)
def test_a_node_takes_nothing_but_what_was_agreed(pair: Pair, info: Info) -> None:
    assert not Story.of(STATEFUL).node_takes(pair, _fitting(pair, info))


@by_default
@pytest.mark.parametrize("pair", FA_PAIRS)
def test_an_agent_takes_nothing_but_what_was_agreed(pair: Pair, info: Info) -> None:
    assert not Story.of(STATEFUL).agent_takes(pair, _fitting(pair, info))


@pytest.mark.parametrize("pair", [Pair.MN_HA, Pair.FA_HA])
def test_the_spi_is_the_one_of_the_answer(pair: Pair) -> None:
    story = Story.of(STATEFUL)
    takes = story.node_takes if pair is Pair.MN_HA else story.agent_takes
    assert not takes(pair, Info(spi=4242))


STATELESS = OfferPlan(Mode.STATELESS, (31,))
MIXED = OfferPlan(Mode.STATEFUL, (31,))
SEALED = OfferPlan(Mode.STATEFUL, sealed=True)


@pytest.mark.parametrize(
    ("plan", "pair", "info"),
    [
        pytest.param(STATELESS, Pair.MN_HA, Info(secret=32), id="a-secret-for-KEY1-of-mode-1"),
        pytest.param(STATELESS, Pair.MN_HA, Info(derivation=0), id="raw-without-its-switch"),
        pytest.param(STATELESS, Pair.MN_HA, Info(mode=2, secret=32), id="mixed-for-stateless"),
        pytest.param(STATELESS, Pair.MN_FA, Info(secret=0), id="no-secret-for-KEY3-of-mode-1"),
        pytest.param(STATELESS, Pair.MN_FA, Info(derivation=0, secret=0), id="raw-for-KEY3"),
        pytest.param(MIXED, Pair.MN_HA, Info(secret=0), id="no-secret-of-a-mixed-SA"),
        pytest.param(MIXED, Pair.MN_HA, Info(secret=31), id="31-octets-of-a-mixed-SA"),
        pytest.param(MIXED, Pair.MN_HA, Info(secret=36), id="keys-for-a-mixed-SA"),
        pytest.param(MIXED, Pair.MN_HA, Info(derivation=0, secret=36), id="stateful-for-mixed"),
        pytest.param(MIXED, Pair.MN_HA, Info(mode=3), id="another-mode-of-a-mixed-SA"),
        pytest.param(SEALED, Pair.MN_HA, Info(secret=36), id="a-secret-beside-the-KE-c"),
        pytest.param(SEALED, Pair.MN_FA, Info(secret=68), id="a-secret-beside-the-KE-c-of-KEY3"),
    ],
)
def test_a_node_of_another_plan(plan: OfferPlan, pair: Pair, info: Info) -> None:
    assert Story.of(plan).node_takes(pair, Info())
    assert not Story.of(plan).node_takes(pair, info)


@pytest.mark.parametrize(
    ("plan", "pair", "info"),
    [
        pytest.param(STATELESS, Pair.FA_HA, Info(secret=0), id="no-secret-for-KEY2-of-mode-1"),
        pytest.param(STATELESS, Pair.FA_HA, Info(derivation=0, secret=0), id="raw-for-KEY2"),
        pytest.param(MIXED, Pair.FA_HA, Info(derivation=0, secret=36), id="stateful-for-mixed"),
        pytest.param(MIXED, Pair.MN_FA, Info(secret=0), id="no-secret-of-a-mixed-SA"),
        pytest.param(SEALED, Pair.FA_HA, Info(secret=36), id="a-secret-beside-the-KE-c"),
        pytest.param(SEALED, Pair.MN_FA, Info(secret=0), id="no-secret-for-the-agent-of-KEY3"),
    ],
)
def test_an_agent_of_another_plan(plan: OfferPlan, pair: Pair, info: Info) -> None:
    assert Story.of(plan).agent_takes(pair, Info())
    assert not Story.of(plan).agent_takes(pair, info)


def test_formula_5_needs_its_switch_at_the_receiver() -> None:
    semi = OfferPlan(Mode.SEMISTATEFUL)
    assert Story.of(semi, formula_5=True).node_takes(Pair.MN_HA, Info())
    assert not Story.of(semi).node_takes(Pair.MN_HA, Info(derivation=1))
    assert not Story.of(semi).agent_takes(Pair.FA_HA, Info(derivation=1))


def test_null_without_authentication_is_refused_by_who_allows_null() -> None:
    allowed = DEFAULT_POLICY_SUITES | {NULL}
    alone, beside_aead = Info(suites="020b", secret=0), Info(suites="0314020b", secret=36)
    beside = Info(suites="0105020b", secret=32)
    for info in (alone, beside_aead):
        assert not Story.of(None, suites=allowed).node_takes(Pair.MN_HA, info)
        assert not Story.of(None, suites=allowed).agent_takes(Pair.FA_HA, info)
    assert Story.of(None, suites=allowed).node_takes(Pair.MN_HA, beside)
    assert Story.of(None, suites=allowed).agent_takes(Pair.FA_HA, beside)
    assert not Story.of(None).node_takes(Pair.MN_HA, beside)


def test_a_raw_shared_secret_needs_its_switch_at_the_receiver() -> None:
    """Of group 14 Z is long enough, so that nothing but the switch stands between."""
    plan = OfferPlan(Mode.STATELESS, (14,))
    raw = Info(derivation=0)
    assert Story.of(plan, (Pair.MN_HA,), raw_dh=True).node_takes(Pair.MN_HA, raw)
    assert not Story.of(plan, (Pair.MN_HA,)).node_takes(Pair.MN_HA, raw)


@pytest.mark.parametrize(
    "swapped",
    [
        pytest.param(lambda octets: octets, id="as-it-was"),
        pytest.param(
            lambda octets: octets.replace((3600).to_bytes(4, "big"), (60).to_bytes(4, "big")),
            id="a-lower-lifetime",
        ),
        pytest.param(lambda octets: octets.replace(b"\x01\x14\x01", b"\x01\x1c\x01"), id="a-suite"),
    ],
)
def test_an_agent_takes_no_answer_in_its_name_but_its_own(swapped: Change) -> None:
    """Section 8: pairs 2 and 4 are octet for octet what it sent, whatever home says of them."""
    story = Story.of(STATEFUL)
    response = swap_answer(story.agent, story.relayed, story.accept, story.pending, swapped)
    delivery = story.agent.on_response(story.relayed, response)
    if response == story.accept:
        assert delivery.code == 0 and delivery.associations
        return
    assert delivery.code == 67 and delivery.associations == ()


@pytest.mark.parametrize("lifetime", [0, 2**32 - 1])
def test_a_lifetime_is_malformed_by_itself(lifetime: int) -> None:
    """Whatever is granted: the KDC hop reads an SA-INFO too."""
    good = bytes.fromhex("200000010000025801020304050607080200010003140024" + "e1" * 36)
    assert decode_sa_info(good, Pair.MN_HA).lifetime_s == LIFETIME_S
    with pytest.raises(Malformed):
        decode_sa_info(Info(lifetime=lifetime).change(good), Pair.MN_HA)
