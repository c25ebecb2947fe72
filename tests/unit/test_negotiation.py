"""Negotiation against the vectors of PROTOCOL section 6, and what no vector shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdc.errors import DENIED_ADMINISTRATIVELY, LocalError, NotAcceptable
from kdc.model import Mode, Pair, Suite
from kdc.negotiation import (
    DEFAULT_POLICY_SUITES,
    NULL,
    Agreement,
    History,
    Policy,
    build_answer,
    build_counter_proposal,
    build_offer,
    choice,
    derivation_of,
    is_counter_proposal,
    select_agreement,
    take_counter_proposal,
    verify_answer,
    verify_within,
)
from kdc.negotiation.choice import combinations
from kdc.wire.payloads import (
    KEY_MODE,
    Attribute,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
    decode_sa_payload,
    encode_sa_payload,
)
from tests.vectors_loader import Vector, octets, vector_id, vectors

VECTORS = vectors("negotiation")
RESPONDER = [v for v in VECTORS if "policy" in v["in"]]
INITIATOR = [v for v in VECTORS if "answer" in v["in"]]
GCM, CHACHA, HMAC, CBC = Suite(3, 20), Suite(3, 28), Suite(1, 5), Suite(2, 12)


def _policy(tree: dict[str, Any]) -> Policy:
    return Policy(
        suites=frozenset(Suite(*suite) for suite in tree["suites"]),
        modes=frozenset(Mode(mode) for mode in tree["modes"]),
        default_mode=Mode(tree["default_mode"]),
        groups=frozenset(tree["groups"]),
        user_groups=tree["user_groups"],
        raw_dh=tree["raw_dh"],
        maximum_lifetime_s=tree["max_lifetime"],
        ke_c_spi=tree["kec_spi"],
        clear_fa_keys=tree["clear_240"],
    )


def _sub_type(ke: KeyExchange | None) -> int | None:
    if ke is None:
        return None
    return ke.group if isinstance(ke, KeA) else (241 if isinstance(ke, KeB) else 242)


def test_every_vector_is_used() -> None:
    assert len(RESPONDER) + len(INITIATOR) == len(VECTORS) == 63


@pytest.mark.parametrize("vector", RESPONDER, ids=vector_id)
def test_responder(vector: Vector) -> None:
    offer, policy = (
        decode_sa_payload(octets(vector["in"]["offer"])),
        _policy(vector["in"]["policy"]),
    )
    if "refuse" in vector:
        with pytest.raises(NotAcceptable) as refusal:
            select_agreement(offer, policy)
        assert refusal.value.reply_code == vector["refuse"]["code"] == DENIED_ADMINISTRATIVELY
        return
    out = vector["out"]
    agreement = select_agreement(offer, policy)
    public_value = octets(vector["in"]["responder_cv"] or "")
    answer = build_answer(agreement, spi=vector["in"]["spi"], public_value=public_value)
    assert encode_sa_payload(answer) == octets(out["answer"])
    chosen = [[p.protocol_id, *_numbers(p.transforms[0])] for p in agreement.proposals]
    assert (agreement.number, chosen) == (out["proposal"], out["transforms"])
    assert (agreement.mode, _sub_type(agreement.key_exchange)) == (out["mode"], out["group"])
    verified = verify_answer(offer, answer)
    assert verified.suites == agreement.suites
    assert verified.key_exchange == agreement.key_exchange
    assert verified.mode in (agreement.mode, None)


def _numbers(transform: Transform) -> tuple[int, int]:
    return transform.number, transform.transform_id


@pytest.mark.parametrize("vector", INITIATOR, ids=vector_id)
def test_initiator(vector: Vector) -> None:
    offer = decode_sa_payload(octets(vector["in"]["offer"]))
    answer = decode_sa_payload(octets(vector["in"]["answer"]))
    if "refuse" in vector:
        with pytest.raises(NotAcceptable):
            verify_answer(offer, answer)
        return
    agreement = verify_answer(offer, answer)
    assert agreement.spi == answer.proposals[0].spi
    assert agreement.lifetime_s == min(p.lifetime_s for p in answer.proposals)
    assert agreement.answered == next(iter(answer.proposals[-1].key_exchanges), None)


def _offer(
    *suites: Suite, pair: Pair = Pair.MN_HA, mode: Mode | None = None, kes: tuple[KeyExchange, ...]
) -> SaPayload:
    """One proposal number with all the suites ANDed."""
    attributes = () if mode is None else (Attribute(128, mode.to_bytes(2, "big")),)
    proposals = [
        Proposal(
            1,
            n,
            suite.protocol_id,
            3600,
            0,
            (Transform(1, suite.transform_id, int(suite != NULL), attributes),),
        )
        for n, suite in enumerate(suites, 1)
    ]
    proposals[-1] = replace(proposals[-1], key_exchanges=kes)
    return SaPayload(pair, tuple(proposals))


PRIME = (2**2048 - 1).to_bytes(256, "big")
USER = KeB(PRIME, b"\x02", bytes(255) + b"\x07")
USER_POLICY = Policy(user_groups=True)


@pytest.mark.parametrize(
    ("ke", "policy", "pair", "used"),
    [
        pytest.param(KeA(31, 0, bytes(32)), Policy(), Pair.MN_FA, True, id="fa-group-31"),
        pytest.param(KeA(19, 0, bytes(65)), Policy(), Pair.MN_FA, False, id="fa-group-19"),
        pytest.param(
            KeA(19, 0, bytes(65)), Policy(fa_dh_any=True), Pair.FA_HA, True, id="fa-dh-any"
        ),
        pytest.param(KeA(19, 0, bytes(64)), Policy(), Pair.MN_HA, False, id="length"),
        pytest.param(KeA(31, 2, bytes(32)), Policy(), Pair.MN_HA, False, id="other-transform"),
        pytest.param(USER, Policy(), Pair.MN_HA, False, id="user-groups-off"),
        pytest.param(USER, USER_POLICY, Pair.MN_HA, True, id="user-groups-on"),
        pytest.param(USER, USER_POLICY, Pair.MN_SMM, False, id="user-group-for-the-fa"),
        pytest.param(
            replace(USER, prime=bytes(1) + PRIME[1:]),
            USER_POLICY,
            Pair.MN_HA,
            False,
            id="user-group-of-2040-bits",
        ),
        pytest.param(
            replace(USER, public_value=b"\x07"), USER_POLICY, Pair.MN_HA, False, id="cv-not-padded"
        ),
        pytest.param(
            replace(USER, generator=b"\x01"), USER_POLICY, Pair.MN_HA, False, id="generator-1"
        ),
        pytest.param(KeC(300, b"x"), Policy(ke_c_spi=300), Pair.MN_HA, False, id="ke-c-data"),
        pytest.param(KeA(240, 0, b""), Policy(clear_fa_keys=True), Pair.FA_HA, True, id="240"),
        pytest.param(
            KeA(240, 0, b""), Policy(clear_fa_keys=True), Pair.MN_HA, False, id="240-pair-1"
        ),
        pytest.param(
            KeA(240, 0, b"x"), Policy(clear_fa_keys=True), Pair.FA_HA, False, id="240-data"
        ),
    ],
)
def test_which_key_exchange_is_used(
    ke: KeyExchange, policy: Policy, pair: Pair, used: bool
) -> None:
    agreement = select_agreement(_offer(GCM, pair=pair, mode=Mode.STATEFUL, kes=(ke,)), policy)
    assert (agreement.key_exchange is not None) is used


def test_a_user_group_is_answered_with_its_own_group() -> None:
    offer = _offer(GCM, kes=(USER,))
    value = bytes(255) + b"\x09"
    answer = build_answer(select_agreement(offer, USER_POLICY), spi=300, public_value=value)
    assert answer.proposals[0].key_exchanges == (replace(USER, public_value=value),)
    assert verify_answer(offer, answer).mode is Mode.STATELESS
    other = replace(USER, generator=b"\x03", public_value=value)
    proposal = replace(answer.proposals[0], key_exchanges=(other,))
    with pytest.raises(NotAcceptable):
        verify_answer(offer, replace(answer, proposals=(proposal,)))


def test_a_ke_bound_to_the_second_of_two_like_transforms() -> None:
    """Transforms that name the same suite and mode still differ by the KE that serves them."""
    transforms = tuple(Transform(n, 20, 1, (Attribute(128, b"\x00\x01"),)) for n in (1, 2, 3))
    proposal = Proposal(1, 1, 3, 60, 0, transforms, (KeA(31, 2, bytes(32)),))
    agreement = select_agreement(SaPayload(Pair.MN_HA, (proposal,)), Policy())
    assert agreement.proposals[0].transforms == (transforms[1],)


@pytest.mark.parametrize("last", [Mode.STATEFUL, Mode.SEMISTATEFUL])
def test_a_mode_holds_across_a_protocol_that_names_none(last: Mode) -> None:
    modes = {HMAC: Mode.STATEFUL, CBC: None, GCM: last}
    single = [_offer(suite, mode=mode, kes=()).proposals[0] for suite, mode in modes.items()]
    proposals = tuple(replace(p, protocol_number=n) for n, p in enumerate(single, 1))
    offer = SaPayload(Pair.MN_HA, proposals)
    if last is Mode.STATEFUL:
        assert select_agreement(offer, Policy()).mode is last
        return
    with pytest.raises(NotAcceptable):
        select_agreement(offer, Policy())


def test_an_answer_belongs_to_the_ke_that_was_not_passed_over() -> None:
    offer = _offer(GCM, mode=Mode.STATEFUL, kes=(KeC(300, b"x"), KeC(300)))
    answer = build_answer(select_agreement(offer, Policy(ke_c_spi=300)), spi=300, sealed=b"y")
    agreement = verify_answer(offer, answer)
    assert (agreement.key_exchange, agreement.answered) == (KeC(300), KeC(300, b"y"))


def test_no_mode_and_stateless_off_passes_the_ke_over() -> None:
    offer = _offer(GCM, kes=(KeA(31, 0, bytes(32)),))
    policy = Policy(modes=frozenset({Mode.STATEFUL}))
    agreement = select_agreement(offer, policy)
    assert (agreement.mode, agreement.key_exchange) == (Mode.STATEFUL, None)


def test_a_default_of_stateless_needs_a_key_exchange() -> None:
    with pytest.raises(NotAcceptable):
        select_agreement(_offer(GCM, kes=()), Policy(default_mode=Mode.STATELESS))


def test_many_protocols_in_one_number_cost_nothing() -> None:
    """Sixteen transforms each of eight protocols would be 16**8 combinations."""
    transforms = tuple(Transform(n, 20, 1) for n in range(1, 17))
    proposals = tuple(Proposal(1, n, n, 60, 0, transforms) for n in range(1, 9))
    offer = SaPayload(Pair.MN_HA, proposals)
    with pytest.raises(NotAcceptable):
        select_agreement(offer, Policy())
    assert History().rejecting(offer) == History(1)


def test_bindings_to_what_policy_does_not_use_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four KEs of a group that is not used, each bound to a transform, make no choices apart."""
    stateless = (Attribute(KEY_MODE, b"\x00\x01"),)
    suites = {1: 5, 2: 12, 3: 20}
    proposals = tuple(
        Proposal(
            1, protocol, protocol, 60, 0, tuple(Transform(n, t, 1, stateless) for n in range(1, 17))
        )
        for protocol, t in suites.items()
    )
    kes = tuple(KeA(77, number, bytes(32)) for number in range(1, 5))
    offered = (*proposals[:-1], replace(proposals[-1], key_exchanges=kes))
    assert len(list(combinations(offered, Policy(), kes))) == 125  # what the bindings would make
    tried = []

    def match(chosen: SaPayload, *rest: Any) -> None:
        tried.append(chosen)

    monkeypatch.setattr(choice, "_match", match)
    with pytest.raises(NotAcceptable):
        select_agreement(SaPayload(Pair.MN_HA, offered), Policy())
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("pair", "spi", "accepted"),
    [
        (Pair.MN_HA, 256, True),
        (Pair.MN_HA, 255, False),
        (Pair.FA_HA, 0, False),
        (Pair.MN_FA, 0, True),
        (Pair.MN_SMM, 256, False),
    ],
)
def test_the_spi_of_an_answer(pair: Pair, spi: int, accepted: bool) -> None:
    offer = _offer(GCM, pair=pair, kes=())
    answer = replace(offer, proposals=(replace(offer.proposals[0], spi=spi),))
    if accepted:
        assert verify_answer(offer, answer).spi == spi
        return
    with pytest.raises(NotAcceptable):
        verify_answer(offer, answer)


