"""Offers and policies for the property tests, each choice read off a row of random octets.

One row is one draw of hypothesis, which makes ten thousand rich offers cheap; it shrinks by
lowering octets, and the first of every list of choices is the plainest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from kdc.model import Mode, Pair, Suite
from kdc.negotiation import Policy
from kdc.wire.payloads import (
    Attribute,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
)
from tests.property import negotiation_reference as reference

Value = TypeVar("Value")
SUITES = sorted(reference.ALGORITHMS)
PRIME = (2**2048 - 1).to_bytes(256, "big")
KE_C_SPI = 70001
ROW_OCTETS = 160
ROWS = st.binary(min_size=ROW_OCTETS, max_size=ROW_OCTETS)

_MODES = (2, 1, 3, 1, 2, 3, 2, 0, 4)
_PAIRS = (Pair.MN_HA, Pair.FA_HA, Pair.MN_FA, Pair.MN_SMM, Pair.MN_HA)
_GROUPS = (31, 31, 31, 31, 31, 14, 19, 15, 16, 1, 2)
_NUMBERS = (0, 0, 0, 0, 1, 2, 5)
_PROTOCOLS = ((3,), (1,), (1, 2), (2, 1), (2,), (3, 1), (1, 3, 2), (2, 3), (9,), (3, 9))
_POLICY_MODES = ((1, 2, 3), (1, 2, 3), (1, 2, 3), (2, 3), (1, 3), (2,), (1,), (3,))
_ALL_GROUPS = (1, 2, 14, 15, 16, 19, 31)
_POLICY_GROUPS = (_ALL_GROUPS, _ALL_GROUPS, (31, 14, 15, 16, 19), (31,), (14,), ())
_ODD = (
    Attribute(77, bytes(2)),  # unknown
    Attribute(128, b"\x00\x02", short=False),  # the long form
    Attribute(6, b"\x00\x00\x01\x00", short=False),
)


class Choices:
    """A row of octets being used up; then always the first choice."""

    def __init__(self, row: bytes) -> None:
        self._row = iter(row)

    def below(self, limit: int) -> int:
        return next(self._row, 0) % limit

    def of(self, choices: Sequence[Value]) -> Value:
        return choices[self.below(len(choices))]

    def once_in(self, often: int) -> bool:
        return self.below(often) == often - 1


def _attributes(choices: Choices, bits: int) -> tuple[Attribute, ...]:
    kind = choices.below(16)
    if kind < 5:
        return ()
    mode = Attribute(128, choices.of(_MODES).to_bytes(2, "big"))
    if kind < 12:
        return (mode,)
    length = Attribute(6, (bits + 8 * choices.once_in(4)).to_bytes(2, "big"))
    if kind < 15:
        return (length, mode) if kind == 12 else (length,)
    return (choices.of((*_ODD, mode)), mode) if choices.once_in(2) else (choices.of(_ODD),)


def _transforms(choices: Choices, protocol: int) -> tuple[Transform, ...]:
    ids = [transform for known, transform in SUITES if known == protocol] or [1]
    transforms: list[Transform] = []
    number = 0
    for _ in range(1 + choices.below(4)):
        number += 1 + choices.below(2)
        transform_id = 99 if choices.once_in(16) else choices.of(ids)
        count = int((protocol, transform_id) != reference.NULL) ^ choices.once_in(24)
        bits = reference.ALGORITHMS.get((protocol, transform_id), (0, 0))[1]
        transforms.append(Transform(number, transform_id, count, _attributes(choices, bits)))
    return tuple(transforms)


def _key_exchange(choices: Choices) -> KeyExchange:
    kind = choices.below(16)
    if kind < 9:
        group = choices.of(_GROUPS)
        return KeA(group, choices.of(_NUMBERS), bytes(reference.VALUE_OCTETS[group]))
    if kind == 9:
        return KeA(choices.of((24, 31, 3, 239)), choices.of(_NUMBERS), bytes(11))
    if kind < 12:
        return KeA(240, choices.of(_NUMBERS), choices.of((b"", b"", b"x")))
    if kind == 12:
        prime = choices.of((PRIME, PRIME, PRIME, PRIME[:255], b"\0" + PRIME, b"\x01" + PRIME * 2))
        generator = choices.of((b"\x02", b"\x02", b"\x02", b"\x01", b"", PRIME))
        return KeB(prime, generator, bytes(len(prime) - choices.once_in(4)))
    return KeC(choices.of((KE_C_SPI, KE_C_SPI, 300)), choices.of((b"", b"", b"", b"x")))


def make_offer(choices: Choices) -> SaPayload:
    """A well-formed offer: up to three numbers of up to three protocols, at most four KEs."""
    proposals: list[Proposal] = []
    number, kes_left = 0, 4
    pair = choices.of(_PAIRS)
    for _ in range(1 + choices.below(3)):
        number += 1 + choices.below(3)
        protocols = choices.of(_PROTOCOLS)
        for protocol_number, protocol in enumerate(protocols, 1):
            kes = tuple(
                _key_exchange(choices) for _ in range(min(kes_left, choices.of((1, 0, 2, 1))))
            )
            kes_left -= len(kes)
            lifetime_s = choices.of((3600, 60, 90000))
            head = (number, protocol_number, protocol, lifetime_s, choices.of((0, 0, 7)))
            proposals.append(Proposal(*head, _transforms(choices, protocol), kes))
    return SaPayload(pair, tuple(proposals))


def make_rules(choices: Choices) -> reference.Rules:
    """Any policy that does not contradict itself."""
    suites = set(SUITES)
    if choices.once_in(3):
        suites = {suite for suite in SUITES if choices.once_in(2)} or suites
    modes = choices.of(_POLICY_MODES)
    return reference.Rules(
        suites=frozenset(suites),
        modes=frozenset(modes),
        default_mode=choices.of(modes),
        groups=frozenset(choices.of(_POLICY_GROUPS)),
        user_groups=choices.of((True, True, False)),
        fa_dh_any=choices.of((False, False, True)),
        raw_dh=choices.of((False, False, True)),
        maximum_lifetime=choices.of((86400, 600)),
        ke_c_spi=choices.of((KE_C_SPI, KE_C_SPI, None)),
        clear_fa_keys=choices.of((True, False)),
    )


def policy_of(rules: reference.Rules) -> Policy:
    """The product's policy of the same meaning."""
    return Policy(
        suites=frozenset(Suite(*suite) for suite in rules.suites),
        modes=frozenset(map(Mode, rules.modes)),
        default_mode=Mode(rules.default_mode),
        groups=rules.groups,
        user_groups=rules.user_groups,
        fa_dh_any=rules.fa_dh_any,
        raw_dh=rules.raw_dh,
        maximum_lifetime_s=rules.maximum_lifetime,
        ke_c_spi=rules.ke_c_spi,
        clear_fa_keys=rules.clear_fa_keys,
    )


