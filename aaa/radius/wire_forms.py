"""The two forms of a RADIUS packet over TLS: signed (RADIUS/1.0), and by token (RADIUS/1.1).

Which of them a connection has is agreed in its handshake (aaa.net.tls).  In both a request is known
by its `Packet.identifier`: 8 bits in the first form, the Token's 32 in the second (RFC 9765 §4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import (
    HEADER_OCTETS,
    MAXIMUM_OCTETS,
    MESSAGE_AUTHENTICATOR,
    RADSEC_SECRET,
    RESPONSES,
    RESPONSES_TO,
    Attributes,
    Packet,
    VerifiedRequest,
    VerifiedResponse,
    decode,
    encode_request,
    encode_response,
    read_attributes,
    verify_request,
    verify_response,
    write_attributes,
    write_header,
)
from kdc.errors import LocalError

_EXTENDED_ATTRIBUTE_1: Final = 241  # RFC 6929 §2.1
_ORIGINAL_PACKET_CODE: Final = b"\x04"  # of those, RFC 7930 §4
_RESERVED_2: Final = bytes(12)

Entropy = Callable[[int], bytes]


class WireForm(Protocol):
    """How packets of one connection are written, read and verified, in both directions."""

    version: str
    outstanding: int  # requests that one end may have unanswered, a watchdog's apart
    is_deduplicated: bool  # whether the same request twice is answered once

    def decode(self, octets: bytes, *, signed: bool = True) -> Packet:
        """The packet that fills `octets`; raises `MalformedPacket`.

        `signed`: as in aaa.radius.packet, where the form has signatures.
        """

    def encode_request(
        self, code: int, identifier: int, attributes: Attributes, entropy: Entropy
    ) -> bytes:
        """Raises `LocalError` for attributes that do not fit, or another code."""

    def verify_request(self, packet: Packet) -> VerifiedRequest:
        """Raises `MalformedPacket` for another code, and `BadAuthenticator`."""

    def encode_response(self, code: int, request: VerifiedRequest, attributes: Attributes) -> bytes:
        """`attributes`, and the request's Proxy-States; raises `LocalError` as `encode_request`."""

    def verify_response(
        self, packet: Packet, request: bytes, request_code: int
    ) -> VerifiedResponse:
        """`request` is octets 4 to 19 of the request.

        Raises `MalformedPacket` for a code that does not answer `request_code`, and
        `BadAuthenticator`.
        """


class SignedForm:
    """RADIUS/1.0, as RFC 6614 has it: identifiers of 8 bits, signatures with `radsec`."""

    version: str = "1.0"
    outstanding: int = 255  # RFC 6613 §2.6.5: one of 256 is the watchdog's
    is_deduplicated: bool = True

    def decode(self, octets: bytes, *, signed: bool = True) -> Packet:
        return decode(octets, signed=signed)

    def encode_request(
        self, code: int, identifier: int, attributes: Attributes, entropy: Entropy
    ) -> bytes:
        return encode_request(code, identifier, entropy(16), attributes, RADSEC_SECRET)

    def verify_request(self, packet: Packet) -> VerifiedRequest:
        return verify_request(packet, RADSEC_SECRET)

    def encode_response(self, code: int, request: VerifiedRequest, attributes: Attributes) -> bytes:
        return encode_response(code, request, attributes, RADSEC_SECRET)

    def verify_response(
        self, packet: Packet, request: bytes, request_code: int
    ) -> VerifiedResponse:
        return verify_response(packet, request, RADSEC_SECRET, request_code=request_code)


class TokenForm:
    """RADIUS/1.1 (RFC 9765 §4 and §5): no signatures, TLS alone protects."""

    version: str = "1.1"
    # Ours: a token has room for 2**32, but what is outstanding has to be remembered.
    outstanding: int = 1023
    is_deduplicated: bool = False  # RFC 9765 §4.2.2: not over TLS, which repeats nothing

    def decode(self, octets: bytes, *, signed: bool = True) -> Packet:  # noqa: ARG002 - the form's
        """Message-Authenticator and Original-Packet-Code are left out, as if not there (§5)."""
        length = int.from_bytes(octets[2:4], "big")
        if len(octets) < HEADER_OCTETS or length != len(octets) or length > MAXIMUM_OCTETS:
            raise MalformedPacket("Length")
        attributes, _ = read_attributes(octets, length, signed=False)
        kept = tuple([each for each in attributes if not _is_ignored(*each)])
        token = int.from_bytes(octets[4:8], "big")
        # §4.1: Reserved-1 and Reserved-2 are not looked at.
        return Packet(octets[0], token, octets[4:20], kept, octets, 0)

    def encode_request(
        self,
        code: int,
        identifier: int,
        attributes: Attributes,
        entropy: Entropy,  # noqa: ARG002 - the form's
    ) -> bytes:
        if code not in RESPONSES_TO:
            raise LocalError("not a request that is sent here")
        return _encode(code, identifier, write_attributes(attributes, signed=False))

    def verify_request(self, packet: Packet) -> VerifiedRequest:
        if packet.code not in RESPONSES_TO:
            raise MalformedPacket("not a request that is answered here")
        return VerifiedRequest(*_fields(packet))

    def encode_response(self, code: int, request: VerifiedRequest, attributes: Attributes) -> bytes:
        if code not in RESPONSES:
            raise LocalError("not a response that is sent here")
        body = write_attributes(attributes, request.attributes, signed=False)
        return _encode(code, request.identifier, body)

    def verify_response(
        self, packet: Packet, request: bytes, request_code: int
    ) -> VerifiedResponse:
        if packet.code not in RESPONSES_TO[request_code] or packet.octets[4:8] != request[:4]:
            raise MalformedPacket("not a response that is awaited here")
        return VerifiedResponse(*_fields(packet))


def _encode(code: int, token: int, body: bytes) -> bytes:
    return b"".join((write_header(code, 0, body), token.to_bytes(4, "big"), _RESERVED_2, body))


def _is_ignored(kind: int, value: bytes) -> bool:
    return kind == MESSAGE_AUTHENTICATOR or (
        kind == _EXTENDED_ATTRIBUTE_1 and value[:1] == _ORIGINAL_PACKET_CODE
    )


def _fields(packet: Packet) -> tuple[int, int, bytes, Attributes, bytes, int]:
    return (
        packet.code,
        packet.identifier,
        packet.authenticator,
        packet.attributes,
        packet.octets,
        packet.message_authenticator_at,
    )


RADIUS_1_0: Final[WireForm] = SignedForm()
RADIUS_1_1: Final[WireForm] = TokenForm()
FORMS: Final = {form.version: form for form in (RADIUS_1_0, RADIUS_1_1)}
