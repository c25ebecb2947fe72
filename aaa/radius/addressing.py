"""Of whom an Accounting-, Disconnect- or CoA-Request is and where it is for: what a proxy reads.

The rest of such a request passes byte for byte; who may say what is for the roles.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from aaa.exchange import Addressing
from aaa.radius.accounting import EVENT_TIMESTAMP, STATUS_TYPE
from aaa.radius.attributes import (
    FA_NAI,
    NAS_IDENTIFIER,
    NAS_IP_ADDRESS,
    NAS_IPV6_ADDRESS,
    OPERATOR_NAME,
    USER_NAME,
    collect,
)
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import Attributes
from aaa.radius.routing import routed_realm
from kdc.accounting import AccountingStatus
from kdc.errors import Malformed
from kdc.model import MAXIMUM_FA_NAI_OCTETS, IpAddress, Nai, shared_nai

_OF_NAS: Final = frozenset(
    status.value.to_bytes(4, "big") for status in AccountingStatus if status.of_nas
)


def decode_addressing(attributes: Attributes, vendor_id: int) -> Addressing:
    """Raises `MalformedPacket` for what is there twice or has another length.

    Of several Operator-Names the first counts (RFC 8559 §3).
    """
    user_name = _at_most_one(attributes, USER_NAME)
    timestamp = _at_most_one(attributes, EVENT_TIMESTAMP, 4)
    return Addressing(
        realm=None if user_name is None else routed_realm(user_name),
        nas_identifier=_at_most_one(attributes, NAS_IDENTIFIER),
        nas_addresses=_nas_addresses(attributes),
        fa_nai=_fa_nai(attributes, vendor_id),
        operator_name=next((v for kind, v in attributes if kind == OPERATOR_NAME), None),
        event_timestamp=None if timestamp is None else int.from_bytes(timestamp, "big"),
        is_of_nas=_at_most_one(attributes, STATUS_TYPE, 4) in _OF_NAS,
    )


def _at_most_one(attributes: Attributes, number: int, length: int | None = None) -> bytes | None:
    found = [value for kind, value in attributes if kind == number]
    if len(found) > 1 or (length is not None and found and len(found[0]) != length):
        raise MalformedPacket("attribute twice or of another length")
    return found[0] if found else None


def _nai(octets: bytes) -> Nai:
    try:
        return shared_nai(octets)
    except Malformed:
        raise MalformedPacket("not a NAI") from None


def _nas_addresses(attributes: Attributes) -> tuple[IpAddress, ...]:
    four = _at_most_one(attributes, NAS_IP_ADDRESS, 4)
    six = _at_most_one(attributes, NAS_IPV6_ADDRESS, 16)
    found: list[IpAddress] = []
    if four is not None:
        found.append(IPv4Address(four))
    if six is not None:
        found.append(IPv6Address(six))
    return tuple(found)


def _fa_nai(attributes: Attributes, vendor_id: int) -> Nai | None:
    found = collect(attributes, vendor_id).get(FA_NAI)
    if found is None:
        return None
    if len(found) > 1 or len(found[0]) > MAXIMUM_FA_NAI_OCTETS:
        raise MalformedPacket("Roamkey-FA-NAI twice or too long")
    return _nai(found[0])
