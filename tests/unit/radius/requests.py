"""One Access-Request and its attributes, for the tests that change it."""

from __future__ import annotations

from ipaddress import IPv4Address

from aaa.exchange import AccessRequest
from aaa.radius.attributes import encode_access_request
from kdc.model import Nai

ACCESS = AccessRequest(
    realm="home.example",
    nas_identifier=b"fa1",
    nas_address=IPv4Address("198.51.100.7"),
    fa_nai=Nai.parse("fa1@visited.example"),
    registration_request=bytes(range(256)) * 2,
    fa_public_keys=(b"k" * 38,),
    fa_sa_payload=b"payload",
)
ATTRIBUTES = encode_access_request(ACCESS, 32473)
