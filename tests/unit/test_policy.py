"""[negotiation] of each process: what needs a switch, how a fault is told, what the roles get."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel, ValidationError

from aaa.policy import (
    GROUPS,
    MODES,
    SUITES,
    AgentNegotiation,
    HomeNegotiation,
    NegotiationSettings,
    NodeNegotiation,
    Offer,
)
from kdc.config import _problem, _without_lists
from kdc.model import KEY_OCTETS, Mode, Pair, Suite
from kdc.negotiation import (
    History,
    OfferPlan,
    Policy,
    generate_keys,
    measure_offer,
    prepare_offer,
)
from kdc.wire.payloads import KE_SECRET

GCM, CHACHA, HMAC, SHA512, CBC = Suite(3, 20), Suite(3, 28), Suite(1, 5), Suite(1, 7), Suite(2, 12)
NULL = Suite(2, 11)
MD5, SHA1, TRIPLE_DES = Suite(1, 1), Suite(1, 2), Suite(2, 3)
ON_BY_DEFAULT = {HMAC, SHA512, CBC, GCM, CHACHA}  # the table of PROTOCOL 4.3
EVERY = [HomeNegotiation, AgentNegotiation, NodeNegotiation]
every_process = pytest.mark.parametrize("process", EVERY)
TABLE = {
    "hmac-md5": (1, 1, 16),
    "hmac-sha1": (1, 2, 20),
    "hmac-sha2-256": (1, 5, 32),
    "hmac-sha2-512": (1, 7, 64),
    "3des-cbc": (2, 3, 24),
    "null": (2, 11, 0),
    "aes-256-cbc": (2, 12, 32),
    "aes-256-gcm": (3, 20, 36),
    "chacha20-poly1305": (3, 28, 36),
}


Settings = TypeVar("Settings", bound=BaseModel)


def read(process: type[Settings], settings: dict[str, Any]) -> Settings:
    """As kdc.config.load has it from a file."""
    return process.model_validate(_without_lists(settings))


def faults(process: type[BaseModel], settings: dict[str, Any]) -> list[str]:
    """What is said of these settings, one text a fault."""
    with pytest.raises(ValidationError) as refused:
        read(process, settings)
    return [_problem(fault).expected for fault in refused.value.errors(include_url=False)]


def test_names_are_those_of_the_page() -> None:
    assert {
        name: (suite.protocol_id, suite.transform_id, KEY_OCTETS[suite])
        for name, suite in SUITES.items()
    } == TABLE
    assert GROUPS == {
        "modp-768": 1,
        "modp-1024": 2,
        "modp-2048": 14,
        "modp-3072": 15,
        "modp-4096": 16,
        "p-256": 19,
        "x25519": 31,
    }
    assert {name: int(mode) for name, mode in MODES.items()} == {
        "stateless": 1,
        "stateful": 2,
        "semi-stateful": 3,
    }


# --- defaults -----------------------------------------------------------------------------------


@every_process
@pytest.mark.parametrize("pair", Pair)
def test_default_policy(process: type[NegotiationSettings], pair: Pair) -> None:
    policy = read(process, {}).build_policy(pair)
    assert policy.suites == ON_BY_DEFAULT
    assert policy.modes == {Mode.STATELESS, Mode.STATEFUL, Mode.SEMISTATEFUL}
    assert policy.default_mode is Mode.STATEFUL
    assert policy.groups == {14, 15, 16, 19, 31}
    assert not (policy.user_groups or policy.raw_dh or policy.formula_5)
    assert not (policy.fa_dh_any or policy.clear_fa_keys)
    assert (policy.maximum_lifetime_s, policy.ke_c_spi) == (86400, None)


def test_default_terms_of_each_process() -> None:
    home = HomeNegotiation().build_terms(("aes-256-gcm",))
    assert set(home.policies) == set(Pair) and home.suites == (GCM,)
    assert {policy.preferred for policy in home.policies.values()} == {((GCM,), (CHACHA,))}
    agent = AgentNegotiation().build_terms()
    assert set(agent.policies) == {Pair.MN_FA, Pair.FA_HA, Pair.MN_SMM}
    assert agent.fa_ha_plan is None and agent.other_groups == ()
    node = NodeNegotiation().build_terms()
    assert set(node.policies) == {Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM}
    # Section 6: an MN offers mode 2 with group 31 for pair 1 by default.
    assert node.plans == {Pair.MN_HA: OfferPlan(Mode.STATEFUL, (31,), lifetime_s=3600)}


def test_a_node_may_offer_nothing() -> None:
    assert read(NodeNegotiation, {"offer_nothing": True}).build_terms().plans == {}


# --- switches -----------------------------------------------------------------------------------

SUITE_SWITCHES = [
    ("hmac-md5", "legacy_suites"),
    ("hmac-sha1", "legacy_suites"),
    ("3des-cbc", "legacy_suites"),
    ("null", "null_encryption"),
]


@every_process
@pytest.mark.parametrize(("name", "switch"), SUITE_SWITCHES)
def test_an_old_suite_needs_its_switch(
    process: type[NegotiationSettings], name: str, switch: str
) -> None:
    settings = {"suites": [name, "aes-256-gcm"]}
    assert faults(process, settings) == [f"expected {switch} = true beside {name}"]
    other = "null_encryption" if switch == "legacy_suites" else "legacy_suites"
    assert faults(process, {**settings, other: True}) == [f"expected {switch} = true beside {name}"]
    policy = read(process, {**settings, switch: True}).build_policy(Pair.MN_FA)
    assert SUITES[name] in policy.suites and GCM in policy.suites


@every_process
@pytest.mark.parametrize(("name", "switch"), SUITE_SWITCHES)
@pytest.mark.parametrize("section", ["preferred", "mn_fa.suites", "mn_fa.preferred"])
def test_a_list_of_any_place_needs_the_switch(
    process: type[NegotiationSettings], name: str, switch: str, section: str
) -> None:
    together = ["hmac-sha2-256", name] if name in ("null", "3des-cbc") else [name]
    value: Any = [name] if section.endswith("suites") else [together]
    settings: dict[str, Any] = {section: value}
    if section.startswith("mn_fa."):
        settings = {"mn_fa": {section.removeprefix("mn_fa."): value}}
    assert faults(process, settings) == [f"expected {switch} = true beside {name}"]
    read(process, {**settings, switch: True})


def test_two_faults_of_one_switch_are_told_in_order() -> None:
    told = faults(HomeNegotiation, {"suites": ["hmac-sha1", "3des-cbc", "hmac-md5"]})
    assert told == ["expected legacy_suites = true beside 3des-cbc, hmac-md5, hmac-sha1"]


@every_process
def test_a_switch_alone_adds_its_suites(process: type[NegotiationSettings]) -> None:
    legacy = read(process, {"legacy_suites": True}).build_policy(Pair.MN_FA)
    assert legacy.suites == ON_BY_DEFAULT | {MD5, SHA1, TRIPLE_DES}
    null = read(process, {"null_encryption": True}).build_policy(Pair.MN_FA)
    assert null.suites == ON_BY_DEFAULT | {NULL}


@every_process
@pytest.mark.parametrize(("name", "group"), [("modp-768", 1), ("modp-1024", 2)])
def test_an_old_group_needs_its_switch(
    process: type[NegotiationSettings], name: str, group: int
) -> None:
    settings = {"groups": ["x25519", name]}
    assert faults(process, settings) == [f"expected legacy_groups = true beside {name}"]
    allowed = read(process, {**settings, "legacy_groups": True}).build_policy(Pair.MN_FA)
    assert group in allowed.groups
    alone = read(process, {"legacy_groups": True}).build_policy(Pair.MN_FA)
    assert alone.groups == {1, 2, 14, 15, 16, 19, 31}


@every_process
@pytest.mark.parametrize("switch", ["user_groups", "raw_dh", "formula_5"])
def test_each_other_switch_is_its_own(process: type[NegotiationSettings], switch: str) -> None:
    policy = read(process, {switch: True}).build_policy(Pair.MN_FA)
    switches = {name: getattr(policy, name) for name in ("user_groups", "raw_dh", "formula_5")}
    assert switches == {name: name == switch for name in switches}


@pytest.mark.parametrize("process", [HomeNegotiation, AgentNegotiation])
def test_fa_dh_any(process: type[HomeNegotiation | AgentNegotiation]) -> None:
    settings = read(process, {"fa_dh": "any"})
    terms = (
        settings.build_terms(("aes-256-gcm",))
        if isinstance(settings, HomeNegotiation)
        else settings.build_terms()
    )
    assert all(policy.fa_dh_any for policy in terms.policies.values())
    assert faults(process, {"fa_dh": "x448"}) == ["expected 'x25519' or 'any'"]


def test_an_agent_makes_keys_of_other_groups_for_fa_dh_any_alone() -> None:
    groups = ["x25519", "p-256", "modp-2048"]
    assert read(AgentNegotiation, {"groups": groups}).build_terms().other_groups == ()
    settings = read(AgentNegotiation, {"groups": groups, "fa_dh": "any"})
    assert settings.build_terms().other_groups == (14, 19)


# --- messages -----------------------------------------------------------------------------------

SUITE_NAMES = ", ".join(TABLE)


@every_process
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"suites": ["aes-128"]}, [f"expected one of {SUITE_NAMES}"]),
        ({"suites": ["AES-256-GCM"]}, [f"expected one of {SUITE_NAMES}"]),
        ({"suites": [20]}, [f"expected one of {SUITE_NAMES}"]),
        ({"suites": []}, ["expected at least one"]),
        ({"modes": []}, ["expected at least one"]),
        ({"modes": ["mixed"]}, ["expected one of stateless, stateful, semi-stateful"]),
        (
            {"groups": ["group-5"]},
            ["expected one of modp-768, modp-1024, modp-2048, modp-3072, modp-4096, p-256, x25519"],
        ),
        ({"preferred": [[]]}, ["expected at least one"]),
        (
            {"preferred": [["aes-256-gcm", "chacha20-poly1305"]]},
            ["expected at most one suite of a kind: authentication, encryption, AEAD"],
        ),
        (
            {"preferred": [["null"]], "null_encryption": True},
            ["expected an authentication suite beside null"],
        ),
        (
            {"preferred": [["aes-256-gcm", "null"]], "null_encryption": True},
            ["expected an authentication suite beside null"],
        ),
        ({"maximum_lifetime_s": 0}, ["expected greater than or equal to 1"]),
        (
            {"maximum_lifetime_s": 2**32 - 1},
            ["expected less than or equal to 4294967294"],
        ),
        ({"suite": ["aes-256-gcm"]}, ["unknown key"]),
        ({"mn_fa": {"groups": ["x25519"]}}, ["unknown key"]),
        ({"mn_fa": {"suites": []}}, ["expected at least one"]),
    ],
)
def test_what_was_expected_is_said(
    process: type[NegotiationSettings], settings: dict[str, Any], told: list[str]
) -> None:
    assert faults(process, settings) == told


@pytest.mark.parametrize(
    ("process", "section"),
    [(AgentNegotiation, "mn_ha"), (NodeNegotiation, "fa_ha"), (AgentNegotiation, "default_mode")],
)
def test_what_a_party_does_not_decide_is_refused(
    process: type[NegotiationSettings], section: str
) -> None:
    assert faults(process, {section: {}}) == ["unknown key"]


def test_every_wrong_name_is_told_once() -> None:
    told = faults(HomeNegotiation, {"suites": ["one", "aes-256-gcm", "two"], "modes": ["three"]})
    assert len(told) == 3


# --- pairs --------------------------------------------------------------------------------------


def test_what_stands_in_a_pairs_section_holds_for_that_pair_alone() -> None:
    settings = read(
        HomeNegotiation,
        {
            "suites": ["aes-256-gcm", "chacha20-poly1305"],
            "modes": ["stateful", "semi-stateful"],
            "preferred": [["aes-256-gcm"]],
            "fa_ha": {
                "suites": ["hmac-sha2-256", "aes-256-cbc"],
                "modes": ["semi-stateful"],
                "default_mode": "semi-stateful",
                "preferred": [["hmac-sha2-256", "aes-256-cbc"]],
            },
        },
    )
    policies = settings.build_terms(("aes-256-gcm",)).policies
    own = policies[Pair.FA_HA]
    assert own.suites == {HMAC, CBC} and own.modes == {Mode.SEMISTATEFUL}
    assert (own.default_mode, own.preferred) == (Mode.SEMISTATEFUL, ((HMAC, CBC),))
    for pair in (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM):
        policy = policies[pair]
        assert policy.suites == {GCM, CHACHA} and policy.preferred == ((GCM,),)
        assert policy.modes == {Mode.STATEFUL, Mode.SEMISTATEFUL}
        assert policy.default_mode is Mode.STATEFUL


@pytest.mark.parametrize(
    ("section", "pair"),
    [
        ("mn_ha", Pair.MN_HA),
        ("mn_fa", Pair.MN_FA),
        ("fa_ha", Pair.FA_HA),
        ("mn_smm", Pair.MN_SMM),
    ],
)
def test_each_section_is_of_its_pair(section: str, pair: Pair) -> None:
    settings: dict[str, Any] = {section: {"preferred": []}}
    terms = read(HomeNegotiation, settings).build_terms(("aes-256-gcm",))
    assert [p for p, policy in terms.policies.items() if policy.preferred == ()] == [pair]
    if pair is not Pair.MN_HA:
        agent = read(AgentNegotiation, settings).build_terms()
        assert [p for p, policy in agent.policies.items() if policy.preferred == ()] == [pair]
    if pair is not Pair.FA_HA:
        node = read(NodeNegotiation, settings).build_terms()
        assert [p for p, policy in node.policies.items() if policy.preferred == ()] == [pair]


def test_the_switch_of_old_suites_does_not_widen_a_pairs_own_list() -> None:
    settings = {"legacy_suites": True, "mn_fa": {"suites": ["aes-256-gcm"]}}
    policies = read(HomeNegotiation, settings).build_terms(("aes-256-gcm",)).policies
    assert policies[Pair.MN_FA].suites == {GCM} and MD5 in policies[Pair.MN_HA].suites


# --- the default mode ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"default_mode": "stateless"},
        {"mn_ha": {"default_mode": "stateless"}},
        {"mn_smm": {"default_mode": "stateless"}, "modes": ["stateful", "stateless"]},
    ],
)
def test_a_default_mode_needs_no_offer(settings: dict[str, Any]) -> None:
    told = ["expected default_mode to need no offer: stateful, semi-stateful"]
    assert faults(HomeNegotiation, settings) == told


@pytest.mark.parametrize(
    "settings",
    [
        {"modes": ["semi-stateful"]},
        {"modes": ["stateless"]},
        {"default_mode": "semi-stateful", "modes": ["stateful"]},
        {"fa_ha": {"modes": ["semi-stateful"]}},
        {"fa_ha": {"default_mode": "semi-stateful"}, "modes": ["stateful"]},
    ],
)
def test_a_default_mode_is_one_of_the_modes(settings: dict[str, Any]) -> None:
    assert faults(HomeNegotiation, settings) == ["expected default_mode to be one of modes"]


@pytest.mark.parametrize("mode", ["stateful", "semi-stateful"])
def test_the_default_mode_of_a_home(mode: str) -> None:
    settings = read(HomeNegotiation, {"default_mode": mode, "modes": [mode]})
    policies = settings.build_terms(("aes-256-gcm",)).policies
    assert {policy.default_mode for policy in policies.values()} == {MODES[mode]}


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        (["semi-stateful"], Mode.SEMISTATEFUL),
        (["stateless"], Mode.STATELESS),
        (["semi-stateful", "stateful"], Mode.STATEFUL),
    ],
)
def test_a_node_that_takes_one_mode_alone_expects_it(modes: list[str], expected: Mode) -> None:
    """It chooses no default of its own; home's must be one that it takes."""
    terms = read(NodeNegotiation, {"modes": modes, "offer_nothing": True}).build_terms()
    assert {policy.default_mode for policy in terms.policies.values()} == {expected}


