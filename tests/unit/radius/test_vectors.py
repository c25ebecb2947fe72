"""The golden RADIUS packets, and those of whole registrations, through the product's own codec."""

from __future__ import annotations

import pytest

from aaa.exchange import AccessAccept
from aaa.radius.attributes import (
    FA_NAI,
    FA_PUBLIC_KEY,
    REGISTRATION_REQUEST,
    collect,
    cut,
    decode_access_request,
    decode_access_response,
)
from aaa.radius.packet import (
    ACCESS_REQUEST,
    Packet,
    VerifiedRequest,
    decode,
    encode_response,
    verify_request,
    verify_response,
)
from kdc.errors import RemoteError
from kdc.model import DEFAULT_VENDOR_ID, Secret
from tests.vectors_loader import Vector, octets, vector_id, vectors

_VECTORS = vectors("radius")
_PACKETS = [v for v in _VECTORS if "packet" in v["in"]]
_CUT = [v for v in _VECTORS if "data" in v["in"]]
_JOINED = [v for v in _VECTORS if "attributes" in v["in"] and "code" not in v["in"]]
_REGISTRATIONS = [v for v in vectors("registration") if v["out"].get("access_request")]


def test_no_vector_is_left_out() -> None:
    replies = [v for v in _VECTORS if "request" in v["in"]]
    assert len(_PACKETS) + len(_CUT) + len(_JOINED) + len(replies) == len(_VECTORS)


@pytest.mark.parametrize("vector", _PACKETS, ids=vector_id)
def test_packet(vector: Vector) -> None:
    packet, secret = octets(vector["in"]["packet"]), Secret(octets(vector["in"]["secret"]))
    if "refuse" in vector:
        with pytest.raises(RemoteError):
            verify_request(decode(packet), secret)
        return
    verified = verify_request(decode(packet), secret)
    out = vector["out"]
    assert verified.code == out.get("code", verified.code)
    if out.get("registration_request") and verified.code == ACCESS_REQUEST:
        access = decode_access_request(verified, DEFAULT_VENDOR_ID)
        assert access.registration_request == octets(out["registration_request"])
        assert access.fa_nai.octets == octets(out["fa_nai"])
        assert access.fa_public_keys == tuple(octets(key) for key in out["fa_public_keys"])


@pytest.mark.parametrize("vector", _CUT, ids=vector_id)
def test_cutting(vector: Vector) -> None:
    given = vector["in"]
    pieces = cut(given["attribute"], octets(given["data"]), given["vendor_id"])
    written = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in pieces)
    assert written == octets(vector["out"]["attributes"])
    assert len(pieces) == vector["out"]["pieces"]


@pytest.mark.parametrize("vector", _JOINED, ids=vector_id)
def test_joining(vector: Vector) -> None:
    given, text = vector["in"], octets(vector["in"]["attributes"])
    attributes = []
    while text:
        attributes.append((text[0], text[2 : text[1]]))
        text = text[text[1] :]
    joined = b"".join(collect(attributes, given["vendor_id"])[given["attribute"]])
    assert joined == octets(vector["out"]["data"])


def test_a_reject_echoes_the_proxy_states() -> None:
    (vector,) = [v for v in _VECTORS if "request" in v["in"]]
    given = vector["in"]
    secret = Secret(octets(given["secret"]))
    request = verify_request(decode(octets(given["request"])), secret)
    attribute = octets(given["attributes"])
    response = encode_response(given["code"], request, [(attribute[0], attribute[2:])], secret)
    assert response == octets(vector["out"]["response"])


@pytest.mark.parametrize("vector", _REGISTRATIONS, ids=vector_id)
def test_the_packets_of_a_registration(vector: Vector) -> None:
    given, out = vector["in"], vector["out"]
    secret = Secret(octets(given["hop_secret"]))
    request = verify_request(decode(octets(out["access_request"])), secret)
    assert isinstance(request, VerifiedRequest)
    access = decode_access_request(request, DEFAULT_VENDOR_ID)
    assert access.registration_request == octets(out["request"])
    assert access.fa_sa_payload == octets(given["fa_sa_payload"])
    assert access.fa_public_keys == tuple(
        octets(key["attribute_3"]) for key in given["fa"]["keys"] if not given["fa"]["clear"]
    )
    packet: Packet = decode(octets(out["access_response"]))
    response = decode_access_response(
        verify_response(packet, request.authenticator, secret), DEFAULT_VENDOR_ID
    )
    assert packet.code == out["radius_code"]
    if isinstance(response, AccessAccept):
        assert response.registration_reply == octets(out["reply"])
        assert str(response.user_name) == octets(out["alias"]).decode()


def test_the_numbers_are_those_of_the_table() -> None:
    assert (REGISTRATION_REQUEST, FA_PUBLIC_KEY, FA_NAI) == (1, 3, 9)
