"""Attributes of RADIUS <-> the values of one exchange (PROTOCOL section 9).

Octets of a packet and its signatures are aaa.radius.packet's; what the values mean for a decision
is for the roles.  Every decoder here is total: a value or `MalformedPacket`.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from aaa.exchange import (
    AccessAccept,
    AccessChallenge,
    AccessReject,
    AccessRequest,
    AccessResponse,
)
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_CHALLENGE,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    Attribute,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.radius.reading import (
    Grouped,
    at_most_one,
    at_most_one_integer,
    group,
    joined,
    one,
    write_integer,
)
from kdc.errors import FA_REGISTRATION_REFUSED, LocalError, Malformed
from kdc.model import MAXIMUM_FA_NAI_OCTETS, IpAddress, Nai, shared_nai

USER_NAME: Final = 1  # RFC 2865 §5
USER_PASSWORD: Final = 2
CHAP_PASSWORD: Final = 3
NAS_IP_ADDRESS: Final = 4
STATE: Final = 24
CLASS: Final = 25
VENDOR_SPECIFIC: Final = 26
SESSION_TIMEOUT: Final = 27
NAS_IDENTIFIER: Final = 32
CHARGEABLE_USER_IDENTITY: Final = 89  # RFC 4372
NAS_IPV6_ADDRESS: Final = 95  # RFC 3162 §2.1
ERROR_CAUSE: Final = 101  # RFC 5176 §3.5
OPERATOR_NAME: Final = 126  # RFC 5580 §4.1

# Vendor attributes: PROTOCOL section 9, table.
REGISTRATION_REQUEST: Final = 1
REGISTRATION_REPLY: Final = 2
FA_PUBLIC_KEY: Final = 3
FA_WRAPPED_KEY: Final = 4
FA_SA_PAYLOAD: Final = 5
SPI: Final = 6  # accounting and dynamic authorization: one for each association
KEY_REQUEST: Final = 7  # over TLS alone
KEY_REPLY: Final = 8
FA_NAI: Final = 9

MAXIMUM_PIECE_OCTETS: Final = 247  # what one attribute 26 holds beside its two headers
MAXIMUM_FA_SA_PAYLOAD_OCTETS: Final = 1024
MAXIMUM_ALIAS_OCTETS: Final = 64
_ROOM_OCTETS: Final = 4096 - 20 - 18  # less the header and the Message-Authenticator
REQUESTED_IDENTITY: Final = b"\x00"  # RFC 4372 §2.2: one NUL asks for the identity

# Another way to authenticate beside ours would leave open which of the two was granted.
# An EAP-Message is ignored as any attribute that is not known here (the golden packets say so).
_OTHER_AUTHENTICATION: Final = frozenset({USER_PASSWORD, CHAP_PASSWORD})


def cut(number: int, value: bytes, vendor_id: int) -> Attributes:
    """Vendor attribute `number` in pieces of at most 247 octets, one for each attribute 26."""
    vendor = vendor_id.to_bytes(4, "big")
    pieces: list[Attribute] = []
    for start in range(0, len(value), MAXIMUM_PIECE_OCTETS):
        piece = value[start : start + MAXIMUM_PIECE_OCTETS]
        pieces.append((VENDOR_SPECIFIC, vendor + bytes((number, len(piece) + 2)) + piece))
    return tuple(pieces)


def collect(attributes: Iterable[Attribute], vendor_id: int) -> Grouped:
    """All values of `vendor_id` by number, each in packet order; `b"".join` makes one of pieces.

    Takes one or several vendor attributes in one attribute 26 (RFC 2865 §5.26).  Raises
    `MalformedPacket` where their lengths do not add up; another vendor's octets are not looked at.
    """
    vendor = vendor_id.to_bytes(4, "big")
    collected: Grouped = {}
    for kind, value in attributes:
        if kind != VENDOR_SPECIFIC:
            continue
        if len(value) < 5:  # RFC 2865 §5.26: Length >= 7
            raise MalformedPacket("Vendor-Specific too short")
        if value[:4] != vendor:
            continue
        _collect_one(value, collected)
    return collected


def _collect_one(value: bytes, collected: Grouped) -> None:
    position, length = 4, len(value)
    while position < length:
        # A header of two octets and at least one of value.
        end = position + value[position + 1] if position + 2 < length else 0
        if not position + 3 <= end <= length:
            raise MalformedPacket("vendor attribute length")
        collected.setdefault(value[position], []).append(value[position + 2 : end])
        position = end


def _nai(octets: bytes) -> Nai:
    try:
        return shared_nai(octets)
    except Malformed:
        raise MalformedPacket("not a NAI") from None


def nas_addresses(values: Grouped) -> tuple[IpAddress, ...]:
    """NAS-IP-Address, then NAS-IPv6-Address, as far as they are there; `MalformedPacket`."""
    found: list[IpAddress] = []
    if (ipv4 := at_most_one(values, NAS_IP_ADDRESS)) is not None:
        if len(ipv4) != 4:
            raise MalformedPacket("NAS-IP-Address length")
        found.append(IPv4Address(ipv4))
    if (ipv6 := at_most_one(values, NAS_IPV6_ADDRESS)) is not None:
        if len(ipv6) != 16:
            raise MalformedPacket("NAS-IPv6-Address length")
        found.append(IPv6Address(ipv6))
    return tuple(found)


def _nas_address(values: Grouped) -> IpAddress:
    addresses = nas_addresses(values)
    if len(addresses) != 1:
        raise MalformedPacket("not exactly one NAS address")
    return addresses[0]


def write_nas_address(address: IpAddress) -> Attribute:
    """The attribute of the address's version."""
    return (NAS_IP_ADDRESS if address.version == 4 else NAS_IPV6_ADDRESS), address.packed