# --- offers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "plan"),
    [
        ({}, OfferPlan(Mode.STATEFUL)),
        ({"mode": "semi-stateful"}, OfferPlan(Mode.SEMISTATEFUL)),
        ({"mode": "stateless", "groups": ["x25519"]}, OfferPlan(Mode.STATELESS, (31,))),
        (
            {"groups": ["p-256", "x25519"], "lifetime_s": 60},
            OfferPlan(Mode.STATEFUL, (19, 31), lifetime_s=60),
        ),
        ({"carrier": "ke-c"}, OfferPlan(Mode.STATEFUL, sealed=True)),
        ({"carrier": "clear"}, OfferPlan(Mode.STATEFUL, in_the_clear=True)),
        ({"alternatives": 8}, OfferPlan(Mode.STATEFUL, alternatives=8)),
        ({"lifetime_s": 2**32 - 2}, OfferPlan(Mode.STATEFUL, lifetime_s=2**32 - 2)),
    ],
)
def test_an_offer_as_a_plan(offer: dict[str, Any], plan: OfferPlan) -> None:
    assert read(Offer, offer).build_plan() == plan
    terms = read(AgentNegotiation, {"offer_fa_ha": offer, "fa_dh": "any"}).build_terms()
    assert terms.fa_ha_plan == plan


