"""Whole cycles and scenarios of the golden vectors through the product's own roles.

Every packet, every key at every party, and every state of a record, octet for octet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject, AccessRequest, Peer
from aaa.roles.foreign_agent import FaIdentity, FaKey, ForeignAgent, Relayed
from aaa.roles.foreign_agent_terms import FaTerms
from aaa.roles.home_agent import HomeAgentPolicy
from aaa.roles.home_agent_terms import Exponentiation, HomeTerms, count_reply_octets
from aaa.roles.mobile_node import (
    DeniedByHome,
    Deregistered,
    Heard,
    MobileNodeState,
    Registered,
    accept_reply,
    build_request,
)
from aaa.roles.mobile_node_terms import MnTerms
from kdc.center import KeyDistributionCenter, make_association, make_wrapping_key, parties_of
from kdc.crypto.dh import FIXED_GROUPS, DhKey, user_group
from kdc.crypto.hpke import X25519Key
from kdc.model import (
    Enrolment,
    HomeAddressKind,
    Identification,
    Mode,
    Nai,
    Pair,
    Secret,
    SecurityAssociation,
    Suite,
)
from kdc.negotiation import Policy, PreparedOffer
from kdc.records import Denied, Issued, Terms, VerifiedRegistration, WrappingKey
from kdc.wire.advertisement import (
    FaAnnouncement,
    decode_announcement,
    decode_fa_public_key,
)
from kdc.wire.numbers import Kind
from kdc.wire.payloads import KeA, KeB, decode_sa_payload
from tests.protocol.agents import EVERYTHING, terms_offering
from tests.protocol.home import MemoryHome, MemoryStore, identification, new_record
from tests.vectors_loader import Vector, octets, vector_id, vectors

_VISITED = Peer("visited", frozenset({"visited.example", "hub.example", "other.example"}))


class NamedDraws:
    """Every random value of the home side by its name in the vector."""

    def __init__(self, draws: dict[str, str], home_address: str | None = None) -> None:
        self._draws = {name: octets(value) for name, value in draws.items()}
        self._home_address = home_address
        self._used: Iterator[int] = iter(range(4))

    def __getitem__(self, name: str) -> bytes:
        return self._draws[name]

    def get(self, name: str) -> bytes | None:
        return self._draws.get(name)

    def take_key0(self) -> int:
        return int.from_bytes(self[f"next_spi{next(self._used)}"], "big")

    def take_association(self, expires_at: float) -> int:
        raise AssertionError("named draws name their SPIs")

    def take_home_address(self) -> IPv4Address:
        assert self._home_address is not None
        return IPv4Address(octets(self._home_address))


class DrawnCenter(KeyDistributionCenter):
    """The KDC with its random values taken from a vector instead of derived from R."""

    def __init__(self) -> None:
        super().__init__(bytes)
        self.draws = NamedDraws({})
        self.wrapping: dict[tuple[bytes, bytes], WrappingKey] = {}
        self.made: dict[bytes, Issued] = {}

    def new_state(self) -> bytes:
        return self.draws["state"]

    def issue(self, verified: VerifiedRegistration, allocator: Any, *, now: float) -> Issued:
        draws = self.draws
        base = super().issue(dataclasses.replace(verified, terms=()), allocator, now=now)
        parties = parties_of(verified, draws["alias"], base.home_address)
        associations = tuple(
            make_association(
                terms,
                int.from_bytes(draws[f"spi{int(terms.pair)}"], "big"),
                draws[f"key_name{int(terms.pair)}"],
                Secret(draws.get(f"secret{int(terms.pair)}") or b""),
                parties,
                verified.identification.octets,
            )
            for terms in verified.terms
        )
        issued = self.made[draws["class"]] = dataclasses.replace(
            base,
            alias=draws["alias"],
            class_id=draws["class"],
            associations=associations,
            wrapping_key=self._wrapping_key(verified) if associations else None,
        )
        return issued

    def recall(self, outcome: Secret) -> Issued | Denied:
        recalled = super().recall(outcome)
        return recalled if isinstance(recalled, Denied) else self.made[recalled.class_id]

    def _wrapping_key(self, verified: VerifiedRegistration) -> WrappingKey | None:
        if verified.fa_public_key is None:
            return None
        slot = (verified.fa_public_key, verified.fa_nai.octets)
        if self.draws.get("w") is not None:
            self.wrapping[slot] = make_wrapping_key(
                Secret(self.draws["w"]),
                Secret(self.draws["hpke_ephemeral"]),
                decode_fa_public_key(verified.fa_public_key),
                verified.fa_nai,
            )
        return self.wrapping[slot]


# --- registration.json ----------------------------------------------------------------------


_CYCLES = vectors("registration")
_CHACHA = Suite(3, 28)
# What the vectors' parties will not take is not among their inputs.
_HOME_TAKES_CHACHA_ALONE = (
    "p-registration-no-proposal",
    "p-registration-no-proposal-2",
    "p-registration-no-proposal-3",
    "p-registration-counter-proposal",
)


def test_every_cycle_is_run() -> None:
    assert len(_CYCLES) == 42


def _negotiated_by(vector: Vector) -> Policy:
    """A policy that allows what the vector switches on, and all algorithms."""
    home = vector["in"]["home"]
    return dataclasses.replace(
        EVERYTHING,
        raw_dh=home["raw_dh"],
        formula_5=home["formula_5"],
        clear_fa_keys=home["fa_keys"] == "clear",
    )


def _policy(vector: Vector) -> HomeAgentPolicy:
    given = vector["in"]
    home = given["home"]
    policies = {
        pair: dataclasses.replace(
            _negotiated_by(vector), default_mode=Mode(home["default_mode"][str(int(pair))])
        )
        for pair in Pair
    }
    if vector["id"] in _HOME_TAKES_CHACHA_ALONE:
        counters = ((_CHACHA,),) if vector["id"].endswith("counter-proposal") else ()
        policies[Pair.MN_HA] = Policy(suites=frozenset({_CHACHA}), preferred=counters)
    return HomeAgentPolicy(
        address=IPv4Address(octets(given["mn"]["home_agent"])),
        nai=Nai(octets(home["nai"])),
        realm=octets(given["mn"]["realm"]).decode(),
        maximum_lifetime_s=home["max_lifetime"],
        terms=HomeTerms(policies, tuple(Suite(*suite) for suite in home["default_suites"])),
    )


def _fa_terms(vector: Vector) -> FaTerms:
    """Terms by which the FA answers as the vector's, and offers what the vector's offers."""
    given = vector["in"]
    policies = dict.fromkeys(Pair, _negotiated_by(vector))
    if vector["id"] == "p-registration-fa-counter-proposal":
        policies[Pair.MN_FA] = Policy(suites=frozenset({_CHACHA}), preferred=((_CHACHA,),))
    return terms_offering(octets(given["offer3"] or ""), policies)


def _offers(given: Vector) -> tuple[PreparedOffer, ...]:
    """The MN's offers with the keys that the vector names."""
    prepared = []
    for pair, offered in given["offers"].items():
        payload = decode_sa_payload(octets(offered))
        privates = given["dh_private"].get(f"mn_pair{pair}", {})
        keys = []
        for ke in payload.proposals[-1].key_exchanges:
            if isinstance(ke, KeB):
                group = user_group(ke.prime, ke.generator)
                keys.append(DhKey.of(group, Secret(octets(privates["241"]))))
            elif isinstance(ke, KeA):
                private = Secret(octets(privates[str(ke.group)]))
                keys.append(DhKey.of(FIXED_GROUPS[ke.group], private))
        prepared.append(PreparedOffer(octets(offered), payload, tuple(keys)))
    return tuple(prepared)


