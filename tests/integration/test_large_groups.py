"""Large and user-defined groups through real processes, and that nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aaa.net.mobile_ip import MobileIpSocket
from aaa.policy import NodeNegotiation, Offer
from aaa.roles.mobile_node import DeniedByHome, Heard, Registered, accept_reply, next_spi
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from kdc.crypto.dh import FIXED_GROUPS, USER_DEFINED, DhGroup, DhKey
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import NO_PROPOSAL_CHOSEN
from kdc.model import Mode, Pair, Secret
from kdc.negotiation import OfferPlan, Policy, PreparedOffer
from kdc.store import associations, migrate
from kdc.store.database import administration
from kdc.wire.payloads import KeB, encode_sa_payload
from tests.integration.domains import Domains
from tests.integration.split import TERMS, Node

VECTORS = Path(__file__).parents[1] / "vectors" / "derivation.json"
DEFAULT = 200
HEAVY = 300
AT_ONCE = 4
LONGEST_S = 2.0  # of a denial
USER = Policy(user_groups=True)


def safe_prime() -> int:
    """2,048 bits, no standard's: of the derivation vectors."""
    (vector,) = (
        v for v in json.loads(VECTORS.read_text())["vectors"] if v["id"] == "p-derivation-user-safe"
    )
    return int(vector["in"]["p"], 16)


def own_group(prime: int, generator: int = 2) -> MnTerms:
    """Stateless pair 1 over a group of the node's own, which it does not verify."""
    group = DhGroup(USER_DEFINED, prime, generator)
    return MnTerms({**TERMS.policies, Pair.MN_HA: USER}, {Pair.MN_HA: _plan(group)})


def _plan(group: DhGroup) -> OfferPlan:
    return OfferPlan(Mode.STATELESS, user_group=group)


def fixed_group(name: str) -> MnTerms:
    offer = Offer(mode="stateless", groups=(name,))
    legacy = name in ("modp-768", "modp-1024")
    return NodeNegotiation(offer_mn_ha=offer, legacy_groups=legacy).build_terms()


@pytest.fixture
def liberal(domains: Domains) -> Domains:
    """A home that takes old groups and those of users."""
    with (domains.folder / "home.toml").open("a") as file:
        file.write("\n[negotiation]\nuser_groups = true\nlegacy_groups = true\n")
    return domains


async def ask(
    domains: Domains,
    heard: Heard,
    node: Node,
    terms: MnTerms,
    offers: tuple[PreparedOffer, ...] | None = None,
) -> tuple[Registered | DeniedByHome, float]:
    """What home answers to one request, and how long that took without the node's own work."""
    if offers is None:
        _, offers = Negotiation().offer(terms, spi=next_spi(node.state), entropy=os.urandom)
    pending = node.request(heard, offers=offers)
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        started = time.monotonic()
        link.send(pending.octets)
        octets = await link.receive(30)
        took_s = time.monotonic() - started
    assert octets is not None
    node.state, answer = await asyncio.to_thread(
        accept_reply, node.state, pending, octets, now=time.time(), terms=terms
    )
    assert isinstance(answer, Registered | DeniedByHome), answer
    return answer, took_s


def at_home(domains: Domains) -> dict[int, associations.StoredAssociation]:
    with administration(domains.postgres.conninfo(domains.database_name)) as connection:
        keyring = migrate.load_keyring(connection, domains.postgres.kek)
        return {item.spi: item for item in associations.list_all(connection, keyring)}


async def test_every_large_group_makes_one_key_at_node_and_home(liberal: Domains) -> None:
    offered = {
        "own, 2048 bits": own_group(safe_prime()),
        "own, 2048 bits, another generator": own_group(safe_prime(), 7),
        "own, the prime of group 16": own_group(FIXED_GROUPS[16].prime, 3),
        **{
            name: fixed_group(name)
            for name in ("modp-768", "modp-1024", "modp-2048", "modp-3072", "modp-4096", "p-256")
        },
    }
    nodes = [Node(enrolment, n) for n, enrolment in enumerate(liberal.provision(len(offered)))]
    heard = await liberal.start_all()
    answers = {}
    for node, (name, terms) in zip(nodes, offered.items(), strict=True):
        answer, took_s = await ask(liberal, heard, node, terms)
        assert isinstance(answer, Registered), name
        assert (answer.mn_ha.mode, answer.mn_ha.derivation) == (Mode.STATELESS, 3)
        print(f"\n{name}: {took_s * 1000:.0f} ms")  # noqa: T201 - a measurement
        answers[name] = answer
    stored = at_home(liberal)
    for name, answer in answers.items():
        assert stored[answer.mn_ha.spi].fingerprint == fingerprint_key(answer.mn_ha.keys), name
    assert len({item.fingerprint for item in stored.values()}) > 2 * len(offered)
    assert liberal.stop_all() == {"home": 0, "foreign": 0, "agent": 0}


