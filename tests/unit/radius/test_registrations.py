"""The packets of the golden registrations, written again octet for octet from what was read."""

from __future__ import annotations

import pytest

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject
from aaa.radius.attributes import (
    FA_PUBLIC_KEY,
    REGISTRATION_REQUEST,
    collect,
    cut,
    decode_access_request,
    decode_access_response,
    encode_access_request,
    encode_access_response,
)
from aaa.radius.packet import (
    ACCESS_REQUEST,
    decode,
    encode_request,
    encode_response,
    verify_request,
    verify_response,
)
from kdc.model import Secret
from tests.vectors_loader import Vector, octets, vector_id, vectors

REGISTRATIONS = vectors("registration")


@pytest.mark.parametrize("vector", REGISTRATIONS, ids=vector_id)
def test_access_request_of_a_registration(vector: Vector) -> None:
    given, wire = vector["in"], octets(vector["out"]["access_request"])
    secret = Secret(octets(given["hop_secret"]))
    request = verify_request(decode(wire), secret)
    access = decode_access_request(request, 32473)
    assert access.registration_request == octets(vector["out"]["request"])
    assert access.fa_nai.octets == octets(given["fa"]["nai"])
    assert access.nas_address.packed == octets(given["fa"]["address"])
    assert access.fa_sa_payload == octets(given["fa_sa_payload"])
    assert access.realm == octets(given["mn"]["realm"]).decode()
    again = encode_access_request(access, 32473)
    authenticator = octets(given["request_authenticator"])
    identifier = given["radius_identifier"]
    assert encode_request(ACCESS_REQUEST, identifier, authenticator, again, secret) == wire


@pytest.mark.parametrize("vector", REGISTRATIONS, ids=vector_id)
def test_access_response_of_a_registration(vector: Vector) -> None:
    given, expected = vector["in"], vector["out"]
    wire, secret = octets(expected["access_response"]), Secret(octets(given["hop_secret"]))
    request = verify_request(decode(octets(expected["access_request"])), secret)
    verified = verify_response(decode(wire), request.authenticator, secret)
    response = decode_access_response(verified, 32473)
    if isinstance(response, AccessReject):
        assert expected["radius_code"] == 3
        assert "reply" not in expected
    else:
        assert response.registration_reply == octets(expected["reply"])
    if isinstance(response, AccessAccept):
        assert expected["radius_code"] == 2
        assert str(response.user_name) == octets(expected["alias"]).decode()
        lifetime_s = expected["lifetime"]
        assert response.session_timeout_s == (lifetime_s or None)
    if isinstance(response, AccessChallenge):
        assert expected["radius_code"] == 11
    code, attributes = encode_access_response(response, 32473)
    assert encode_response(code, request, attributes, secret) == wire


def test_another_vendor_number_sees_nothing_of_ours() -> None:
    attributes = cut(REGISTRATION_REQUEST, b"octets", 32473) + cut(FA_PUBLIC_KEY, b"key", 7)
    assert collect(attributes, 7) == {FA_PUBLIC_KEY: [b"key"]}
    assert collect(attributes, 32473) == {REGISTRATION_REQUEST: [b"octets"]}