def test_an_answer_for_another_pair() -> None:
    offer = _offer(GCM, pair=Pair.MN_FA, kes=())
    with pytest.raises(NotAcceptable):
        verify_answer(offer, replace(offer, pair=Pair.MN_SMM))


def _fa_answer(offer: SaPayload, policy: Policy) -> Agreement:
    value = bytes(range(32)) if offer.proposals[-1].key_exchanges else b""
    answer = build_answer(select_agreement(offer, policy), spi=300, public_value=value)
    return verify_answer(offer, answer)


def test_home_judges_what_the_fa_answered() -> None:
    offer = _offer(HMAC, NULL, pair=Pair.MN_FA, kes=())
    agreement = _fa_answer(offer, Policy(suites=DEFAULT_POLICY_SUITES | {NULL}))
    home = Policy(suites=DEFAULT_POLICY_SUITES | {NULL}, default_mode=Mode.SEMISTATEFUL)
    assert agreement.mode is None
    assert verify_within(agreement, home).mode is Mode.SEMISTATEFUL
    with pytest.raises(NotAcceptable):
        verify_within(agreement, Policy())


@pytest.mark.parametrize("modes", [{Mode.STATEFUL}, {Mode.STATEFUL, Mode.STATELESS}])
def test_home_judges_the_fa_s_stateless_answer(modes: set[Mode]) -> None:
    offer = _offer(GCM, pair=Pair.MN_FA, kes=(KeA(31, 0, bytes(32)),))
    agreement = _fa_answer(offer, Policy())
    home = Policy(modes=frozenset(modes))
    if Mode.STATELESS in modes:
        assert verify_within(agreement, home) == agreement
        return
    with pytest.raises(NotAcceptable):
        verify_within(agreement, home)


