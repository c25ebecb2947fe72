"""Fields that several configurations share: how a value is read, and what is said of a bad one."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainValidator

from aaa.policy import NotEmpty
from kdc.config import ConfiguredNai, Realm, parser_of
from kdc.model import MAXIMUM_FA_NAI_OCTETS, Nai

MAXIMUM_HOME_REALM_OCTETS: Final = 64 - len("m-0123456789abcdef@")  # PROTOCOL section 9
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")  # linux/if.h: IFNAMSIZ; an IPv4 address fits too
# A whole name, as certificates have it: labels in ASCII, no wildcard, none of digits at the end.
_DNS_NAME: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?=[a-z0-9-]*[a-z])[a-z0-9]"
    r"(?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_ADDRESS: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})")


def _check_address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 <= int(found[2]) < 65536:
        raise ValueError
    return text


def _certificate_name(text: str) -> str | IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        name = text.lower()
    if len(name) > 253 or _DNS_NAME.fullmatch(name) is None:
        raise ValueError
    return name


def _check_interface(text: str) -> str:
    if _INTERFACE.fullmatch(text) is None or text in (".", ".."):
        raise ValueError
    return text


def _public_key(value: object) -> bytes:
    try:
        octets = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        octets = b""
    if len(octets) != 32:
        raise ValueError("expected an X25519 public key in 64 hex digits")
    return octets


def _short_realm(realm: str) -> str:
    if len(realm) > MAXIMUM_HOME_REALM_OCTETS:
        raise ValueError(
            f"expected at most {MAXIMUM_HOME_REALM_OCTETS} octets: an alias of the home has 64"
        )
    return realm


def _short_nai(nai: Nai) -> Nai:
    if len(nai.octets) > MAXIMUM_FA_NAI_OCTETS:
        raise ValueError(f"expected a name of at most {MAXIMUM_FA_NAI_OCTETS} octets")
    return nai


SocketAddress = Annotated[str, parser_of(_check_address, 'HOST:PORT, such as "127.0.0.1:1812"')]
Network = Annotated[str, parser_of(lambda text: str(ip_network(text)), "a network, 192.0.2.0/24")]
AnyAddress = Annotated[IPv4Address | IPv6Address, parser_of(ip_address, "an IP address")]
Ipv4Network = Annotated[IPv4Network, parser_of(IPv4Network, "an IPv4 network, 10.0.0.0/8")]
CertificateName = Annotated[
    str | IPv4Address | IPv6Address,
    parser_of(_certificate_name, "a DNS name without wildcard, or an IP address"),
]
InterfaceName = Annotated[
    str, parser_of(_check_interface, "the name of an interface, such as eth0, or its IPv4 address")
]
PublicKey = Annotated[bytes, PlainValidator(_public_key)]
FaNai = Annotated[ConfiguredNai, AfterValidator(_short_nai)]
VendorId = Annotated[int, Field(ge=1, le=2**24 - 1)]
Addresses = tuple[SocketAddress, ...]
Listen = Annotated[tuple[SocketAddress, ...], NotEmpty]
Realms = Annotated[tuple[Realm, ...], NotEmpty]
HomeRealm = Annotated[Realm, AfterValidator(_short_realm)]
