"""Packets out of a stream: any cut of it gives the same ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaa.radius.errors import MalformedPacket
from aaa.radius.stream import PacketStream

packets = st.lists(
    st.integers(20, 4096).flatmap(
        lambda length: st.binary(min_size=2, max_size=2).map(
            lambda head: head + length.to_bytes(2, "big") + bytes(length - 4)
        )
    ),
    max_size=6,
)


@given(packets, st.lists(st.integers(0, 5000), max_size=10), st.integers(1, 3))
def test_any_cut_gives_the_same_packets(
    expected: list[bytes], cuts: list[int], maximum: int
) -> None:
    whole = b"".join(expected)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream, found = PacketStream(), list[bytes]()
    for begin, end in pairwise(edges):
        stream.feed(whole[begin:end])
        while taken := stream.take(maximum):
            assert len(taken) <= maximum
            found += taken
    assert found == expected


@pytest.mark.parametrize("length", [0, 19, 4097, 65535])
def test_an_impossible_length_is_told_from_four_octets(length: int) -> None:
    stream = PacketStream()
    stream.feed(bytes([1, 1, 0, 20]) + bytes(16) + b"\x01\x01" + length.to_bytes(2, "big")[:1])
    assert len(stream.take(9)) == 1
    stream.feed(length.to_bytes(2, "big")[1:])
    with pytest.raises(MalformedPacket):
        stream.take(9)
