"""RADIUS packets: octets <-> code, identifier, authenticator, raw attributes and signatures.

What an attribute means is aaa.radius.attributes' affair, which code belongs to which port
aaa.radius.ports'.  Names for people are in aaa.radius.dictionary.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aaa.radius.errors import BadAuthenticator, MalformedPacket
from kdc.errors import LocalError
from kdc.model import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 2865 §4, RFC 2866 §4, RFC 5997 §2, RFC 5176 §2.3
ACCESS_REQUEST: Final = 1
ACCESS_ACCEPT: Final = 2
ACCESS_REJECT: Final = 3
ACCOUNTING_REQUEST: Final = 4
ACCOUNTING_RESPONSE: Final = 5
ACCESS_CHALLENGE: Final = 11
STATUS_SERVER: Final = 12
DISCONNECT_REQUEST: Final = 40
DISCONNECT_ACK: Final = 41
DISCONNECT_NAK: Final = 42
COA_REQUEST: Final = 43
COA_ACK: Final = 44
COA_NAK: Final = 45

HEADER_OCTETS: Final = 20
MAXIMUM_OCTETS: Final = 4096  # RFC 2865 §3
MAXIMUM_ATTRIBUTES: Final = 200  # what FreeRADIUS takes as well (max_attributes)
MAXIMUM_VALUE_OCTETS: Final = 253

PROXY_STATE: Final = 33  # RFC 2865 §5.33
MESSAGE_AUTHENTICATOR: Final = 80  # RFC 3579 §3.2
_MESSAGE_AUTHENTICATOR_OCTETS: Final = 18
_ZEROS: Final = bytes(16)
_MESSAGE_AUTHENTICATOR_ZEROED: Final = bytes([MESSAGE_AUTHENTICATOR, 18]) + bytes(16)
# What may answer what.  A Status-Server is answered as its port answers (RFC 5997 §3).
RESPONSES_TO: Final = {
    ACCESS_REQUEST: frozenset({ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE}),
    ACCOUNTING_REQUEST: frozenset({ACCOUNTING_RESPONSE}),
    STATUS_SERVER: frozenset({ACCESS_ACCEPT, ACCOUNTING_RESPONSE}),
    DISCONNECT_REQUEST: frozenset({DISCONNECT_ACK, DISCONNECT_NAK}),
    COA_REQUEST: frozenset({COA_ACK, COA_NAK}),
}
# RFC 2866 §3, RFC 5176 §2.3: the Request Authenticator is a signature, made over 16 zero octets,
# and so is a Message-Authenticator beside it (RFC 5176 §3.4).
_SIGNED_REQUESTS: Final = frozenset({ACCOUNTING_REQUEST, DISCONNECT_REQUEST, COA_REQUEST})
_ACCESS_RESPONSES: Final = RESPONSES_TO[ACCESS_REQUEST]
RESPONSES: Final = frozenset().union(*RESPONSES_TO.values())
# Access packets (PROTOCOL section 9), Status-Server (RFC 5997 §3), dynamic authorization
# (PROTOCOL section 9); of accounting a Message-Authenticator only has to be right.
_MUST_BE_AUTHENTICATED: Final = _ACCESS_RESPONSES | {
    ACCESS_REQUEST,
    STATUS_SERVER,
    DISCONNECT_REQUEST,
    COA_REQUEST,
}

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
    """A request whose signatures have been verified."""

    __slots__ = ()


class VerifiedResponse(Packet):
    """A response whose signatures have been verified against its request."""

    __slots__ = ()


def decode(octets: bytes, *, signed: bool = True) -> Packet:
    """The packet in a datagram of `octets`; raises `MalformedPacket`.  RFC 2865 §3, §5.

    With `signed` a packet that needs a Message-Authenticator and has none is malformed; without,
    it is for the verification to say so.
    """
    available = len(octets)
    if available < HEADER_OCTETS:
        raise MalformedPacket("shorter than a header")
    length = (octets[2] << 8) | octets[3]
    if not HEADER_OCTETS <= length <= MAXIMUM_OCTETS or available > MAXIMUM_OCTETS:
        raise MalformedPacket("Length out of range")
    if available < length:
        raise MalformedPacket("shorter than Length")
    if available > length:
        octets = octets[:length]  # RFC 2865 §3: octets beyond Length are padding
    attributes, message_authenticator_at = read_attributes(octets, length)
    code = octets[0]
    if signed and not message_authenticator_at and code in _MUST_BE_AUTHENTICATED:
        raise MalformedPacket("no Message-Authenticator")
    return Packet(
        code, octets[1], octets[4:20], tuple(attributes), octets, message_authenticator_at
    )


def read_attributes(
    octets: bytes, length: int, *, signed: bool = True
) -> tuple[list[Attribute], int]:
    """All attributes behind the header, and where the Message-Authenticator's 16 octets begin.

    Where packets are not signed one is an attribute like another, and at 0.  Raises
    `MalformedPacket`.
    """
    attributes: list[Attribute] = []
    message_authenticator_at = 0
    position = HEADER_OCTETS
    last = length - 2
    while position <= last:
        kind = octets[position]
        end = position + octets[position + 1]
        if not position + 2 <= end <= length or not kind:
            raise MalformedPacket("attribute type or length")
        if signed and kind == MESSAGE_AUTHENTICATOR:
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


def verify_request(
    packet: Packet, secret: Secret, *, require_message_authenticator: bool = True
) -> VerifiedRequest:
    """The request with its signatures verified.

    RFC 3579 §3.2, RFC 5997 §3, RFC 2866 §3, RFC 5176 §3.4.  Raises `MalformedPacket` for another
    code and `BadAuthenticator`.  Without `require_message_authenticator` an Access-Request needs
    none, unless it has a Proxy-State: whoever forges a response by CVE-2024-3596 needs that.
    """
    code = packet.code
    if code not in RESPONSES_TO:
        raise MalformedPacket("not a request that is answered here")
    signed_over = packet.authenticator
    if code in _SIGNED_REQUESTS:
        _verify_hash(packet, _ZEROS, secret)
        signed_over = _ZEROS
    if packet.message_authenticator_at:
        _verify_message_authenticator(packet, secret, signed_over)
    elif code == ACCESS_REQUEST and not require_message_authenticator:
        if proxy_states(packet.attributes):
            raise BadAuthenticator("Proxy-State without Message-Authenticator")
    elif code in _MUST_BE_AUTHENTICATED:
        raise BadAuthenticator("no Message-Authenticator")
    return VerifiedRequest(
        code,
        packet.identifier,
        packet.authenticator,
        packet.attributes,
        packet.octets,
        packet.message_authenticator_at,
    )


def verify_response(
    packet: Packet,
    request_authenticator: bytes,
    secret: Secret,
    *,
    request_code: int = ACCESS_REQUEST,
) -> VerifiedResponse:
    """The response with Response Authenticator and Message-Authenticator verified.

    RFC 2865 §3, RFC 3579 §3.2, RFC 5080 §2.2.2.  Raises `MalformedPacket` for a code that does not
    answer `request_code`, and `BadAuthenticator`.  To an Access-Request there must be a
    Message-Authenticator; in other answers it only has to be right: RFC 5997 §4.1 and §5 let the
    Response Authenticator decide, and radsecproxy 1.9 sends no other with a Status-Server's.  That
    of an answer to accounting may be made over zeros as well: FreeRADIUS 3.2 makes it so.
    """
    if packet.code not in RESPONSES_TO[request_code]:
        raise MalformedPacket("not a response that is awaited here")
    _verify_hash(packet, request_authenticator, secret)
    if packet.message_authenticator_at or request_code == ACCESS_REQUEST:
        zeros = (_ZEROS,) if request_code == ACCOUNTING_REQUEST else ()
        _verify_message_authenticator(packet, secret, request_authenticator, *zeros)
    return VerifiedResponse(
        packet.code,
        packet.identifier,
        packet.authenticator,
        packet.attributes,
        packet.octets,
        packet.message_authenticator_at,
    )


def _verify_hash(packet: Packet, hashed_over: bytes, secret: Secret) -> None:
    """The Response Authenticator (RFC 2865 §3), or that of an Accounting-Request over zeros."""
    octets = packet.octets
    expected = _hash(octets[:4], hashed_over, octets[20:], secret)
    if not hmac.compare_digest(expected, packet.authenticator):
        raise BadAuthenticator("authenticator")


def _verify_message_authenticator(packet: Packet, secret: Secret, *authenticators: bytes) -> None:
    """Raises `BadAuthenticator` unless it is made over one of the authenticators."""
    octets, at = packet.octets, packet.message_authenticator_at
    if not at:
        raise BadAuthenticator("no Message-Authenticator")
    for authenticator in authenticators:
        signed = b"".join((octets[:4], authenticator, octets[20:at], bytes(16), octets[at + 16 :]))
        expected = hmac.digest(secret.reveal(), signed, "md5")
        if hmac.compare_digest(expected, octets[at : at + 16]):
            return
    raise BadAuthenticator("Message-Authenticator")


def encode_request(
    code: int,
    identifier: int,
    authenticator: bytes,
    attributes: Iterable[Attribute],
    secret: Secret,
) -> bytes:
    """A signed request, Message-Authenticator first.

    `authenticator` is 16 octets that nobody can foretell; Accounting-, Disconnect- and CoA-Request
    get one of their own, octets 4 to 19 of the result.  Raises `LocalError` for attributes that do
    not fit, a Message-Authenticator among them, or another code.  An Accounting-Request has no
    Message-Authenticator (RFC 2869 §5.19: must not), and radsecproxy 1.9 drops one that has.
    """
    if code not in RESPONSES_TO or len(authenticator) != 16:
        raise LocalError("not a request that is sent here")
    body = write_attributes(attributes, signed=code != ACCOUNTING_REQUEST)
    if code == ACCOUNTING_REQUEST:
        return _sign_accounting(code, identifier, _ZEROS, body, secret)
    header = write_header(code, identifier, body)
    if code in _SIGNED_REQUESTS:
        return _sign(header, _ZEROS, body, secret)
    signature = hmac.digest(secret.reveal(), header + authenticator + body, "md5")
    return b"".join((header, authenticator, body[:2], signature, body[18:]))


def _sign(header: bytes, over: bytes, body: bytes, secret: Secret) -> bytes:
    """A packet with both signatures, made over the authenticator `over`."""
    key = secret.reveal()
    signature = hmac.digest(key, header + over + body, "md5")
    signed = b"".join((body[:2], signature, body[18:]))
    return b"".join((header, _hash(header, over, signed, secret), signed))


def _sign_accounting(code: int, identifier: int, over: bytes, body: bytes, secret: Secret) -> bytes:
    """A packet with its authenticator alone, made over `over`; RFC 2866 §3."""
    header = write_header(code, identifier, body)
    return b"".join((header, _hash(header, over, body, secret), body))


def _hash(header: bytes, over: bytes, body: bytes, secret: Secret) -> bytes:
    return hashlib.md5(
        b"".join((header, over, body, secret.reveal())), usedforsecurity=False
    ).digest()


def encode_response(
    code: int, request: VerifiedRequest, attributes: Iterable[Attribute], secret: Secret
) -> bytes:
    """A signed response: Message-Authenticator, `attributes`, the request's Proxy-States in order.

    The Proxy-States are not to be passed (RFC 2865 §5.33).  Raises `LocalError` for attributes that
    do not fit, a Message-Authenticator or Proxy-State among them, or another code.  What answers an
    Accounting-Request has no Message-Authenticator: RFC 2866 §5.13 and RFC 2869 §5.19 know of none,
    and servers do not agree what it would be made over (FreeRADIUS 3.2.1: zeros, radsecproxy: the
    request's authenticator), so that any would be refused by somebody.
    Without `attributes` it always fits: a signed response echoes no more than a signed request has.
    """
    if code not in RESPONSES:
        raise LocalError("not a response that is sent here")
    is_accounting = request.code == ACCOUNTING_REQUEST and code == ACCOUNTING_RESPONSE
    body = write_attributes(attributes, request.attributes, signed=not is_accounting)
    if is_accounting:
        return _sign_accounting(code, request.identifier, request.authenticator, body, secret)
    header = write_header(code, request.identifier, body)
    return _sign(header, request.authenticator, body, secret)


def write_attributes(
    attributes: Iterable[Attribute], echoed: Attributes | None = None, *, signed: bool = True
) -> bytes:
    """The attributes, if `signed` behind a zeroed Message-Authenticator.

    `echoed`: whose Proxy-States follow.  Raises `LocalError` for what no packet holds.
    """
    parts = [_MESSAGE_AUTHENTICATOR_ZEROED] if signed else []
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
    if len(parts) // 2 + signed > MAXIMUM_ATTRIBUTES:
        raise LocalError("too many attributes")
    return b"".join(parts)


def write_header(code: int, identifier: int, body: bytes) -> bytes:
    """The first four octets of a packet; raises `LocalError` if it is too long."""
    length = HEADER_OCTETS + len(body)
    if length > MAXIMUM_OCTETS:
        raise LocalError("packet too long")
    return bytes((code, identifier, length >> 8, length & 0xFF))


def proxy_states(attributes: Iterable[Attribute]) -> tuple[bytes, ...]:
    """The values of the Proxy-States, in order."""
    return tuple([value for kind, value in attributes if kind == PROXY_STATE])
