"""RADIUS/1.1 beside RADIUS/1.0: the same packets but where RFC 9765 says otherwise."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import MESSAGE_AUTHENTICATOR, RESPONSES_TO, Attributes
from aaa.radius.wire_forms import RADIUS_1_0, RADIUS_1_1, WireForm
from kdc.errors import LocalError

TOKEN = 0x01020304

kinds = st.integers(1, 255).filter(lambda kind: kind not in (33, 80, 241))
attributes = st.lists(st.tuples(kinds, st.binary(max_size=253)), max_size=12).map(tuple)
exchanges = st.sampled_from(
    [(request, code) for request, codes in RESPONSES_TO.items() for code in sorted(codes)]
)


def _entropy(count: int) -> bytes:
    return bytes(range(count))


@given(exchanges, st.integers(0, 2**32 - 1), attributes, attributes)
def test_a_request_and_its_response_come_back_as_they_were_sent(
    exchange: tuple[int, int], token: int, asked: Attributes, answered: Attributes
) -> None:
    code, answer = exchange
    states = ((33, b"one"), (33, b"two"))
    octets = RADIUS_1_1.encode_request(code, token, asked + states, _entropy)
    request = RADIUS_1_1.verify_request(RADIUS_1_1.decode(octets))
    assert (request.code, request.identifier) == (code, token)
    assert request.attributes == asked + states
    replied = RADIUS_1_1.encode_response(answer, request, answered)
    response = RADIUS_1_1.verify_response(RADIUS_1_1.decode(replied), octets[4:20], code)
    assert (response.code, response.identifier) == (answer, token)
    assert response.attributes == answered + states


@given(exchanges, attributes)
def test_it_differs_from_1_0_where_the_rfc_says(
    exchange: tuple[int, int], given_attributes: Attributes
) -> None:
    code, answer = exchange

    def written(form: WireForm, identifier: int) -> tuple[bytes, bytes]:
        request = form.encode_request(code, identifier, given_attributes, _entropy)
        verified = form.verify_request(form.decode(request))
        return request, form.encode_response(answer, verified, given_attributes)

    for old, new in zip(written(RADIUS_1_0, 7), written(RADIUS_1_1, TOKEN), strict=True):
        # Accounting has none in either form, both ways.
        signature = 0 if exchange == (4, 5) else 18
        assert new[0] == old[0]  # Code
        assert new[1] == 0  # Reserved-1
        assert new[2:4] == len(new).to_bytes(2, "big")
        assert len(new) == len(old) - signature
        assert new[4:8] == TOKEN.to_bytes(4, "big")
        assert new[8:20] == bytes(12)  # Reserved-2
        assert old[20:22] == bytes([MESSAGE_AUTHENTICATOR, 18]) or not signature
        assert new[20:] == old[20 + signature :]  # all attributes, and nothing but them


@given(st.binary(max_size=300))
def test_any_octets(octets: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        RADIUS_1_1.verify_request(RADIUS_1_1.decode(octets))


# By hand, from the figure of RFC 9765 §4.1: an Access-Request with User-Name "a".
BY_HAND = bytes.fromhex("01 00 0017 01020304 000000000000000000000000 010361")


def test_octets_by_hand() -> None:
    assert RADIUS_1_1.encode_request(1, TOKEN, ((1, b"a"),), _entropy) == BY_HAND
    packet = RADIUS_1_1.decode(BY_HAND)
    assert (packet.code, packet.identifier, packet.attributes) == (1, TOKEN, ((1, b"a"),))


def test_reserved_octets_are_not_looked_at() -> None:
    changed = BY_HAND[:1] + b"\xff" + BY_HAND[2:8] + b"\xff" * 12 + BY_HAND[20:]
    packet = RADIUS_1_1.verify_request(RADIUS_1_1.decode(changed))
    assert (packet.identifier, packet.attributes) == (TOKEN, ((1, b"a"),))


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param("5012" + "00" * 16, id="Message-Authenticator"),
        pytest.param("5012" + "00" * 16 + "5012" + "11" * 16, id="two of them"),
        pytest.param("500300", id="a short one"),
        pytest.param("f1070400000001", id="Original-Packet-Code"),
    ],
)
def test_what_the_form_does_not_have_is_ignored(ignored: str) -> None:
    octets = BY_HAND + bytes.fromhex(ignored)
    octets = octets[:2] + len(octets).to_bytes(2, "big") + octets[4:]
    assert RADIUS_1_1.decode(octets).attributes == ((1, b"a"),)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(BY_HAND[:19], id="shorter than a header"),
        pytest.param(BY_HAND + b"\0", id="longer than Length"),
        pytest.param(BY_HAND[:-1], id="shorter than Length"),
        pytest.param(BY_HAND[:20] + bytes([0, 3, 97]), id="type 0"),
        pytest.param(BY_HAND[:20] + bytes([1, 2, 97]), id="attributes do not fill"),
        pytest.param(BY_HAND[:20] + bytes([1, 4, 97]), id="an attribute beyond the end"),
    ],
)
def test_malformed(octets: bytes) -> None:
    with pytest.raises(MalformedPacket):
        RADIUS_1_1.decode(octets)


def test_codes_stay_bound_to_each_other() -> None:
    with pytest.raises(LocalError):
        RADIUS_1_1.encode_request(2, 1, (), _entropy)
    request = RADIUS_1_1.verify_request(RADIUS_1_1.decode(BY_HAND))
    with pytest.raises(LocalError):
        RADIUS_1_1.encode_response(1, request, ())
    with pytest.raises(LocalError):
        RADIUS_1_1.encode_response(2, request, ((MESSAGE_AUTHENTICATOR, bytes(16)),))
    accounted = RADIUS_1_1.decode(RADIUS_1_1.encode_response(5, request, ()))
    with pytest.raises(MalformedPacket):
        RADIUS_1_1.verify_response(accounted, BY_HAND[4:20], 1)
    with pytest.raises(MalformedPacket):
        RADIUS_1_1.verify_request(accounted)


def test_the_signed_form_is_signed() -> None:
    octets = RADIUS_1_0.encode_request(40, 7, ((1, b"a"),), _entropy)
    RADIUS_1_0.verify_request(RADIUS_1_0.decode(octets))
    with pytest.raises(BadAuthenticator):
        RADIUS_1_0.verify_request(RADIUS_1_0.decode(octets[:4] + bytes(16) + octets[20:]))
