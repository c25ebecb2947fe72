"""The cycle as a story: steps 1 to 12, what each party holds, and what a proxy may not change."""

from __future__ import annotations

import dataclasses

import pytest

from aaa.exchange import AccessAccept, AccessReject, AccessResponse, Peer
from aaa.roles.foreign_agent import Relayed
from aaa.roles.home_agent_request import read_request
from aaa.roles.mobile_node import (
    Deregistered,
    HintFromFa,
    MobileNodeState,
    Pending,
    Registered,
    accept_reply,
)
from kdc.crypto.hpke import X25519Key
from kdc.errors import AuthenticationFailed, RemoteError, Unavailable
from kdc.model import HomeAddressKind, Nai, Pair, Secret
from kdc.wire.advertisement import FaPublicKey
from tests.protocol.world import VISITED, World, replaced


def _accept(world: World, pending: Pending, octets: bytes) -> tuple[MobileNodeState, object]:
    return accept_reply(world.node, pending, octets, now=world.now)


@pytest.mark.parametrize("kind", HomeAddressKind)
@pytest.mark.parametrize("static", [False, True])
def test_each_key_is_held_by_exactly_its_holders(kind: HomeAddressKind, static: bool) -> None:
    world = World(kind=kind, static=static)
    agent = world.agents[0]
    pending = world.request(agent)
    _, delivery = world.accepted(agent, pending)
    world.node, answer = _accept(world, pending, delivery.octets)
    assert isinstance(answer, Registered)
    fa_ha, mn_fa = delivery.associations
    assert (fa_ha.pair, mn_fa.pair) == (Pair.FA_HA, Pair.MN_FA)
    assert answer.mn_fa == mn_fa
    registration = world.store.registrations[0].registration
    assert registration is not None
    stored = {item.pair: item.keys for item in registration.associations}
    assert stored == {Pair.MN_HA: answer.mn_ha.keys, Pair.FA_HA: fa_ha.keys, Pair.MN_FA: None}
    keys = [answer.mn_ha.keys.reveal(), fa_ha.keys.reveal(), mn_fa.keys.reveal()]
    assert len(set(keys)) == 3
    assert answer.home_address == registration.home_address == delivery.home_address
    assert (str(answer.home_address) == "0.0.0.0") is False
    shown = delivery.octets[4:8] != bytes(4)
    assert shown == (kind is not HomeAddressKind.HIDDEN)


def test_renewal_makes_new_keys_and_deregistration_ends_them() -> None:
    world = World()
    agent = world.agents[0]
    seen: set[bytes] = set()
    for _ in range(3):
        pending = world.request(agent)
        _, delivery = world.accepted(agent, pending)
        world.node, answer = _accept(world, pending, delivery.octets)
        assert isinstance(answer, Registered)
        seen |= {answer.mn_ha.keys.reveal(), answer.mn_fa.keys.reveal()}
        world.now += 60
    assert len(seen) == 6
    pending = world.request(agent, lifetime_s=0)
    accept, delivery = world.accepted(agent, pending)
    assert accept.session_timeout_s is None and accept.fa_wrapped_key is None
    assert delivery.associations == ()
    world.node, ended = _accept(world, pending, delivery.octets)
    assert isinstance(ended, Deregistered)
    assert world.store.record.current_fa is None


def test_a_duplicate_gets_the_same_octets_and_one_registration() -> None:
    world = World()
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    first = world.ask_home(relayed)
    for second in range(8):
        world.now = pending.identification.unix + second
        assert world.ask_home(relayed) == first
    assert len(world.store.registrations) == 1


def test_a_stale_clock_is_set_right_by_one_denial() -> None:
    world = World()
    agent = world.agents[0]
    world.now -= 3600
    pending = world.request(agent)
    world.now += 3600
    relayed = world.relay(agent, pending.octets)
    delivery = world.deliver(agent, relayed, world.ask_home(relayed))
    assert delivery.code == 133
    node, _ = accept_reply(world.node, pending, delivery.octets, now=world.now - 3600)
    assert node.offset_s == 3600 and node.last is None
    world.node = node
    world.now -= 3600
    pending = world.request(agent)
    world.now += 3600
    _, delivery = world.accepted(agent, pending)
    assert isinstance(_accept(world, pending, delivery.octets)[1], Registered)


def test_no_flipped_octet_of_a_request_is_accepted_anywhere() -> None:
    world = World()
    agent = world.agents[0]
    pending = world.request(agent)
    access = world.relay(agent, pending.octets).access
    for flipped in flips(pending.octets):
        tampered = dataclasses.replace(access, registration_request=flipped)
        settled = world.home.handle(tampered, VISITED, world.now)
        assert isinstance(settled.response, AccessReject)
        outcome = agent.on_request(flipped, ("another link", 1))
        if isinstance(outcome, Relayed):
            assert agent.on_response(outcome, settled.response).code == 67
        else:
            assert outcome is not None and outcome.code == 70
    assert world.store.registrations == []
    assert world.store.record.last_spent is None, "an unauthentic request has spent an SPI"


