"""RADIUS packets: octets <-> code, identifier, authenticator, raw attributes and signatures.

What an attribute means is aaa.radius.attributes' affair.  This is the only module that imports
pyrad: it gives the dictionary and named values; the direct codec beside it is for the hot path
(pyrad's decode, verify and reply cost about five times as much) and is held to pyrad's octets by
a test.
"""

from __future__ import annotations

import hashlib
import hmac
import io
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from pyrad.dictionary import Dictionary
from pyrad.packet import Packet as PyradPacket

from aaa.radius.errors import BadAuthenticator, MalformedPacket
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID, Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 2865 §4, RFC 5997 §2
ACCESS_REQUEST: Final = 1
ACCESS_ACCEPT: Final = 2
ACCESS_REJECT: Final = 3
ACCESS_CHALLENGE: Final = 11
STATUS_SERVER: Final = 12

HEADER_OCTETS: Final = 20
MAXIMUM_OCTETS: Final = 4096  # RFC 2865 §3
MAXIMUM_ATTRIBUTES: Final = 200  # what FreeRADIUS takes as well (max_attributes)
MAXIMUM_VALUE_OCTETS: Final = 253

PROXY_STATE: Final = 33  # RFC 2865 §5.33
MESSAGE_AUTHENTICATOR: Final = 80  # RFC 3579 §3.2
_MESSAGE_AUTHENTICATOR_OCTETS: Final = 18
_MESSAGE_AUTHENTICATOR_ZEROED: Final = bytes([MESSAGE_AUTHENTICATOR, 18]) + bytes(16)
_AUTHENTICATED_REQUESTS: Final = frozenset({ACCESS_REQUEST, STATUS_SERVER})
_RESPONSES: Final = frozenset({ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE})
_MUST_BE_AUTHENTICATED: Final = _AUTHENTICATED_REQUESTS | _RESPONSES

# Over TLS the signatures are made with this (RFC 6614 §2.3 (4)); what protects is TLS.
RADSEC_SECRET: Final = Secret(b"radsec")