def value_for(ke: KeyExchange | None) -> bytes:
    """A public value of the length that the group asks for."""
    if isinstance(ke, KeB):
        return b"\x07" * len(ke.prime)
    return b"\x07" * len(ke.data) if isinstance(ke, KeA) else b""


def changed_answer(choices: Choices, answer: SaPayload) -> SaPayload:
    """The answer with one thing of it different; now and then it stays an answer to the offer."""
    index = choices.below(len(answer.proposals))
    change = choices.of((_change_head, _change_transform, _change_key_exchange))
    changed = change(choices, answer.proposals[index])
    proposals = (*answer.proposals[:index], changed, *answer.proposals[index + 1 :])
    if choices.once_in(8):
        proposals = proposals[:1]
    return SaPayload(Pair.MN_HA if choices.once_in(16) else answer.pair, proposals)


def any_combination(choices: Choices, offer: SaPayload, spi: int) -> SaPayload:
    """A number of the offer with any transform of each proposal and any KE."""
    number = choices.of(offer.proposals).number
    group = [proposal for proposal in offer.proposals if proposal.number == number]
    kes = [ke for proposal in group for ke in proposal.key_exchanges]
    chosen = [
        replace(p, transforms=(choices.of(p.transforms),), key_exchanges=(), spi=spi) for p in group
    ]
    if kes and choices.below(4):
        chosen[-1] = replace(chosen[-1], key_exchanges=(choices.of(kes),))
    return SaPayload(offer.pair, tuple(chosen))


def _change_head(choices: Choices, proposal: Proposal) -> Proposal:
    match choices.below(4):
        case 0:
            return replace(proposal, lifetime_s=choices.of((90001, 59, 61, 3601)))
        case 1:
            return replace(proposal, number=1 + choices.below(9))
        case 2:
            return replace(proposal, spi=choices.of((0, 255, 256, 4243)))
    return replace(proposal, protocol_id=choices.of((1, 2, 3, 9)))


def _change_transform(choices: Choices, proposal: Proposal) -> Proposal:
    transform = proposal.transforms[0]
    match choices.below(5):
        case 0:
            transform = replace(transform, number=1 + choices.below(8))
        case 1:
            transform = replace(transform, transform_id=choices.of(SUITES)[1])
        case 2:
            transform = replace(transform, key_count=1 - transform.key_count)
        case 3:
            transform = replace(transform, attributes=_attributes(choices, 256))
        case _:
            second = replace(transform, number=transform.number + 1)
            return replace(proposal, transforms=(transform, second))
    return replace(proposal, transforms=(transform,))


def _change_key_exchange(choices: Choices, proposal: Proposal) -> Proposal:
    kes = proposal.key_exchanges
    match choices.below(4):
        case 0:
            kes = (*kes, _key_exchange(choices))
        case 1:
            kes = (_key_exchange(choices),)
        case 2:
            kes = tuple(map(_longer, kes))
        case _:
            kes = ()
    return replace(proposal, key_exchanges=kes)


def _longer(ke: KeyExchange) -> KeyExchange:
    match ke:
        case KeA():
            return replace(ke, data=ke.data + b"\x01")
        case KeB():
            return replace(ke, public_value=ke.public_value + b"\x01")
        case KeC():
            return replace(ke, spi=ke.spi + 1)