def test_no_flipped_octet_of_a_reply_is_installed_by_the_agent() -> None:
    world = World()
    agent = world.agents[0]
    pending = world.request(agent)
    relayed = world.relay(agent, pending.octets)
    accept = world.ask_home(relayed)
    assert isinstance(accept, AccessAccept) and accept.fa_wrapped_key is not None
    tampered = [
        dataclasses.replace(accept, registration_reply=flipped)
        for flipped in flips(accept.registration_reply)
    ] + [
        dataclasses.replace(accept, fa_wrapped_key=flipped)
        for flipped in flips(accept.fa_wrapped_key)
    ]
    for response in tampered:
        delivery = agent.on_response(relayed, response)
        assert delivery.associations == () and delivery.code == 67
        node, answer = _accept(world, pending, delivery.octets)
        assert isinstance(answer, HintFromFa) and node == world.node


def test_no_flipped_octet_of_a_relayed_reply_is_accepted_by_the_node() -> None:
    world = World()
    agent = world.agents[0]
    pending = world.request(agent)
    _, delivery = world.accepted(agent, pending)
    for flipped in flips(delivery.octets):
        try:
            node, answer = _accept(world, pending, flipped)
        except RemoteError:
            continue
        # A code that is not 0 and no MHAE: at the most a hint, which changes nothing.
        assert isinstance(answer, HintFromFa) and node == world.node
    assert isinstance(_accept(world, pending, delivery.octets)[1], Registered)


def flips(octets: bytes) -> list[bytes]:
    """Each octet changed in its lowest and its highest bit, one at a time."""
    flipped = []
    for position in range(len(octets)):
        for bit in (0x01, 0x80):
            changed = bytearray(octets)
            changed[position] ^= bit
            flipped.append(bytes(changed))
    return flipped


# --- a roaming hub between foreign and home AAA ---------------------------------------------


def _hub_key() -> bytes:
    return FaPublicKey(4711, X25519Key.of(Secret(bytes(31) + b"\x07")).public_key).octets


def _offer_of_pair_3() -> bytes:
    return bytes.fromhex("0103001c020000180101030100000e10000000000300000801140100")


@pytest.mark.parametrize(
    ("swap", "code"),
    [
        pytest.param({"fa_public_keys": (_hub_key(),)}, 132, id="attribute-3"),
        pytest.param({"fa_nai": Nai.parse("fa9@visited.example")}, 132, id="attribute-9"),
        pytest.param({"operator_name": b"1hub.example"}, 132, id="attribute-126"),
    ],
)
def test_what_a_hub_swaps_in_the_request_is_refused_by_home(
    swap: dict[str, object], code: int
) -> None:
    world = World()
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    response = world.ask_home(relayed, replaced(**swap))
    assert world.store.registrations == []
    assert _code(response) == code
    assert world.deliver(agent, relayed, response).associations == ()


@pytest.mark.parametrize("static", [False, True])
def test_a_hub_that_replays_under_another_name_has_nothing_written(static: bool) -> None:
    """A denial before step 7 spends an SPI; where there is none to spend it costs no write."""
    world = World(static=static)
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    assert isinstance(world.ask_home(relayed), AccessAccept)
    before = world.store.stored
    for name in (b"fa8@visited.example", b"fa9@visited.example"):
        response = world.ask_home(relayed, replaced(fa_nai=Nai(name)))
        assert _code(response) == 132
    world.store.replace_record(nai=Nai.parse("renamed@home.example"))
    assert _code(world.ask_home(relayed)) == 131
    world.store.replace_record(nai=before.record.nai)
    assert world.store.stored == before


def test_a_hub_that_offers_in_the_agents_name_gets_no_key_installed() -> None:
    world = World()
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    response = world.ask_home(relayed, replaced(fa_sa_payload=_offer_of_pair_3()))
    # Home cannot know that the agent offered nothing; the Transcript tells the agent.
    assert isinstance(response, AccessAccept)
    delivery = world.deliver(agent, relayed, response)
    assert delivery.code == 67 and delivery.associations == ()


def _code(response: AccessResponse) -> int:
    if isinstance(response, AccessReject):
        return response.code
    return response.registration_reply[1]


def test_a_hub_that_adds_its_own_key_beside_the_agents_learns_nothing() -> None:
    world = World()
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    keys = (_hub_key(), *relayed.access.fa_public_keys)
    response = world.ask_home(relayed, replaced(fa_public_keys=keys))
    # FK names the agent's key, so W is wrapped for the agent whatever stands beside it.
    assert isinstance(response, AccessAccept) and response.fa_wrapped_key is not None
    assert response.fa_wrapped_key[:4] == relayed.access.fa_public_keys[0][2:6]
    assert len(world.deliver(agent, relayed, response).associations) == 2