class DrawnHome(MemoryHome):
    """A home whose private values are those of a vector."""

    def draw_private(self, wanted: Exponentiation) -> bytes:
        assert isinstance(self.center, DrawnCenter)
        return self.center.draws[f"dh{int(wanted.pair)}"]


def _store(given: Vector) -> MemoryStore:
    mn, home = given["mn"], given["home"]
    before = mn["record_before"]
    kind = HomeAddressKind(home["home_address_kind"])
    address = IPv4Address(octets(home["home_address"])) if home["home_address"] else None
    registered = before["last_fa"] is not None
    if address is None and kind is HomeAddressKind.DYNAMIC:
        address = IPv4Address("10.200.0.10")
    record = new_record(
        nai=octets(mn["nai"]).decode(),
        spis=tuple(before["unspent"]),
        static=mn["static"],
        kind=kind,
        home_address=address,
        last_spent=before["last_spent"],
        last_seen=identification(before["last_seen"]),
        rounds=before["rounds"],
        current_fa=Nai(octets(before["last_fa"])) if registered else None,
        current_home_address=address if registered else None,
        registered_until=given["now"] + 600.0 if registered else None,
    )
    return MemoryStore(record, Secret(octets(mn["key0"])))


def _heard(given: Vector) -> Heard:
    fa = given["fa"]
    announcement = decode_announcement(octets(fa["advertisement"]), 32473)
    # A vector may name a key that the FA no longer advertises.
    announcement = FaAnnouncement(announcement.nai, octets(given["fk"]))
    return Heard(
        announcement, IPv4Address(octets(fa["address"])), IPv4Address(octets(fa["care_of"]))
    )