Attribute = tuple[int, bytes]
Attributes = tuple[Attribute, ...]


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet whose structure is right and whose authenticators nobody has checked yet."""

    code: int
    identifier: int
    authenticator: bytes  # 16 octets
    # (type, value) in packet order, the Message-Authenticator included.  Never printed, as the
    # octets: on the hop to a KDC they are keys.
    attributes: Attributes = field(repr=False)
    octets: bytes = field(repr=False)  # Length octets, padding removed
    message_authenticator_at: int  # where its 16 octets begin; 0 if there is none


class VerifiedRequest(Packet):
    """An Access-Request or Status-Server whose Message-Authenticator has been verified."""

    __slots__ = ()


class VerifiedResponse(Packet):
    """A response whose two authenticators have been verified against its request.

    An answer to Status-Server may have one of them only: see `verify_status_response`.
    """

    __slots__ = ()


def decode(octets: bytes, *, signed: bool = True) -> Packet:
    """The packet in a datagram of `octets`; raises `MalformedPacket`.  RFC 2865 §3, §5.

    With `signed` an Access packet without Message-Authenticator is malformed; without, it is for
    the verification to say so.
    """
    available = len(octets)
    if available < HEADER_OCTETS:
        raise MalformedPacket("shorter than a header")
    length = (octets[2] << 8) | octets[3]
    if not HEADER_OCTETS <= length <= MAXIMUM_OCTETS:
        raise MalformedPacket("Length out of range")
    if available < length:
        raise MalformedPacket("shorter than Length")
    if available > length:
        octets = octets[:length]  # RFC 2865 §3: octets beyond Length are padding
    attributes, message_authenticator_at = _read_attributes(octets, length)
    code = octets[0]
    if signed and not message_authenticator_at and code in _MUST_BE_AUTHENTICATED:
        raise MalformedPacket("no Message-Authenticator")
    return Packet(
        code, octets[1], octets[4:20], tuple(attributes), octets, message_authenticator_at
    )


def _read_attributes(octets: bytes, length: int) -> tuple[list[Attribute], int]:
    attributes: list[Attribute] = []
    message_authenticator_at = 0
    position = HEADER_OCTETS
    last = length - 2
    while position <= last:
        kind = octets[position]
        end = position + octets[position + 1]
        if not position + 2 <= end <= length or not kind:
            raise MalformedPacket("attribute type or length")
        if kind == MESSAGE_AUTHENTICATOR:
            if message_authenticator_at or end - position != _MESSAGE_AUTHENTICATOR_OCTETS:
                raise MalformedPacket("Message-Authenticator twice or of another length")
            message_authenticator_at = position + 2
        attributes.append((kind, octets[position + 2 : end]))
        position = end
    if position != length:
        raise MalformedPacket("attributes do not fill the packet")
    if len(attributes) > MAXIMUM_ATTRIBUTES:
        raise MalformedPacket("too many attributes")
    return attributes, message_authenticator_at


def verify_request(packet: Packet, secret: Secret) -> VerifiedRequest:
    """The request with its Message-Authenticator verified (RFC 3579 §3.2, RFC 5997 §3).

    Raises `MalformedPacket` for another code and `BadAuthenticator`.
    """
    if packet.code not in _AUTHENTICATED_REQUESTS:
        raise MalformedPacket("not a request that is answered here")
    _verify_message_authenticator(packet, packet.authenticator, secret)
    return VerifiedRequest(
        packet.code,
        packet.identifier,
        packet.authenticator,
        packet.attributes,
        packet.octets,
        packet.message_authenticator_at,
    )


def verify_response(
    packet: Packet, request_authenticator: bytes, secret: Secret
) -> VerifiedResponse:
    """The response with Response Authenticator and Message-Authenticator verified.

    Raises `MalformedPacket` for another code and `BadAuthenticator`.  RFC 2865 §3, RFC 3579 §3.2.
    """
    if packet.code not in _RESPONSES:
        raise MalformedPacket("not a response that is awaited here")
    _verify_response_authenticator(packet, request_authenticator, secret)
    _verify_message_authenticator(packet, request_authenticator, secret)
    return _verified(packet)


def verify_status_response(
    packet: Packet, request_authenticator: bytes, secret: Secret
) -> VerifiedResponse:
    """The answer to a Status-Server, over TLS: a Message-Authenticator only has to be right.

    Raises `MalformedPacket` for another code and `BadAuthenticator`.  RFC 5997 §4.1 and §5:
    the Response Authenticator decides, and there may be no other; radsecproxy 1.9 sends none.
    """
    if packet.code != ACCESS_ACCEPT:
        raise MalformedPacket("not an answer to Status-Server")
    _verify_response_authenticator(packet, request_authenticator, secret)
    if packet.message_authenticator_at:
        _verify_message_authenticator(packet, request_authenticator, secret)
    return _verified(packet)


def _verify_response_authenticator(
    packet: Packet, request_authenticator: bytes, secret: Secret
) -> None:
    octets = packet.octets
    expected = hashlib.md5(
        octets[:4] + request_authenticator + octets[20:] + secret.reveal(), usedforsecurity=False
    ).digest()
    if not hmac.compare_digest(expected, packet.authenticator):
        raise BadAuthenticator("Response Authenticator")


def _verified(packet: Packet) -> VerifiedResponse:
    return VerifiedResponse(
        packet.code,
        packet.identifier,
        packet.authenticator,
        packet.attributes,
        packet.octets,
        packet.message_authenticator_at,
    )


def _verify_message_authenticator(packet: Packet, authenticator: bytes, secret: Secret) -> None:
    octets, at = packet.octets, packet.message_authenticator_at
    if not at:
        raise BadAuthenticator("no Message-Authenticator")
    signed = b"".join((octets[:4], authenticator, octets[20:at], bytes(16), octets[at + 16 :]))
    expected = hmac.digest(secret.reveal(), signed, "md5")
    if not hmac.compare_digest(expected, octets[at : at + 16]):
        raise BadAuthenticator("Message-Authenticator")


def encode_request(
    code: int,
    identifier: int,
    authenticator: bytes,
    attributes: Iterable[Attribute],
    secret: Secret,
) -> bytes:
    """A signed Access-Request or Status-Server, Message-Authenticator first.

    `authenticator` is 16 octets that nobody can foretell.  Raises `LocalError` for attributes that
    do not fit, a Message-Authenticator among them, or another code.
    """
    if code not in _AUTHENTICATED_REQUESTS or len(authenticator) != 16:
        raise LocalError("not a request that is sent here")
    body = _write_attributes(attributes)
    header = _write_header(code, identifier, body)
    signature = hmac.digest(secret.reveal(), header + authenticator + body, "md5")
    return b"".join((header, authenticator, body[:2], signature, body[18:]))


def encode_response(
    code: int, request: VerifiedRequest, attributes: Iterable[Attribute], secret: Secret
) -> bytes:
    """A signed response: Message-Authenticator, `attributes`, the request's Proxy-States in order.

    The Proxy-States are not to be passed (RFC 2865 §5.33).  Raises `LocalError` for attributes that
    do not fit, a Message-Authenticator or Proxy-State among them, or another code.
    """
    if code not in _RESPONSES:
        raise LocalError("not a response that is sent here")
    body = _write_attributes(attributes, request.attributes)
    header = _write_header(code, request.identifier, body)
    key = secret.reveal()
    signature = hmac.digest(key, header + request.authenticator + body, "md5")
    signed = b"".join((body[:2], signature, body[18:]))
    authenticator = hashlib.md5(
        b"".join((header, request.authenticator, signed, key)), usedforsecurity=False
    ).digest()
    return b"".join((header, authenticator, signed))


def _write_attributes(attributes: Iterable[Attribute], echoed: Attributes | None = None) -> bytes:
    """The attributes behind a zeroed Message-Authenticator; `echoed`: whose Proxy-States follow."""
    parts = [_MESSAGE_AUTHENTICATOR_ZEROED]
    for kind, value in attributes:
        if not 0 < kind < 256 or kind == MESSAGE_AUTHENTICATOR:
            raise LocalError("attribute type")
        if kind == PROXY_STATE and echoed is not None:
            raise LocalError("Proxy-States are echoed by the encoder")
        if len(value) > MAXIMUM_VALUE_OCTETS:
            raise LocalError("attribute too long")
        parts.append(bytes((kind, len(value) + 2)))
        parts.append(value)
    for kind, value in echoed or ():
        if kind == PROXY_STATE:
            parts.append(bytes((kind, len(value) + 2)))
            parts.append(value)
    if len(parts) // 2 + 1 > MAXIMUM_ATTRIBUTES:
        raise LocalError("too many attributes")
    return b"".join(parts)


def _write_header(code: int, identifier: int, body: bytes) -> bytes:
    length = HEADER_OCTETS + len(body)
    if length > MAXIMUM_OCTETS:
        raise LocalError("packet too long")
    return bytes((code, identifier, length >> 8, length & 0xFF))


def proxy_states(attributes: Iterable[Attribute]) -> tuple[bytes, ...]:
    """The values of the Proxy-States, in order."""
    return tuple([value for kind, value in attributes if kind == PROXY_STATE])


@lru_cache(maxsize=4)
def load_dictionary(vendor_id: int = DEFAULT_VENDOR_ID) -> Dictionary:
    """Pyrad's dictionary of all attributes used here, those of Roamkey under `vendor_id`."""
    dictionary = Dictionary()
    folder = resources.files("aaa.radius")
    for name in ("dictionary.rfc", "dictionary.roamkey"):
        text = (folder / name).read_text(encoding="ascii")
        text = text.replace(f"\t{DEFAULT_VENDOR_ID}\n", f"\t{vendor_id}\n")
        dictionary.ReadDictionary(io.StringIO(text))
    return dictionary


def describe(packet: Packet, vendor_id: int = DEFAULT_VENDOR_ID) -> tuple[tuple[str, str], ...]:
    """Names and values of the attributes for people; octets as hex, unknown ones by number."""
    dictionary = load_dictionary(vendor_id)
    values = PyradPacket(packet=packet.octets, dict=dictionary)
    described: list[tuple[str, str]] = []
    for key in values.keys():  # noqa: SIM118 - pyrad names the keys in keys() alone
        named = isinstance(key, str)
        for value in PyradPacket.__getitem__(values, key):
            text = value.hex() if isinstance(value, bytes) else str(value)
            described.append((key if named else str(key), text))
    return tuple(described)