def test_home_leaves_the_lifetime_that_the_fa_answered() -> None:
    agreement = _fa_answer(_offer(GCM, pair=Pair.MN_FA, kes=()), Policy())
    assert verify_within(agreement, Policy(maximum_lifetime_s=60)).lifetime_s == 3600


@pytest.mark.parametrize(
    ("mode", "ke", "policy", "derivation"),
    [
        (Mode.STATEFUL, None, Policy(), 0),
        (Mode.SEMISTATEFUL, None, Policy(), 2),
        (Mode.SEMISTATEFUL, None, Policy(formula_5=True), 1),
        (Mode.SEMISTATEFUL, KeA(14, 0, bytes(256)), Policy(formula_5=True), 3),
        (Mode.STATEFUL, KeA(14, 0, bytes(256)), Policy(raw_dh=True), 3),
        (Mode.STATELESS, KeA(14, 0, bytes(256)), Policy(), 3),
        (Mode.STATELESS, KeA(14, 0, bytes(256)), Policy(raw_dh=True), 0),
        (Mode.STATEFUL, KeC(300), Policy(ke_c_spi=300), 0),
    ],
)
def test_derivation(mode: Mode, ke: KeyExchange | None, policy: Policy, derivation: int) -> None:
    offer = _offer(GCM, mode=mode, kes=() if ke is None else (ke,))
    agreement = select_agreement(offer, policy)
    assert agreement.key_exchange == ke
    assert derivation_of(agreement, policy) == derivation