@pytest.mark.parametrize(
    ("offer", "told"),
    [
        ({"mode": "stateless"}, "expected groups for a stateless offer"),
        (
            {"groups": ["x25519"], "carrier": "ke-c"},
            "expected either groups or another place for the secret, not both",
        ),
        (
            {"groups": ["x25519"], "carrier": "clear"},
            "expected either groups or another place for the secret, not both",
        ),
        ({"carrier": "letter"}, "expected 'sa-info', 'ke-c' or 'clear'"),
        ({"lifetime_s": 0}, "expected greater than or equal to 1"),
        ({"lifetime_s": 2**32 - 1}, "expected less than or equal to 4294967294"),
        ({"alternatives": 0}, "expected greater than or equal to 1"),
        ({"alternatives": 9}, "expected less than or equal to 8"),
        ({"mode": "mixed"}, "expected one of stateless, stateful, semi-stateful"),
        ({"group": ["x25519"]}, "unknown key"),
    ],
)
def test_an_offer_that_contradicts_itself(offer: dict[str, Any], told: str) -> None:
    assert faults(AgentNegotiation, {"offer_fa_ha": offer}) == [told]
    assert faults(NodeNegotiation, {"offer_mn_fa": offer}) == [told]


def test_a_node_offers_each_pair_by_its_own_plan() -> None:
    terms = read(
        NodeNegotiation,
        {
            "offer_mn_ha": {"mode": "semi-stateful"},
            "offer_mn_fa": {"carrier": "ke-c"},
            "offer_mn_smm": {"groups": ["x25519"]},
        },
    ).build_terms()
    assert terms.plans == {
        Pair.MN_HA: OfferPlan(Mode.SEMISTATEFUL),
        Pair.MN_FA: OfferPlan(Mode.STATEFUL, sealed=True),
        Pair.MN_SMM: OfferPlan(Mode.STATEFUL, (31,)),
    }


