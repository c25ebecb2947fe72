"""The product's negotiation against the brute force of negotiation_reference, on random offers."""

from __future__ import annotations

from collections import Counter

from hypothesis import event, given, note, settings
from hypothesis import strategies as st

from kdc.errors import NotAcceptable
from kdc.negotiation import (
    Agreement,
    History,
    build_answer,
    derivation_of,
    select_agreement,
    take_counter_proposal,
    verify_answer,
    verify_within,
)
from kdc.wire.payloads import SaPayload, encode_sa_payload
from tests.property import negotiation_reference as reference
from tests.property.negotiation_offers import (
    ROWS,
    Choices,
    any_combination,
    changed_answer,
    make_offer,
    make_rules,
    policy_of,
    value_for,
)

RESPONDER_SPI = 4242
EXAMPLES = 10_000
# Each of these must have been met at least so often, all but the refusals in what is accepted.
BRANCHES = {
    **{f"mode {mode}": 300 for mode in (1, 2, 3)},
    **{f"pair {pair}": 300 for pair in (1, 2, 3, 4)},
    **{f"group {group}": 10 for group in (1, 2, 14, 15, 16, 19)},
    "group 31": 300,
    "KE none": 500,
    "KE 240": 15,
    "KE-b": 15,
    "KE-c": 100,
    "KE of another group for an FA": 40,
    "KE bound to a transform": 60,
    "KE passed over": 400,
    "transform passed over": 400,
    "proposal passed over": 200,
    "AND": 200,
    "mixed": 200,
    "raw": 20,
    "implied stateless": 80,
    "default mode": 300,
    "NULL": 40,
    "lifetime lowered": 300,
    "refused: no suite": 200,
    "refused: NULL": 20,
    "refused: mode or KE": 200,
}


def _branches(found: reference.Found, offer: bytes, rules: reference.Rules) -> set[str]:
    """What this choice has met."""
    pair, ke, proposals = offer[1], found.ke, found.proposals
    told = {transform.mode for transform in found.transforms} - {None}
    kes = [key for proposal in proposals for key in proposal.kes]
    group = ke[1] if ke is not None and ke[1] < 240 else None
    is_group, raw = reference.is_group(ke), reference.is_raw(pair, found.mode, rules)
    firsts = tuple(proposal.transforms[0] for proposal in proposals)
    branches = {
        f"mode {found.mode}": True,
        f"pair {pair}": True,
        f"group {group}": group is not None,
        "KE none": ke is None,
        "KE 240": ke is not None and ke[1] == 240,
        "KE-b": ke is not None and ke[1] == 241,
        "KE-c": ke is not None and ke[1] == 242,
        "KE of another group for an FA": pair != 1 and group not in (None, 31),
        "KE bound to a transform": ke is not None and ke[1] <= 240 and ke[4] > 0,
        "KE passed over": bool(kes) and ke != kes[0],
        "transform passed over": found.transforms != firsts,
        "proposal passed over": proposals[0] != reference.parse(offer)[0],
        "AND": len(proposals) > 1,
        "mixed": is_group and found.mode != 1,
        "raw": is_group and raw,
        "implied stateless": is_group and not told,
        "default mode": not is_group and not told,
        "NULL": reference.NULL in found.suites,
        "lifetime lowered": any(p.lifetime > rules.maximum_lifetime for p in proposals),
    }
    return {branch for branch, is_met in branches.items() if is_met}


def _refusal(offer: bytes, rules: reference.Rules) -> str:
    allowed = [
        found.suites
        for found in reference.combinations(offer)
        if rules.suites.issuperset(found.suites)
    ]
    if not allowed:
        return "refused: no suite"
    if all(reference.NULL in suites for suites in allowed):
        return "refused: NULL"
    return "refused: mode or KE"


