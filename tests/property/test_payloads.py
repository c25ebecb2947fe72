"""Random trees come back, and whatever the octets, the decoder gives a value or `Malformed`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdc.errors import Malformed
from kdc.model import Pair
from kdc.wire.payloads import (
    Attribute,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
    decode_fa_sa_payloads,
    decode_sa_payload,
    encode_sa_payload,
)
from tests.vectors_loader import octets, vectors

U32 = st.integers(0, 2**32 - 1)
TYPES = st.integers(0, 0x7FFF)
ATTRIBUTES = st.one_of(
    st.builds(Attribute, TYPES, st.binary(min_size=2, max_size=2), st.just(True)),
    st.builds(Attribute, TYPES, st.binary(max_size=12), st.just(False)),
)
KEY_EXCHANGES: st.SearchStrategy[KeyExchange] = st.one_of(
    st.builds(KeA, st.integers(1, 240), st.integers(0, 255), st.binary(max_size=64)),
    st.builds(KeB, st.binary(max_size=64), st.binary(max_size=4), st.binary(max_size=64)),
    st.builds(KeC, U32, st.binary(max_size=64)),
)
SEEDS = [
    octets(text)
    for vector in vectors("sa-payload")
    for text in (vector["in"].get("octets"), vector.get("out", {}).get("octets"))
    if text and len(text) < 1200
]


@st.composite
def _transforms(draw: st.DrawFn) -> tuple[Transform, ...]:
    numbers = draw(st.sets(st.integers(1, 255), min_size=1, max_size=16))
    octet = st.integers(0, 255)
    attributes = st.lists(ATTRIBUTES, max_size=3).map(tuple)
    return tuple(Transform(n, draw(octet), draw(octet), draw(attributes)) for n in sorted(numbers))


@st.composite
def payloads(draw: st.DrawFn) -> SaPayload:
    proposals: list[Proposal] = []
    kes_left = 4
    for number in sorted(draw(st.sets(st.integers(1, 255), min_size=1, max_size=8))):
        most = min(3, 8 - len(proposals))
        if most == 0:
            break
        protocols = draw(st.lists(st.integers(0, 255), min_size=1, max_size=most, unique=True))
        for protocol_number, protocol_id in enumerate(protocols, 1):
            kes = tuple(draw(st.lists(KEY_EXCHANGES, max_size=min(2, kes_left))))
            kes_left -= len(kes)
            lifetime_s = draw(st.integers(1, 2**32 - 2))
            head = (number, protocol_number, protocol_id, lifetime_s, draw(U32))
            proposals.append(Proposal(*head, draw(_transforms()), kes))
    return SaPayload(draw(st.sampled_from(Pair)), tuple(proposals))


@given(payloads())
def test_a_tree_comes_back(payload: SaPayload) -> None:
    assert decode_sa_payload(encode_sa_payload(payload)) == payload


def _judge(message: bytes) -> None:
    try:
        payload = decode_sa_payload(message)
    except Malformed:
        return
    # One tree has one sequence of octets: nothing that was accepted is lost.
    assert encode_sa_payload(payload) == message


@given(st.binary(max_size=200))
def test_random_octets(message: bytes) -> None:
    _judge(message)
    _judge(b"\x01\x01" + (len(message) + 4).to_bytes(2, "big") + message)


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 600),
    st.binary(max_size=3),
)
def test_mutations(
    seed: bytes, changes: list[tuple[int, int]], length_octets: int, tail: bytes
) -> None:
    message = bytearray(seed)
    for position, value in changes:
        message[position % len(message)] = value
    _judge(bytes(message))
    _judge(bytes(message[:length_octets]) + tail)


@given(st.lists(st.sampled_from(SEEDS), max_size=3), st.binary(max_size=3))
def test_payloads_in_a_row(seeds: list[bytes], tail: bytes) -> None:
    message = b"".join(seeds) + tail
    try:
        decoded = decode_fa_sa_payloads(message)
    except Malformed:
        return
    assert b"".join(encode_sa_payload(read.payload) for read in decoded.values()) == message
    assert b"".join(read.octets for read in decoded.values()) == message
