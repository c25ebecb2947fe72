"""Decoders are total: any octets give a value or a typed error, and quickly."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from kdc.errors import RemoteError
from kdc.model import DEFAULT_VENDOR_ID, Identification, Pair
from kdc.wire.advertisement import decode_announcement, decode_fa_public_keys
from kdc.wire.association import decode_sa_info, encode_sa_info
from kdc.wire.registration import decode_reply_for_fa, decode_reply_for_mn, decode_request
from tests.vectors_loader import octets, vectors

_REQUEST = octets(vectors("request")[0]["in"]["octets"])
_REPLY = octets(vectors("registration")[0]["out"]["reply"])
_RELAY = octets(vectors("registration")[0]["out"]["relay"])
_edits = st.lists(
    st.tuples(st.integers(0, 1200), st.integers(0, 255), st.sampled_from("sid")), max_size=6
)


def _edited(message: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    changed = bytearray(message)
    for position, value, kind in edits:
        at = position % (len(changed) + 1)
        if kind == "i":
            changed.insert(at, value)
        elif at < len(changed):
            if kind == "s":
                changed[at] = value
            else:
                del changed[at]
    return bytes(changed)


def _decode_all(message: bytes) -> None:
    for decode in (
        lambda: decode_request(message, DEFAULT_VENDOR_ID),
        lambda: decode_reply_for_fa(message, DEFAULT_VENDOR_ID, fa_spi=256),
        lambda: decode_reply_for_fa(message, DEFAULT_VENDOR_ID, fa_spi=None),
        lambda: decode_reply_for_mn(message, DEFAULT_VENDOR_ID),
        lambda: decode_announcement(message, DEFAULT_VENDOR_ID),
        lambda: decode_fa_public_keys((message,)),
    ):
        try:
            decode()
        except RemoteError:
            continue


@given(st.binary(max_size=3200))
def test_any_octets(message: bytes) -> None:
    _decode_all(message)


@given(st.sampled_from([_REQUEST, _REPLY, _RELAY]), _edits)
def test_edited_messages(message: bytes, edits: list[tuple[int, int, str]]) -> None:
    _decode_all(_edited(message, edits))


@given(st.binary(max_size=200), st.sampled_from(Pair))
def test_sa_info_is_canonical(message: bytes, pair: Pair) -> None:
    try:
        info = decode_sa_info(message, pair)
    except RemoteError:
        return
    assert encode_sa_info(info) == message


def test_the_longest_message_costs_no_more_than_its_length() -> None:
    realm = bytes([131, 13]) + b"@home.example"
    skippable = bytes([200, 0]) * ((3072 - 24 - len(realm)) // 2)
    started = time.perf_counter()
    for _ in range(100):
        try:
            decode_request(_REQUEST[:24] + realm + skippable, DEFAULT_VENDOR_ID)
        except RemoteError:
            continue
    assert (time.perf_counter() - started) / 100 < 0.02


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**33))
def test_an_identification_is_extended_to_the_second_nearest_the_clock(high: int, now: int) -> None:
    extended = Identification.extend(high.to_bytes(4, "big") + bytes(4), now)
    assert extended.second % 2**32 == high
    assert abs(extended.unix - now) <= 2**31