def test_the_same_choice_and_the_same_answer() -> None:
    """Ten thousand offers; a good share of them acceptable, and every branch among those."""
    met: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(ROWS)
    def judge(row: bytes) -> None:
        choices = Choices(row)
        rules, offer = make_rules(choices), make_offer(choices)
        octets = encode_sa_payload(offer)
        note(f"{offer}\n{rules}")
        expected = reference.select(octets, rules)
        met["offers"] += 1
        if expected is None:
            met[_refusal(octets, rules)] += 1
        else:
            met["accepted"] += 1
            met.update(_branches(expected, octets, rules))
        _compare(offer, rules, expected)

    judge()
    assert met["offers"] >= EXAMPLES
    assert 0.2 < met["accepted"] / met["offers"] < 0.8, met
    rare = {branch: met[branch] for branch, least in BRANCHES.items() if met[branch] < least}
    assert not rare, met


def _compare(offer: SaPayload, rules: reference.Rules, expected: reference.Found | None) -> None:
    policy = policy_of(rules)
    try:
        agreement = select_agreement(offer, policy)
    except NotAcceptable:
        assert expected is None, "refused though the page accepts it"
        return
    assert expected is not None, "accepted though the page refuses it"
    assert agreement.mode == expected.mode
    value = value_for(agreement.key_exchange)
    answer = build_answer(agreement, spi=RESPONDER_SPI, public_value=value)
    octets = encode_sa_payload(answer)
    assert octets == reference.answer(
        offer.pair,
        expected,
        maximum_lifetime=rules.maximum_lifetime,
        spi=RESPONDER_SPI,
        value=value,
    )
    assert derivation_of(agreement, policy) == _derivation(offer.pair, expected, rules)
    verified = verify_answer(offer, answer)
    assert verify_within(verified, policy).mode == agreement.mode
    assert verified.key_exchange == agreement.key_exchange
    assert verified.lifetime_s == agreement.lifetime_s


def _derivation(pair: int, found: reference.Found, rules: reference.Rules) -> int:
    """Section 7."""
    if reference.is_group(found.ke):
        return 0 if reference.is_raw(pair, found.mode, rules) else 3
    return 2 if found.mode == 3 else 0


def test_an_answer_is_taken_exactly_if_it_is_one_of_the_offers() -> None:
    met: Counter[bool] = Counter()

    @settings(max_examples=4000, deadline=None, database=None)
    @given(ROWS, st.binary(min_size=16, max_size=16))
    def judge(row: bytes, change: bytes) -> None:
        choices, changes = Choices(row), Choices(change)
        rules, offer = make_rules(choices), make_offer(choices)
        answer = any_combination(changes, offer, RESPONDER_SPI if offer.pair in (1, 3) else 0)
        if changes.below(2):
            try:
                agreement = select_agreement(offer, policy_of(rules))
            except NotAcceptable:
                return
            value = value_for(agreement.key_exchange)
            answer = build_answer(agreement, spi=RESPONDER_SPI, public_value=value)
            answer = changed_answer(changes, answer)
        note(f"{offer}\n{answer}")
        expected = reference.is_answer(encode_sa_payload(offer), encode_sa_payload(answer))
        met[expected] += 1
        assert (_verified(offer, answer) is not None) is expected

    judge()
    assert met[True] > 200 and met[False] > 500, met


def _verified(offer: SaPayload, answer: SaPayload) -> Agreement | None:
    try:
        return verify_answer(offer, answer)
    except NotAcceptable:
        return None


@settings(deadline=None)
@given(ROWS, ROWS)
def test_no_two_payloads_raise_anything_untyped(row: bytes, other_row: bytes) -> None:
    choices = Choices(row)
    policy, offer = policy_of(make_rules(choices)), make_offer(choices)
    other = make_offer(Choices(other_row))
    history = History().rejecting(offer)
    assert history.rejecting(offer) == history
    for judge in (
        lambda: verify_within(verify_answer(offer, other), policy),
        lambda: take_counter_proposal(other, policy, history),
    ):
        try:
            judge()
        except NotAcceptable:
            event("refused")