@pytest.mark.parametrize(
    ("process", "section"),
    [
        (NodeNegotiation, "offer_mn_ha"),
        (NodeNegotiation, "offer_mn_fa"),
        (NodeNegotiation, "offer_mn_smm"),
        (AgentNegotiation, "offer_fa_ha"),
    ],
)
def test_nothing_is_offered_that_is_not_allowed(
    process: type[NegotiationSettings], section: str
) -> None:
    """What a party offers it must be ready to take: groups behind their switch, modes, groups."""
    settings: dict[str, Any] = {"fa_dh": "any"} if process is AgentNegotiation else {}
    if process is NodeNegotiation:
        settings["offer_mn_ha"] = {}
    legacy = {**settings, section: {"groups": ["modp-768"]}}
    assert faults(process, legacy) == ["expected legacy_groups = true beside modp-768"]
    read(process, {**legacy, "legacy_groups": True})
    narrow = {**settings, "groups": ["p-256"]}
    narrow[section] = {"groups": ["p-256", "x25519"]}
    assert faults(process, narrow) == ["expected x25519 among groups, as it is offered"]
    modes = {**settings, "modes": ["stateful"], section: {"mode": "semi-stateful"}}
    assert faults(process, modes) == ["expected semi-stateful among modes, as it is offered"]
    own = {**settings, section: {"mode": "semi-stateful"}}
    own[section.removeprefix("offer_")] = {"modes": ["stateful"]}
    assert faults(process, own) == ["expected semi-stateful among modes, as it is offered"]