def _access(given: Vector, request: bytes) -> AccessRequest:
    fa = given["fa"]
    return AccessRequest(
        realm=octets(given["mn"]["realm"]).decode(),
        nas_identifier=b"fa1",
        nas_address=IPv4Address(octets(fa["address"])),
        fa_nai=Nai(octets(fa.get("asserted_nai") or fa["nai"])),
        registration_request=request,
        fa_public_keys=tuple(octets(key["attribute_3"]) for key in fa["keys"]),
        fa_sa_payload=octets(given["fa_sa_payload"]),
    )


def _first_use_of_w(given: Vector) -> dict[str, str]:
    for vector in _CYCLES:
        draws = vector["in"]["home"]["draws"]
        if vector["in"]["fk"] == given["fk"] and "w" in draws:
            return {name: draws[name] for name in ("w", "hpke_ephemeral")}
    raise AssertionError("no cycle before it drew W")


@pytest.mark.parametrize("vector", _CYCLES, ids=vector_id)
def test_cycle(vector: Vector) -> None:  # noqa: PLR0915 - one story
    given, out = vector["in"], vector["out"]
    mn = given["mn"]
    sent = Identification.extend(octets(given["identification"]), given["now"])
    enrolment = Enrolment(
        Nai(octets(mn["nai"])),
        Secret(octets(mn["key0"])),
        tuple(mn["record_before"]["unspent"]),
        IPv4Address(octets(mn["home_agent"])),
        Nai(octets(given["home"]["nai"])),
        octets(mn["realm"]).decode(),
    )
    state = MobileNodeState(enrolment, (mn["spi"],))
    l2 = (Kind(3, given["l2"][0]), octets(given["l2"][1])) if given.get("l2") else None
    heard = _heard(given)
    if vector["id"] == "p-registration-wrong-fa":
        other = FaAnnouncement(Nai.parse("fa2@visited.example"), heard.announcement.fk)
        heard = dataclasses.replace(heard, announcement=other)
    store = _store(given)
    offers = _offers(given)
    state, pending = build_request(
        state,
        heard,
        lifetime_s=given["request_lifetime"],
        now=sent.unix,
        entropy=lambda length: sent.low.to_bytes(length, "big"),
        home_address=store.record.current_home_address or IPv4Address(0),
        layer2=l2,
        offers=offers,
    )
    assert pending.octets == octets(out["request"])

    access = _access(given, pending.octets)
    agent = ForeignAgent(
        FaIdentity(
            access.fa_nai,
            access.nas_address,
            pending.heard.care_of_address,
            b"fa1",
            clear_keys=given["home"]["fa_keys"] == "clear",
        ),
        _fa_terms(vector),
    )
    agent._keys = tuple(
        FaKey(X25519Key.of(Secret(octets(key["x25519_private"]))), key["spi"], 0.0)
        for key in given["fa"]["keys"]
    )
    relayed = agent.on_request(pending.octets, ("link", 1))
    assert isinstance(relayed, Relayed)
    assert relayed.access.fa_sa_payload == octets(given["fa_sa_payload"])
    assert relayed.access == access

    center = DrawnCenter()
    draws = given["home"]["draws"]
    if "spi1" in draws and "w" not in draws and given["fa"]["keys"]:
        draws = _first_use_of_w(given) | draws  # section 8: W is used again within 600 s
    center.draws = NamedDraws(draws, given["home"]["home_address"])
    peer = dataclasses.replace(_VISITED, clear_fa_keys=given["home"]["fa_keys"] == "clear")
    home = DrawnHome(store, _policy(vector), center, center.draws, bytes)
    handled = home.handle(access, peer, given["now"])
    response = handled.response
    code = {AccessAccept: 2, AccessReject: 3, AccessChallenge: 11}[type(response)]
    assert code == out["radius_code"]
    if isinstance(response, AccessReject):
        return
    assert response.registration_reply == octets(out["reply"])
    _check_home_keys(handled.issued, out.get("keys_ha") or {})
    _check_length(handled.issued, response.registration_reply, home.policy)

    delivery = agent.on_response(relayed, response)
    assert delivery.octets == octets(out["relay"])
    _check_keys(delivery.associations, out.get("keys_fa") or {})

    policies = dict.fromkeys(Pair, _negotiated_by(vector))
    state, answer = accept_reply(
        state, pending, delivery.octets, now=given["now"], terms=MnTerms(policies, {})
    )
    if out["next_spis"] and not mn["static"]:
        assert list(state.unspent) == out["next_spis"]
    if isinstance(answer, Registered):
        assert answer.lifetime_s == out["lifetime"]
        assert answer.home_address == IPv4Address(octets(out["home_address"]))
        assert answer.alias == Nai(octets(out["alias"]))
        _check_keys(answer.associations, out["keys_mn"])
    elif isinstance(answer, DeniedByHome):
        assert answer.code == out["reply_code"]
    else:
        assert isinstance(answer, Deregistered) and out["lifetime"] == 0