def encode_access_request(request: AccessRequest, vendor_id: int) -> Attributes:
    """The attributes of an Access-Request, the Message-Authenticator left to the packet encoder.

    Raises `LocalError` for an FA NAI or payload beyond what the table of PROTOCOL 9 allows.
    """
    if len(request.fa_nai.octets) > MAXIMUM_FA_NAI_OCTETS:
        raise LocalError("Roamkey-FA-NAI too long")
    if len(request.fa_sa_payload) > MAXIMUM_FA_SA_PAYLOAD_OCTETS:
        raise LocalError("Roamkey-FA-SA-Payload too long")
    attributes: list[Attribute] = [
        (USER_NAME, b"@" + request.realm.encode()),
        (NAS_IDENTIFIER, request.nas_identifier),
        write_nas_address(request.nas_address),
        (CHARGEABLE_USER_IDENTITY, REQUESTED_IDENTITY),
        *cut(FA_NAI, request.fa_nai.octets, vendor_id),
        *cut(REGISTRATION_REQUEST, request.registration_request, vendor_id),
    ]
    for key in request.fa_public_keys:
        attributes += cut(FA_PUBLIC_KEY, key, vendor_id)
    attributes += cut(FA_SA_PAYLOAD, request.fa_sa_payload, vendor_id)
    if request.operator_name is not None:
        attributes.append((OPERATOR_NAME, request.operator_name))
    return tuple(attributes)


def decode_access_request(request: VerifiedRequest, vendor_id: int) -> AccessRequest:
    """What the Access-Request asserts; `MalformedPacket` for missing, doubled, foreign things."""
    if request.code != ACCESS_REQUEST:
        raise MalformedPacket("not an Access-Request")
    values = group(request.attributes)
    if not _OTHER_AUTHENTICATION.isdisjoint(values):
        raise MalformedPacket("another authentication method")
    ours = collect(request.attributes, vendor_id)
    realm = _nai(one(values, USER_NAME)).realm
    if not realm:
        raise MalformedPacket("User-Name without a realm")
    if one(values, CHARGEABLE_USER_IDENTITY) != REQUESTED_IDENTITY:
        raise MalformedPacket("Chargeable-User-Identity is not one NUL")
    fa_nai = one(ours, FA_NAI)
    if len(fa_nai) > MAXIMUM_FA_NAI_OCTETS:
        raise MalformedPacket("Roamkey-FA-NAI too long")
    fa_sa_payload = b"".join(ours.get(FA_SA_PAYLOAD, ()))
    if len(fa_sa_payload) > MAXIMUM_FA_SA_PAYLOAD_OCTETS:
        raise MalformedPacket("Roamkey-FA-SA-Payload too long")
    return AccessRequest(
        realm=realm,
        nas_identifier=one(values, NAS_IDENTIFIER),
        nas_address=_nas_address(values),
        fa_nai=_nai(fa_nai),
        registration_request=joined(ours, REGISTRATION_REQUEST),
        fa_public_keys=tuple(ours.get(FA_PUBLIC_KEY, ())),
        fa_sa_payload=fa_sa_payload,
        operator_name=at_most_one(values, OPERATOR_NAME),
    )