def test_a_node_that_offers_nothing_has_no_offer_to_be_judged() -> None:
    read(NodeNegotiation, {"modes": ["semi-stateful"], "offer_nothing": True})
    told = faults(NodeNegotiation, {"modes": ["semi-stateful"]})
    assert told == ["expected stateful among modes, as it is offered"]


def test_an_agent_offers_another_group_for_fa_dh_any_alone() -> None:
    offer = {"offer_fa_ha": {"groups": ["p-256"]}}
    assert faults(AgentNegotiation, offer) == ["expected fa_dh = any to offer groups beside x25519"]
    read(AgentNegotiation, {**offer, "fa_dh": "any"})


def test_an_agent_offers_what_attribute_5_holds() -> None:
    """More would fail every registration; a group of 4,096 bits has 512 octets of a value."""
    fits = {"fa_dh": "any", "offer_fa_ha": {"groups": ["modp-4096", "modp-2048", "x25519"]}}
    read(AgentNegotiation, fits)
    offer = {"groups": ["modp-4096", "modp-3072", "modp-2048"]}
    (told,) = faults(AgentNegotiation, {"fa_dh": "any", "offer_fa_ha": offer})
    assert told.startswith("expected an offer_fa_ha of at most 1024 octets, not 1")
    assert told.endswith(": fewer or smaller groups, or fewer alternatives")