def test_a_counter_proposal_as_registration_vectors_have_it() -> None:
    """p-registration-counter-proposal and -counter-accepted."""
    offer = decode_sa_payload(
        octets("010100200200001c0101030100000e10000000000300000c0114010080800002")
    )
    home = Policy(suites=frozenset({CHACHA}), preferred=((GCM,), (CHACHA,)))
    with pytest.raises(NotAcceptable):
        select_agreement(offer, home)
    counter = build_counter_proposal(offer, home, lifetime_s=3600)
    assert counter is not None
    expected = octets("0101001c020000180201030100000e100000000003000008011c0100")
    assert encode_sa_payload(counter) == expected
    assert is_counter_proposal(offer, counter)
    assert not is_counter_proposal(offer, offer)
    taken = take_counter_proposal(counter, Policy(), History().rejecting(offer))
    assert encode_sa_payload(taken) == expected
    assert select_agreement(taken, home).suites == (CHACHA,)


def test_a_rejected_suite_is_not_offered_again() -> None:
    policy = Policy(preferred=((GCM,), (HMAC, CBC), (CHACHA,)))
    history = History()
    seen: list[tuple[int, list[int]]] = []
    while (offer := build_offer(Pair.MN_HA, policy, history, lifetime_s=60)) is not None:
        seen.append((history.highest_number, [p.number for p in offer.proposals]))
        single = tuple(p for p in offer.proposals if p.number == offer.proposals[0].number)
        history = history.rejecting(SaPayload(offer.pair, single))
    assert seen == [(0, [1, 2, 2, 3]), (1, [2, 2, 3]), (2, [3])]