def encode_key_request(
    payload: bytes, *, home_agent: str, realm: str, vendor_id: int
) -> Attributes:
    """The attributes around a Roamkey-Key-Request.  Raises `LocalError` where it does not fit."""
    return _checked(
        (
            (USER_NAME, b"@" + realm.encode()),
            (NAS_IDENTIFIER, home_agent.encode()),
            *cut(KEY_REQUEST, payload, vendor_id),
        )
    )


def decode_key_request(request: VerifiedRequest, vendor_id: int) -> bytes:
    """The Roamkey-Key-Request in an Access-Request that came over TLS; raises `MalformedPacket`."""
    if request.code != ACCESS_REQUEST:
        raise MalformedPacket("not an Access-Request")
    return joined(collect(request.attributes, vendor_id), KEY_REQUEST)


def encode_key_reply(payload: bytes, vendor_id: int) -> Attributes:
    """The attributes around a Roamkey-Key-Reply.  Raises `LocalError` where it does not fit."""
    return _checked(cut(KEY_REPLY, payload, vendor_id))


def decode_key_reply(response: VerifiedResponse, vendor_id: int) -> bytes:
    """The Roamkey-Key-Reply in an Access-Accept; raises `MalformedPacket`."""
    if response.code != ACCESS_ACCEPT:
        raise MalformedPacket("refused by the KDC")
    return joined(collect(response.attributes, vendor_id), KEY_REPLY)


def _checked(attributes: Attributes) -> Attributes:
    if sum(len(value) + 2 for _, value in attributes) > _ROOM_OCTETS:
        raise LocalError("more than a RADIUS packet holds")
    return attributes


def encode_access_response(response: AccessResponse, vendor_id: int) -> tuple[int, Attributes]:
    """The code and attributes of a response, without Message-Authenticator and Proxy-States."""
    if isinstance(response, AccessAccept):
        return ACCESS_ACCEPT, _encode_accept(response, vendor_id)
    if isinstance(response, AccessChallenge):
        reply = cut(REGISTRATION_REPLY, response.registration_reply, vendor_id)
        return ACCESS_CHALLENGE, ((STATE, response.state), *reply)
    if response.error_cause is None:
        return ACCESS_REJECT, ()
    return ACCESS_REJECT, ((ERROR_CAUSE, write_integer(response.error_cause)),)


def _encode_accept(response: AccessAccept, vendor_id: int) -> Attributes:
    if len(response.user_name.octets) > MAXIMUM_ALIAS_OCTETS:
        raise LocalError("alias NAI too long")
    attributes: list[Attribute] = [
        (USER_NAME, response.user_name.octets),
        (CHARGEABLE_USER_IDENTITY, response.chargeable_user_identity),
        (CLASS, response.class_id),
    ]
    if response.session_timeout_s is not None:
        attributes.append((SESSION_TIMEOUT, write_integer(response.session_timeout_s)))
    attributes += cut(REGISTRATION_REPLY, response.registration_reply, vendor_id)
    if response.fa_wrapped_key is not None:
        attributes += cut(FA_WRAPPED_KEY, response.fa_wrapped_key, vendor_id)
    return tuple(attributes)


def decode_access_response(response: VerifiedResponse, vendor_id: int) -> AccessResponse:
    """What the response says; raises `MalformedPacket` for missing or doubled things.

    The `code` of an `AccessReject` is 67: home tells no more (PROTOCOL section 9).
    """
    values = group(response.attributes)
    ours = collect(response.attributes, vendor_id)
    if response.code == ACCESS_ACCEPT:
        return _decode_accept(values, ours)
    if response.code == ACCESS_CHALLENGE:
        return AccessChallenge(joined(ours, REGISTRATION_REPLY), one(values, STATE))
    if response.code == ACCESS_REJECT:
        return AccessReject(FA_REGISTRATION_REFUSED, at_most_one_integer(values, ERROR_CAUSE))
    raise MalformedPacket("not a response to an Access-Request")


def _decode_accept(values: Grouped, ours: Grouped) -> AccessAccept:
    user_name = one(values, USER_NAME)
    if len(user_name) > MAXIMUM_ALIAS_OCTETS:
        raise MalformedPacket("alias NAI too long")
    return AccessAccept(
        user_name=_nai(user_name),
        chargeable_user_identity=one(values, CHARGEABLE_USER_IDENTITY),
        class_id=one(values, CLASS),
        session_timeout_s=at_most_one_integer(values, SESSION_TIMEOUT),
        registration_reply=joined(ours, REGISTRATION_REPLY),
        fa_wrapped_key=at_most_one(ours, FA_WRAPPED_KEY),
    )