@pytest.mark.parametrize("what", ["attribute-2", "attribute-4", "both"])
def test_what_a_hub_swaps_in_the_reply_is_refused_by_the_agent(what: str) -> None:
    world, other = World(seed=1), World(seed=2)
    agent = world.agents[0]
    relayed = world.relay(agent, world.request(agent).octets)
    mine = world.ask_home(relayed)
    theirs, _ = other.accepted(other.agents[0], other.request(other.agents[0]))
    assert isinstance(mine, AccessAccept)
    changes: dict[str, object] = {}
    if what != "attribute-4":
        changes["registration_reply"] = theirs.registration_reply
    if what != "attribute-2":
        changes["fa_wrapped_key"] = theirs.fa_wrapped_key
    delivery = world.deliver(agent, relayed, dataclasses.replace(mine, **changes))  # type: ignore[arg-type]
    assert delivery.code == 67 and delivery.associations == ()


# --- limits of a foreign agent (PROTOCOL section 8) ------------------------------------------


def test_an_agent_has_sixty_four_requests_of_one_link_outstanding() -> None:
    world = World()
    agent = world.agents[0]
    requests = [world.request(agent, lifetime_s=600 + n).octets for n in range(65)]
    for port, octets in enumerate(requests[:64]):
        assert isinstance(agent.on_request(octets, ("one link", port)), Relayed)
    with pytest.raises(Unavailable):
        agent.on_request(requests[64], ("one link", 99))
    relayed = agent.on_request(requests[64], ("another link", 99))
    assert isinstance(relayed, Relayed)
    assert agent.on_request(requests[64], ("another link", 99)) is None, "it is under way"
    assert agent.on_response(relayed, None).code == 78
    assert isinstance(agent.on_request(requests[64], ("another link", 99)), Relayed)


def test_a_flood_of_forged_links_is_refused_and_leaves_nothing_behind() -> None:
    world = World()
    agent = world.agents[0]
    octets = world.request(agent).octets
    taken = [agent.on_request(octets, (f"link {number}", 434)) for number in range(4096)]
    for number in range(4096, 5000):
        with pytest.raises(Unavailable):
            agent.on_request(octets, (f"link {number}", 434))
    assert len(agent._outstanding) == 4096
    for relayed in taken:
        assert isinstance(relayed, Relayed)
        agent.on_response(relayed, None)
        agent.on_response(relayed, None)  # a second end of the same one counts once
    assert agent._outstanding == {} and agent._outstanding_total == 0
    assert isinstance(agent.on_request(octets, ("a late link", 434)), Relayed)


def test_an_agents_keys_are_replaced_and_erased_in_time() -> None:
    world = World()
    agent = world.agents[0]
    first = agent.announcement.fk
    assert not agent.rotate_key(now=world.now + 3599, entropy=world.rng.randbytes)
    late = world.request(agent)  # heard before the rotation, sent after it
    assert agent.rotate_key(now=world.now + 3600, entropy=world.rng.randbytes)
    assert agent.announcement.fk != first
    _, delivery = world.accepted(agent, late)
    assert len(delivery.associations) == 2, "the previous key still opens"
    agent.rotate_key(now=world.now + 3600 + 600, entropy=world.rng.randbytes)
    assert len(world.relay(agent, world.request(agent).octets).access.fa_public_keys) == 1


# --- what only one check stands between ------------------------------------------------------


def test_a_peer_speaks_only_for_its_own_realms() -> None:
    world = World()
    relayed = world.relay(world.agents[0], world.request(world.agents[0]).octets)
    stranger = Peer("stranger", frozenset({"elsewhere.example"}))
    settled = world.home.handle(relayed.access, stranger, world.now)
    assert settled.response == AccessReject(132)
    assert world.store.registrations == []


def test_a_forged_denial_teaches_the_node_nothing() -> None:
    world = World()
    agent = world.agents[0]
    world.now -= 3600
    pending = world.request(agent)
    world.now += 3600
    relayed = world.relay(agent, pending.octets)
    denial = world.deliver(agent, relayed, world.ask_home(relayed)).octets
    assert denial[1] == 133
    for flipped in flips(denial):
        try:
            node, answer = _accept(world, pending, flipped)
        except RemoteError:
            continue
        assert isinstance(answer, HintFromFa) and node == world.node


def test_the_reply_to_another_deregistration_is_not_relayed() -> None:
    world = World()
    agent = world.agents[0]
    world.accepted(agent, world.request(agent))
    world.now += 5
    first, second = world.request(agent, lifetime_s=0), world.request(agent, lifetime_s=0)
    of_first = world.ask_home(world.relay(agent, first.octets))
    delivery = agent.on_response(world.relay(agent, second.octets), of_first)
    assert delivery.code == 67


def test_an_spi_that_was_skipped_is_dead_whatever_a_store_finds_under_it() -> None:
    world = World()
    agent = world.agents[0]
    skipped = world.request(agent)
    world.now += 1
    world.accepted(agent, world.request(agent))
    assert skipped.spi not in (*world.store.record.unspent, world.store.record.last_spent)
    world.now += 1
    world.node = dataclasses.replace(world.node, unspent=(skipped.spi,))
    late = world.request(agent)  # a greater Identification under a dead SPI
    stored = world.store.stored
    structured = read_request(
        world.relay(agent, late.octets).access, vendor_id=world.policy.vendor_id
    )
    admission = world.home.center.admit(stored, skipped.spi, clock=world.now)
    with pytest.raises(AuthenticationFailed):
        world.home.registrar.judge(structured, admission, VISITED)