def _check_length(issued: Issued | None, reply: bytes, policy: HomeAgentPolicy) -> None:
    """What is computed before keys are made holds for the reply, and is not far off."""
    if issued is None or not issued.associations:
        return
    terms = tuple(
        Terms(
            item.pair,
            item.mode,
            item.derivation,
            item.suites,
            item.lifetime_s,
            answered=item.answered,
            carrier=item.carrier,
        )
        for item in issued.associations
    )
    most = count_reply_octets(
        terms,
        nai_octets=len(policy.nai.octets),
        policy_realm_octets=len(policy.realm),
        realm_octets=len(f"@{policy.realm}"),
    )
    assert len(reply) <= most <= len(reply) + 400


def _check_home_keys(issued: Issued | None, expected: dict[str, str | None]) -> None:
    """KEY1 and KEY2 as home holds them; of the other pairs it keeps none."""
    held = {str(int(a.pair)): a.keys for a in issued.associations} if issued is not None else {}
    assert set(held) == set(expected)
    for pair, keys in held.items():
        if pair in ("1", "3"):
            assert keys == Secret(octets(expected[pair] or ""))
        else:
            assert keys is None


def _check_keys(associations: tuple[SecurityAssociation, ...], expected: dict[str, Any]) -> None:
    assert {str(int(item.pair)) for item in associations} == set(expected)
    for item in associations:
        want = expected[str(int(item.pair))]
        assert item.spi == want["spi"]
        assert item.lifetime_s == want["lifetime"]
        assert item.key_name == octets(want["key_name"])
        assert (item.mode, item.derivation) == (want["mode"], want["derivation"])
        assert [[s.protocol_id, s.transform_id] for s in item.suites] == want["suites"]
        assert item.keys == Secret(octets(want["keys"]))