def test_a_counter_proposal_is_taken_only_if_our_policy_would_have_offered_it() -> None:
    counter = build_offer(
        Pair.MN_HA, Policy(preferred=((HMAC,), (CHACHA,))), History(4), lifetime_s=60
    )
    assert counter is not None
    ke = KeA(31, 0, bytes(32))
    taken = take_counter_proposal(counter, Policy(), History(4), key_exchanges=(ke,))
    assert [(p.number, p.key_exchanges) for p in taken.proposals] == [(6, (ke,))]
    for policy, history in (
        (Policy(preferred=((GCM,),)), History(4)),
        (Policy(), History(4, frozenset({(CHACHA,)}))),
        (Policy(), History(5)),
    ):
        with pytest.raises(NotAcceptable):
            take_counter_proposal(counter, policy, history)


def test_numbers_and_limits_end_an_offer() -> None:
    assert build_offer(Pair.MN_HA, Policy(), History(255), lifetime_s=60) is None
    last = build_offer(Pair.MN_HA, Policy(), History(254), lifetime_s=60)
    assert last is not None
    assert [p.number for p in last.proposals] == [255]
    many = Policy(preferred=tuple((s,) for s in (GCM, CHACHA, HMAC, CBC, Suite(1, 7))) * 2)
    ke = KeA(31, 0, bytes(32))
    for kes, count in (((), 8), ((ke,), 4), ((ke, ke, ke), 1)):
        offer = build_offer(Pair.MN_HA, many, History(), lifetime_s=60, key_exchanges=kes)
        assert offer is not None
        assert len(offer.proposals) == count
        assert decode_sa_payload(encode_sa_payload(offer)) == offer


@pytest.mark.parametrize(
    "kwargs",
    [
        {"modes": frozenset({Mode.STATELESS})},
        {"groups": frozenset({5})},
        {"suites": frozenset({Suite(3, 1)})},
        {"maximum_lifetime_s": 0},
    ],
)
def test_a_policy_that_contradicts_itself(kwargs: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        Policy(**kwargs)


@pytest.mark.parametrize(("ke", "value"), [(KeA(31, 0, bytes(32)), b""), (None, bytes(32))])
def test_a_public_value_stands_where_one_is_used(ke: KeyExchange | None, value: bytes) -> None:
    agreement = select_agreement(_offer(GCM, kes=() if ke is None else (ke,)), Policy())
    with pytest.raises(LocalError):
        build_answer(agreement, spi=300, public_value=value)
