"""What an Access-Request must and must not carry, one rule at a time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from aaa.exchange import AccessReject
from aaa.radius.attributes import (
    collect,
    cut,
    decode_access_request,
    decode_access_response,
    encode_access_request,
    encode_access_response,
)
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import (
    ACCESS_REQUEST,
    STATUS_SERVER,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from kdc.errors import LocalError
from kdc.model import Nai
from tests.unit.radius.requests import ACCESS, ATTRIBUTES


def _request(attributes: Attributes, code: int = ACCESS_REQUEST) -> VerifiedRequest:
    return VerifiedRequest(code, 1, bytes(16), attributes, b"", 0)


def _response(code: int, *attributes: tuple[int, bytes]) -> VerifiedResponse:
    return VerifiedResponse(code, 1, bytes(16), attributes, b"", 0)


def test_there_and_back() -> None:
    assert decode_access_request(_request(ATTRIBUTES), 32473) == ACCESS
    ipv6 = replace(
        ACCESS, nas_address=IPv6Address("2001:db8::7"), operator_name=b"1visited.example"
    )
    encoded = encode_access_request(ipv6, 32473)
    assert (95, IPv6Address("2001:db8::7").packed) in encoded
    assert decode_access_request(_request(encoded), 32473) == ipv6


@pytest.mark.parametrize("kind", [1, 4, 32, 89])
def test_missing_or_twice(kind: int) -> None:
    without = tuple(a for a in ATTRIBUTES if a[0] != kind)
    twice = ATTRIBUTES + tuple(a for a in ATTRIBUTES if a[0] == kind)
    for attributes in (without, twice):
        with pytest.raises(MalformedPacket):
            decode_access_request(_request(attributes), 32473)


@pytest.mark.parametrize(
    "added",
    [
        (2, bytes(16)),  # User-Password
        (3, bytes(17)),  # CHAP-Password
        (95, bytes(16)),  # a second NAS address
        (26, b""),
        (26, b"\x00\x00\x7e\xd9"),
        (26, b"\x00\x00\x7e\xd9\x01"),
        (26, b"\x00\x00\x7e\xd9\x01\x02"),  # no value
        (26, b"\x00\x00\x7e\xd9\x01\x02\x01\x03a"),  # no value, another behind it
        (26, b"\x00\x00\x7e\xd9\x01\x00a"),
        (26, b"\x00\x00\x7e\xd9\x01\x04a"),
        (26, b"\x00\x00\x7e\xd9\x01\x03a\x01"),
        (26, b"\x00\x00\x7e\xd9\x09\x06fa@v"),  # a second FA NAI
    ],
)
def test_added_attributes_that_refuse_the_request(added: tuple[int, bytes]) -> None:
    with pytest.raises(MalformedPacket):
        decode_access_request(_request((*ATTRIBUTES, added)), 32473)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(1, b"nobody"), (1, b"@"), (1, b"\xff@home.example"), (1, b""), (4, bytes(3)), (89, b"x")],
)
def test_values_that_refuse_the_request(kind: int, value: bytes) -> None:
    changed = tuple((k, value if k == kind else v) for k, v in ATTRIBUTES)
    with pytest.raises(MalformedPacket):
        decode_access_request(_request(changed), 32473)


def test_limits_of_the_vendor_attributes() -> None:
    others = tuple(a for a in ATTRIBUTES if a[0] != 26)
    request = cut(1, b"request", 32473)
    for too_much in (cut(9, b"a" * 234 + b"@v", 32473), ()):
        with pytest.raises(MalformedPacket):
            decode_access_request(_request(others + request + too_much), 32473)
    with pytest.raises(MalformedPacket):
        decode_access_request(_request(ATTRIBUTES + cut(5, bytes(1025), 32473)), 32473)
    with pytest.raises(LocalError):
        encode_access_request(replace(ACCESS, fa_nai=Nai(b"a" * 234 + b"@v")), 32473)
    with pytest.raises(LocalError):
        encode_access_request(replace(ACCESS, fa_sa_payload=bytes(1025)), 32473)


def test_routing_reads_the_realm_alone_and_lowers_it() -> None:
    changed = tuple((k, b"hub!x@HOME.Example" if k == 1 else v) for k, v in ATTRIBUTES)
    assert decode_access_request(_request(changed), 32473).realm == "home.example"


def test_only_an_access_request() -> None:
    with pytest.raises(MalformedPacket):
        decode_access_request(_request(ATTRIBUTES, STATUS_SERVER), 32473)


def test_another_vendors_octets_are_not_looked_at() -> None:
    assert collect([(26, b"\x00\x00\x00\x09\xff")], 32473) == {}
    with pytest.raises(MalformedPacket):
        collect([(26, b"\x00\x00\x00\x09")], 32473)


def test_reject_and_its_cause() -> None:
    assert encode_access_response(AccessReject(131), 32473) == (3, ())
    code, attributes = encode_access_response(AccessReject(0, 502), 32473)
    assert (code, attributes) == (3, ((101, b"\x00\x00\x01\xf6"),))
    assert decode_access_response(_response(3, *attributes), 32473) == AccessReject(67, 502)
    assert decode_access_response(_response(3, (18, b"no")), 32473) == AccessReject(67)
    with pytest.raises(MalformedPacket):
        decode_access_response(_response(3, (101, b"\x01")), 32473)


@pytest.mark.parametrize("code", [1, 2, 11, 12])
def test_an_empty_response_is_none_of_ours(code: int) -> None:
    with pytest.raises(MalformedPacket):
        decode_access_response(_response(code), 32473)