# --- scenario.json --------------------------------------------------------------------------

_SCENARIOS = vectors("scenario")
_DYNAMIC = ["0ac8000a", "0ac8000b"]


@pytest.mark.parametrize("vector", _SCENARIOS, ids=vector_id)
def test_scenario(vector: Vector) -> None:
    given = vector["in"]
    home, center, store = _scenario_home(given)
    addresses = iter(_DYNAMIC)
    for step, want in zip(given["steps"], vector["out"]["steps"], strict=True):
        for name, value in step.items():
            if name == "set_record_active":
                store.replace_record(active=value)
            elif name == "set_record_expires":
                store.replace_record(expires_at=value)
        fresh = None
        if given["record"]["home_address_kind"] == "dynamic" and step["label"] != "renewal":
            fresh = next(addresses)
        center.draws = home.allocator = NamedDraws(step["draws"], fresh)
        operator = step["operator_name"]
        access = AccessRequest(
            realm="home.example",
            nas_identifier=b"fa1",
            nas_address=IPv4Address(octets(step["nas_ip"])),
            fa_nai=Nai(octets(step["fa_nai"])),
            registration_request=octets(step["request"]),
            fa_public_keys=tuple(octets(key) for key in step["attribute_3"]),
            fa_sa_payload=octets(step["attribute_5"]),
            operator_name=octets(operator) if operator else None,
        )
        settled = home.handle(access, _VISITED, step["time"])
        response = settled.response
        label = step["label"]
        code = {AccessAccept: 2, AccessReject: 3, AccessChallenge: 11}[type(response)]
        assert code == want["radius"], (label, settled.code)
        if isinstance(response, AccessReject):
            assert response.code == want["code"], label
        else:
            assert response.registration_reply.hex() == want["reply"], label
        assert list(store.record.unspent) == want["unspent_after"], label
        assert store.record.last_spent == want["last_spent_after"], label


def _scenario_home(given: Vector) -> tuple[MemoryHome, DrawnCenter, MemoryStore]:
    home, record = given["home"], given["record"]
    pinned = None
    if home["fa_key_trust"] == "pinned":
        pinned = {Nai(octets(nai)): frozenset({octets(key)}) for nai, key in home["pinned"]}
    policy = HomeAgentPolicy(
        address=IPv4Address(octets(home["ha"])),
        nai=Nai(octets(home["ha_nai"])),
        realm=octets(home["realm"]).decode(),
        maximum_lifetime_s=home["max_lifetime"],
        window_s=home["window"],
        registrations_per_minute=home["per_minute"],
        terms=HomeTerms({pair: _scenario_policy(home, pair) for pair in Pair}, (Suite(3, 20),)),
        pinned_keys=pinned,
    )
    address = record["home_address"]
    roam = record["roam"]
    store = MemoryStore(
        new_record(
            nai=octets(record["nai"]).decode(),
            spis=tuple(record["spis"]),
            static=record["static"],
            kind=HomeAddressKind(record["home_address_kind"]),
            home_address=IPv4Address(octets(address)) if address else None,
            roam=frozenset(octets(realm).decode() for realm in roam) if roam else None,
        ),
        Secret(octets(record["key0"])),
    )
    center = DrawnCenter()
    return MemoryHome(store, policy, center, NamedDraws({}), bytes), center, store


def _scenario_policy(home: Vector, pair: Pair) -> Policy:
    own = (home.get("policy") or {}).get(str(int(pair)))
    if own is None:
        return Policy(preferred=())
    counter = own["counter"]
    return Policy(
        suites=frozenset(Suite(*suite) for suite in own["suites"]),
        preferred=(tuple(Suite(*suite) for suite in counter),) if counter else (),
    )


def test_pairs_are_those_of_the_figure() -> None:
    assert [int(pair) for pair in Pair] == [1, 2, 3, 4]