async def test_groups_that_will_not_do_are_denied_at_once(liberal: Domains) -> None:
    p = safe_prime()
    bad = {
        "a product of two large primes": own_group(FIXED_GROUPS[2].prime ** 2),
        "4096 bits, a product of two large primes": own_group(p * FIXED_GROUPS[14].prime),
        "an even number": own_group(p - 1),
        "5000 bits": own_group(2**5000 - 1),
        "2047 bits": own_group(p >> 1),
        "generator 1": own_group(p, 1),
        "generator P-1": own_group(p, p - 1),
    }
    values = {"0": 0, "1": 1, "P-1": p - 1, "P": p, "P+1": p + 1}
    enrolments = liberal.provision(len(bad) + len(values) + 1)
    nodes = iter(Node(enrolment, n) for n, enrolment in enumerate(enrolments))
    heard = await liberal.start_all()
    good = own_group(p)
    answer, _ = await ask(liberal, heard, next(nodes), good, _unsound(good))
    assert isinstance(answer, Registered), "what follows is refused for its own fault"
    told = {}
    for name, terms in bad.items():
        answer, took_s = await ask(liberal, heard, next(nodes), terms, _unsound(terms))
        told[name] = (answer, took_s)
    for name, value in values.items():
        node = next(nodes)
        answer, took_s = await ask(liberal, heard, node, good, _with_value(good, value))
        told[f"CV {name}"] = (answer, took_s)
    for name, (answer, took_s) in told.items():
        assert isinstance(answer, DeniedByHome), name
        assert (answer.code, answer.notify_type) == (129, NO_PROPOSAL_CHOSEN), name
        assert took_s < LONGEST_S, name
    print(f"\nslowest denial {max(t for _, t in told.values()) * 1000:.0f} ms")  # noqa: T201
    assert len(at_home(liberal)) == 3


def _unsound(terms: MnTerms) -> tuple[PreparedOffer, ...]:
    """An offer that our own code would not make, of a group that may do or not; X is 2."""
    group = terms.plans[Pair.MN_HA].user_group
    assert group is not None
    octets = (group.prime.bit_length() + 7) // 8
    value = pow(group.generator, 2, group.prime).to_bytes(octets, "big")
    ke = KeB(group.prime.to_bytes(octets, "big"), group.generator.to_bytes(octets, "big"), value)
    return _offer_with(ke, (DhKey(group, Secret(bytes(63) + b"\2"), value),))


def _with_value(terms: MnTerms, value: int) -> tuple[PreparedOffer, ...]:
    group = terms.plans[Pair.MN_HA].user_group
    assert group is not None
    octets = group.shared_octets
    numbers = (group.prime, group.generator, value)
    return _offer_with(KeB(*(number.to_bytes(octets, "big") for number in numbers)))


def _offer_with(ke: KeB, keys: tuple[DhKey, ...] = ()) -> tuple[PreparedOffer, ...]:
    """Group 31's offer with its KE replaced."""
    _, (offer,) = Negotiation().offer(fixed_group("x25519"), spi=256, entropy=os.urandom)
    (proposal,) = offer.payload.proposals
    payload = replace(offer.payload, proposals=(replace(proposal, key_exchanges=(ke,)),))
    return (PreparedOffer(encode_sa_payload(payload), payload, keys),)


class Heavy:
    """Nodes that keep the home side at large groups for as long as they are let."""

    def __init__(self, domains: Domains, heard: Heard, nodes: list[Node]) -> None:
        self._domains, self._heard, self._nodes = domains, heard, iter(nodes)
        self.registered = self.denied = 0
        self._stopped = False
        # Fresh verdicts of a second each: primes that no one has asked about yet.
        self._fresh = iter(
            [own_group(safe_prime())] + [own_group(FIXED_GROUPS[n].prime, 5) for n in (14, 15, 16)]
        )

    async def work(self, *, fresh: bool) -> None:
        while not self._stopped:
            terms = next(self._fresh, None) if fresh else None
            node = next(self._nodes, None)
            if node is None:
                return
            answer, _ = await ask(
                self._domains, self._heard, node, terms or fixed_group("modp-4096")
            )
            self.registered += isinstance(answer, Registered)
            self.denied += isinstance(answer, DeniedByHome)

    def stop(self) -> None:
        self._stopped = True


async def _default(domains: Domains, heard: Heard, nodes: list[Node]) -> list[float]:
    """How long each took, sorted; some at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(node: Node) -> float:
        async with limit:
            answer, took_s = await ask(domains, heard, node, TERMS)
            assert isinstance(answer, Registered)
            return took_s

    return sorted(await asyncio.gather(*map(one, nodes)))


async def test_default_registrations_do_not_wait_for_large_groups(liberal: Domains) -> None:
    """Two hundred of them alone, then two hundred beside verdicts on fresh primes and group 16."""
    nodes = [Node(e, n) for n, e in enumerate(liberal.provision(2 * DEFAULT + HEAVY))]
    heard = await liberal.start_all()
    alone = await _default(liberal, heard, nodes[:DEFAULT])
    heavy = Heavy(liberal, heard, nodes[2 * DEFAULT :])
    working = [asyncio.create_task(heavy.work(fresh=n == 0)) for n in range(4)]
    await asyncio.sleep(0.2)  # the first verdict is under way
    beside = await _default(liberal, heard, nodes[DEFAULT : 2 * DEFAULT])
    heavy.stop()
    await asyncio.wait_for(asyncio.gather(*working), 60)
    for name, times in (("alone", alone), ("beside large groups", beside)):
        median, late = times[DEFAULT // 2], times[DEFAULT * 99 // 100]
        print(  # noqa: T201 - a measurement
            f"\n{name}: median {median * 1000:.1f} ms, 99 % {late * 1000:.1f} ms,"
            f" longest {times[-1] * 1000:.1f} ms"
        )
    print(f"{heavy.registered} with large groups meanwhile")  # noqa: T201
    assert heavy.registered > 4 and not heavy.denied
    # A verdict alone takes a second: whoever waited for one would be among the slowest.
    index = DEFAULT * 99 // 100
    assert beside[index] < max(0.4, 8 * alone[index])
    assert liberal.stop_all()["home"] == 0
