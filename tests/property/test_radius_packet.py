"""Any octets give a packet or a typed error, and our codec gives pyrad's octets."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import example, given
from hypothesis import strategies as st
from pyrad.packet import AuthPacket, Packet

from aaa.radius.attributes import (
    collect,
    cut,
    decode_access_request,
    decode_access_response,
    encode_access_request,
)
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    VerifiedRequest,
    VerifiedResponse,
    decode,
    encode_request,
    encode_response,
    verify_request,
    verify_response,
)
from kdc.model import Secret
from tests.unit.radius.requests import ACCESS, ATTRIBUTES

SECRET = Secret(b"sixteen octets!!")
AUTHENTICATOR = bytes(range(16))
REQUEST = encode_request(1, 5, AUTHENTICATOR, ATTRIBUTES, SECRET)

kinds = st.integers(1, 255).filter(lambda kind: kind not in (26, 33, 80))
values = st.binary(max_size=253)
attribute_lists = st.lists(st.tuples(kinds, values), max_size=12, unique_by=lambda a: a[0])
headers = st.tuples(
    st.sampled_from([1, 12]), st.integers(0, 255), st.binary(min_size=16, max_size=16)
)


def _sign(octets: bytes) -> bytes:
    """The octets with a right Message-Authenticator where decode finds one, by plain means."""
    packet = decode(octets)
    at = packet.message_authenticator_at
    zeroed = packet.octets[:at] + bytes(16) + packet.octets[at + 16 :]
    digest = hmac.new(SECRET.reveal(), zeroed, hashlib.md5).digest()
    return packet.octets[:at] + digest + packet.octets[at + 16 :]


@given(st.binary(max_size=300))
def test_any_octets(octets: bytes) -> None:
    try:
        packet = decode(octets)
        verify_request(packet, SECRET)
    except (MalformedPacket, BadAuthenticator):
        pass


@given(st.data())
def test_mutated_and_signed_again(data: st.DataObject) -> None:
    """Past the signature too, every mutation is a value or a typed error."""
    octets = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(20, len(octets) - 1))
        octets[at] = data.draw(st.integers(0, 255))
    cut_at = data.draw(st.sampled_from([len(octets)] * 3 + [len(octets) - 7]))
    octets = octets[:cut_at]
    octets[2:4] = len(octets).to_bytes(2, "big")
    try:
        request = verify_request(decode(_sign(bytes(octets))), SECRET)
        decode_access_request(request, 32473)
    except MalformedPacket:
        pass


@given(
    st.sampled_from([1, 2, 3, 11]),
    st.lists(st.tuples(st.sampled_from([1, 4, 24, 25, 26, 27, 32, 89, 95, 101, 126]), values)),
)
@example(2, [(26, b"\x00\x00\x7e\xd9\x02\x03a")])
def test_any_attributes(code: int, attributes: list[tuple[int, bytes]]) -> None:
    given_attributes = tuple(attributes)
    try:
        if code == 1:
            request = VerifiedRequest(code, 1, AUTHENTICATOR, given_attributes, b"", 0)
            decode_access_request(request, 32473)
        else:
            response = VerifiedResponse(code, 1, AUTHENTICATOR, given_attributes, b"", 0)
            decode_access_response(response, 32473)
    except MalformedPacket:
        pass


@given(st.integers(1, 255), st.binary(max_size=3500), st.integers(1, 2**24 - 1))
def test_pieces_join_to_what_was_cut(number: int, value: bytes, vendor_id: int) -> None:
    pieces = cut(number, value, vendor_id)
    assert all(kind == 26 and len(octets) <= 253 for kind, octets in pieces)
    assert [len(octets) - 6 for _, octets in pieces[:-1]] == [247] * (len(pieces) - 1)
    assert b"".join(collect(pieces, vendor_id).get(number, [])) == value


@given(headers, attribute_lists)
def test_requests_are_pyrads(
    header: tuple[int, int, bytes], attributes: list[tuple[int, bytes]]
) -> None:
    code, identifier, authenticator = header
    theirs = AuthPacket(
        code=code, id=identifier, secret=SECRET.reveal(), authenticator=authenticator
    )
    theirs.add_message_authenticator()
    for kind, value in attributes:
        theirs[kind] = [value]
    ours = encode_request(code, identifier, authenticator, attributes, SECRET)
    assert ours == theirs.RequestPacket()
    read = AuthPacket(packet=ours, secret=SECRET.reveal())
    assert read.verify_message_authenticator()
    verified = verify_request(decode(theirs.RequestPacket()), SECRET)
    assert verified.attributes[1:] == tuple(attributes)


@given(st.sampled_from([2, 3, 11]), attribute_lists, st.lists(values, max_size=3))
def test_responses_are_pyrads(
    code: int, attributes: list[tuple[int, bytes]], states: list[bytes]
) -> None:
    with_states = [*ATTRIBUTES[:3], *((33, state) for state in states)]
    wire = encode_request(1, 9, AUTHENTICATOR, with_states, SECRET)
    request = verify_request(decode(wire), SECRET)
    theirs = Packet(code=code, id=9, secret=SECRET.reveal(), authenticator=AUTHENTICATOR)
    theirs.add_message_authenticator()
    for kind, value in attributes:
        theirs[kind] = [value]
    if states:
        theirs[33] = states
    ours = encode_response(code, request, attributes, SECRET)
    assert ours == theirs.ReplyPacket()
    read = AuthPacket(packet=wire, secret=SECRET.reveal())
    assert read.VerifyReply(read.CreateReply(packet=ours), ours, enforce_ma=True)
    verified = verify_response(decode(theirs.ReplyPacket()), AUTHENTICATOR, SECRET)
    assert verified.attributes[1:] == (*attributes, *((33, state) for state in states))


@given(st.permutations(ATTRIBUTES))
def test_the_order_of_different_attributes_is_free(attributes: list[tuple[int, bytes]]) -> None:
    # Only the pieces of one number have an order: keep theirs.
    pieces = iter([a for a in ATTRIBUTES if a[0] == 26])
    ordered = [next(pieces) if a[0] == 26 else a for a in attributes]
    wire = encode_request(1, 5, AUTHENTICATOR, ordered, SECRET)
    access = decode_access_request(verify_request(decode(wire), SECRET), 32473)
    assert access == ACCESS
    assert encode_access_request(access, 32473) == ATTRIBUTES
