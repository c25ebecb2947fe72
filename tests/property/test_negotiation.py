"""The product's negotiation against the brute force of negotiation_reference, on random offers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kdc.errors import NotAcceptable
from kdc.model import Mode, Pair, Suite
from kdc.negotiation import (
    History,
    Policy,
    build_answer,
    select_agreement,
    take_counter_proposal,
    verify_answer,
    verify_within,
)
from kdc.wire.payloads import (
    Attribute,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
    encode_sa_payload,
)
from tests.property import negotiation_reference as reference

SUITES = sorted(reference.ALGORITHMS)
PRIME = (2**2048 - 1).to_bytes(256, "big")
KE_C_SPI = 70001
RESPONDER_SPI = 4242


@st.composite
def _attributes(draw: st.DrawFn, bits: int) -> tuple[Attribute, ...]:
    mode = st.sampled_from([1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 4])
    modes = st.builds(lambda m: Attribute(128, m.to_bytes(2, "big")), mode)
    length = st.sampled_from([bits, bits, bits + 8])
    lengths = st.builds(lambda n: Attribute(6, n.to_bytes(2, "big")), length)
    odd = st.sampled_from([Attribute(77, bytes(2)), Attribute(128, bytes([0, 2]), short=False)])
    few: st.SearchStrategy[list[Attribute]] = st.one_of(
        *[st.just([])] * 3,
        *[st.lists(modes, min_size=1, max_size=1)] * 4,
        st.lists(st.one_of(modes, lengths, odd), max_size=3),
    )
    return tuple(draw(few))


@st.composite
def _transforms(draw: st.DrawFn, protocol: int) -> tuple[Transform, ...]:
    ids = [transform for known, transform in SUITES if known == protocol] or [1]
    transforms: list[Transform] = []
    for number in sorted(draw(st.sets(st.integers(1, 5), min_size=1, max_size=4))):
        transform_id = draw(st.sampled_from([*ids * 5, 99]))
        count = 0 if (protocol, transform_id) == (2, 11) else 1
        if draw(st.integers(0, 19)) == 0:
            count += 1
        bits = reference.ALGORITHMS.get((protocol, transform_id), (0, 0))[1]
        transforms.append(Transform(number, transform_id, count, draw(_attributes(bits))))
    return tuple(transforms)


NUMBERS = st.sampled_from([0, 0, 1, 2, 5])
KEY_EXCHANGES: st.SearchStrategy[KeyExchange] = st.one_of(
    st.builds(
        lambda group, number: KeA(group, number, bytes(reference.VALUE_OCTETS[group])),
        st.sampled_from([1, 2, 14, 19, 31, 31, 31]),
        NUMBERS,
    ),
    st.builds(KeA, st.sampled_from([24, 31]), NUMBERS, st.just(bytes(11))),
    st.builds(KeA, st.just(240), NUMBERS, st.sampled_from([b"", b"", b"x"])),
    st.builds(
        KeB,
        st.sampled_from([PRIME, PRIME, PRIME[:255]]),
        st.sampled_from([b"\x02", b"\x01", b""]),
        st.sampled_from([bytes(256), bytes(256), bytes(255)]),
    ),
    st.builds(KeC, st.sampled_from([KE_C_SPI, KE_C_SPI, 300]), st.sampled_from([b"", b"", b"x"])),
)


@st.composite
def offers(draw: st.DrawFn) -> SaPayload:
    proposals: list[Proposal] = []
    kes_left = 4
    for number in sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=3))):
        pool = st.sampled_from([1, 2, 3] * 10 + [9])
        protocols = draw(st.lists(pool, min_size=1, max_size=3, unique=True))
        for protocol_number, protocol in enumerate(protocols, 1):
            kes = tuple(
                draw(st.lists(KEY_EXCHANGES, min_size=min(kes_left, 1), max_size=min(kes_left, 2)))
            )
            kes_left -= len(kes)
            lifetime_s = draw(st.sampled_from([60, 3600, 90000]))
            head = (number, protocol_number, protocol, lifetime_s, draw(st.sampled_from([0, 7])))
            proposals.append(Proposal(*head, draw(_transforms(protocol)), kes))
    return SaPayload(draw(st.sampled_from([Pair.MN_HA, *Pair])), tuple(proposals))


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    modes = draw(st.sampled_from([[1, 2, 3], [1, 2, 3], [2], [1], [2, 3], [1, 3]]))
    everything = [[1, 2, 14, 15, 16, 19, 31], [31, 14, 15, 16, 19], [31], []]
    some = st.sets(st.sampled_from(SUITES), min_size=1)
    suites = draw(st.one_of(*[st.just(set(SUITES))] * 3, some))
    return {
        "suites": [list(suite) for suite in suites],
        "modes": modes,
        "default_mode": draw(st.sampled_from(modes)),
        "groups": draw(st.sampled_from(everything)),
        "user_groups": draw(st.sampled_from([True, True, False])),
        "max_lifetime": draw(st.sampled_from([600, 86400])),
        "kec_spi": draw(st.sampled_from([None, KE_C_SPI, KE_C_SPI])),
        "clear_240": draw(st.booleans()),
        "raw_dh": draw(st.booleans()),
    }


def _policy(tree: dict[str, Any]) -> Policy:
    return Policy(
        suites=frozenset(Suite(*suite) for suite in tree["suites"]),
        modes=frozenset(map(Mode, tree["modes"])),
        default_mode=Mode(tree["default_mode"]),
        groups=frozenset(tree["groups"]),
        user_groups=tree["user_groups"],
        raw_dh=tree["raw_dh"],
        maximum_lifetime_s=tree["max_lifetime"],
        ke_c_spi=tree["kec_spi"],
        clear_fa_keys=tree["clear_240"],
    )


def _value(ke: KeyExchange | None) -> bytes:
    """A public value of the length that the group asks for."""
    if isinstance(ke, KeB):
        return b"\x07" * len(ke.prime)
    return b"\x07" * len(ke.data) if isinstance(ke, KeA) else b""


@settings(max_examples=200, deadline=None)
@given(offers(), policies())
def test_the_same_choice_and_the_same_answer(offer: SaPayload, tree: dict[str, Any]) -> None:
    expected = reference.select(encode_sa_payload(offer), tree)
    policy = _policy(tree)
    try:
        agreement = select_agreement(offer, policy)
    except NotAcceptable:
        event("refused")
        assert expected is None
        return
    assert expected is not None
    event(f"mode {agreement.mode}, {type(agreement.key_exchange).__name__}")
    assert agreement.mode == expected.mode
    value = _value(agreement.key_exchange)
    answer = build_answer(agreement, spi=RESPONDER_SPI, public_value=value)
    assert encode_sa_payload(answer) == reference.answer(
        offer.pair,
        expected,
        maximum_lifetime=tree["max_lifetime"],
        spi=RESPONDER_SPI,
        value=value,
    )
    verified = verify_answer(offer, answer)
    assert verify_within(verified, policy).mode == agreement.mode
    assert verified.key_exchange == agreement.key_exchange
    assert verified.lifetime_s == agreement.lifetime_s


CHANGES = st.sampled_from(
    ["lifetime", "number", "transform", "key_count", "protocol", "attribute", "group", "value"]
)


def _changed(answer: SaPayload, change: str) -> SaPayload:
    """The answer with one thing different that no offer of the test holds."""
    last = answer.proposals[-1]
    transform = last.transforms[0]
    kes = last.key_exchanges
    if change == "lifetime":
        last = replace(last, lifetime_s=90001)
    elif change == "number":
        last = replace(last, number=last.number + 10)
    elif change == "transform":
        last = replace(last, transforms=(replace(transform, number=99),))
    elif change == "key_count":
        last = replace(last, transforms=(replace(transform, key_count=7),))
    elif change == "protocol":
        last = replace(last, protocol_id=77)
    elif change == "attribute":
        attributes = (*transform.attributes, Attribute(78, bytes(2)))
        last = replace(last, transforms=(replace(transform, attributes=attributes),))
    elif change == "group":
        last = replace(last, key_exchanges=(KeA(15, 0, bytes(384)),))
    elif change == "value" and kes:
        last = replace(last, key_exchanges=(*kes, *kes))
    return replace(answer, proposals=(*answer.proposals[:-1], last))


@settings(deadline=None)
@given(offers(), policies(), CHANGES)
def test_a_changed_answer_is_refused(offer: SaPayload, tree: dict[str, Any], change: str) -> None:
    try:
        agreement = select_agreement(offer, _policy(tree))
    except NotAcceptable:
        return
    value = _value(agreement.key_exchange)
    answer = build_answer(agreement, spi=RESPONDER_SPI, public_value=value)
    changed = _changed(answer, change)
    if changed == answer:
        return
    event(change)
    try:
        verify_answer(offer, changed)
    except NotAcceptable:
        return
    raise AssertionError(f"a changed {change} was accepted")


@settings(deadline=None)
@given(offers(), offers(), policies())
def test_no_two_payloads_raise_anything_untyped(
    offer: SaPayload, other: SaPayload, tree: dict[str, Any]
) -> None:
    history = History().rejecting(offer)
    assert history.rejecting(offer) == history
    for judge in (
        lambda: verify_within(verify_answer(offer, other), _policy(tree)),
        lambda: take_counter_proposal(other, _policy(tree), history),
    ):
        try:
            judge()
        except NotAcceptable:
            continue