def test_an_agent_offers_nothing_that_would_never_go_out() -> None:
    groups = ["x25519", "p-256", "modp-768", "modp-1024", "modp-2048"]
    five = {"fa_dh": "any", "legacy_groups": True, "offer_fa_ha": {"groups": groups}}
    assert faults(AgentNegotiation, five) == ["expected at most 4 groups in an offer"]
    own = {"user_group": {"prime": "ff" * 256, "generator": "02"}}
    (told,) = faults(AgentNegotiation, {"fa_dh": "any", "user_groups": True, "offer_fa_ha": own})
    assert told.startswith("expected no user_group in offer_fa_ha")


def test_an_offer_is_measured_as_it_is_made() -> None:
    offer_fa_ha = {"groups": ["p-256", "modp-2048"]}
    settings = read(AgentNegotiation, {"fa_dh": "any", "offer_fa_ha": offer_fa_ha})
    terms = settings.build_terms()
    assert terms.fa_ha_plan is not None
    policy, keys = terms.policies[Pair.FA_HA], generate_keys(terms.fa_ha_plan, os.urandom)
    offer = prepare_offer(Pair.FA_HA, policy, terms.fa_ha_plan, History(), keys=keys)
    assert offer is not None
    assert measure_offer(Pair.FA_HA, policy, terms.fa_ha_plan) == len(offer.octets)


def test_a_node_has_no_secret_in_the_clear_to_ask_for() -> None:
    """Sub-type 240 is of pair 3 alone (PROTOCOL section 6)."""
    assert KE_SECRET == 240
    for section in ("offer_mn_ha", "offer_mn_fa", "offer_mn_smm"):
        told = faults(NodeNegotiation, {section: {"carrier": "clear"}})
        assert told == ["expected carrier clear for fa_ha alone"]


def test_the_policies_of_the_roles_are_what_the_defaults_of_the_code_are() -> None:
    """A process without [negotiation] negotiates as the roles by themselves do."""
    home = HomeNegotiation().build_terms(("aes-256-gcm",)).policies
    assert set(home.values()) == {Policy()}
