"""The configuration of each process of aaa: strict models over TOML (kdc.config).

How a file is read and what is said of a fault is kdc.config's; nothing here starts anything.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, PlainValidator

from kdc.config import (
    ConfigurationError,
    ConfiguredNai,
    ConfiguredPath,
    DatabaseSettings,
    HomeIdentity,
    Ipv4,
    LogSettings,
    Problem,
    Realm,
    SecretPath,
    SharedSecret,
    StrictModel,
    Text,
    load,
    parser_of,
    read_toml,
)
from kdc.model import DEFAULT_VENDOR_ID, MAXIMUM_FA_NAI_OCTETS, Nai, Suite

SUITES: Final = {
    "hmac-sha2-256": Suite(1, 5),
    "hmac-sha2-512": Suite(1, 7),
    "aes-256-cbc": Suite(2, 12),
    "aes-256-gcm": Suite(3, 20),
    "chacha20-poly1305": Suite(3, 28),
}
MAXIMUM_HOME_REALM_OCTETS: Final = 64 - len("m-0123456789abcdef@")  # PROTOCOL section 9
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


def _suite(value: object) -> Suite:
    if isinstance(value, Suite):
        return value
    if not isinstance(value, str) or value not in SUITES:
        raise ValueError(f"expected one of {', '.join(SUITES)}")
    return SUITES[value]


def _public_key(value: object) -> bytes:
    try:
        octets = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        octets = b""
    if len(octets) != 32:
        raise ValueError("expected an X25519 public key in 64 hex digits")
    return octets


def _not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("expected at least one")
    return items


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
SuiteName = Annotated[Suite, PlainValidator(_suite)]
PublicKey = Annotated[bytes, PlainValidator(_public_key)]
FaNai = Annotated[ConfiguredNai, AfterValidator(_short_nai)]
VendorId = Annotated[int, Field(ge=1, le=2**24 - 1)]
# Not Field(min_length=1): pydantic would count a refused item as missing and tell it twice.
NotEmpty = AfterValidator(_not_empty)
Listen = Annotated[tuple[SocketAddress, ...], NotEmpty]
Realms = Annotated[tuple[Realm, ...], NotEmpty]


class HomeSection(HomeIdentity):
    """[home]."""

    model_config = StrictModel.model_config

    realm: Annotated[Realm, AfterValidator(_short_realm)]

    listen: Listen
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    maximum_lifetime_s: int = Field(default=1800, ge=1, le=65534)
    window_s: int = Field(default=7, ge=1, le=60)
    registrations_per_minute: int = Field(default=12, ge=1, le=10000)
    overlap_s: float = Field(default=60, ge=0, le=3600)
    fa_key_trust: Literal["heard", "pinned"] = "heard"
    default_suites: Annotated[tuple[SuiteName, ...], Field(max_length=3), NotEmpty] = (
        SUITES["aes-256-gcm"],
    )
    dynamic_addresses: Ipv4Network | None = None


class HomeClient(StrictModel):
    """[[client]] of home.toml: a foreign AAA."""

    name: Text
    address: Network
    secret_file: SharedSecret = Field(repr=False)
    realms: Realms


class KnownForeignAgent(StrictModel):
    """[[foreign_agent]] of home.toml."""

    nai: FaNai
    care_of: tuple[Ipv4Network, ...] = ()
    pinned_keys: tuple[PublicKey, ...] = ()


class HomeConfig(StrictModel):
    """home.toml."""

    home: HomeSection
    database: DatabaseSettings
    client: tuple[HomeClient, ...] = ()
    foreign_agent: tuple[KnownForeignAgent, ...] = ()
    log: LogSettings = LogSettings()


class TlsSettings(StrictModel):
    """[tls]: what we show to peers, and by whom theirs are signed (RFC 6614)."""

    certificate_file: ConfiguredPath
    key_file: SecretPath
    ca_file: ConfiguredPath
    crl_file: ConfiguredPath | None = None


class TlsPeer(StrictModel):
    """One party over TLS: its certificate bears at least one of these as a subjectAltName."""

    name: Text
    san: Annotated[tuple[CertificateName, ...], NotEmpty]


class TlsServer(TlsPeer):
    """A server over TLS, by name or number."""

    address: SocketAddress


class ForeignSection(StrictModel):
    """[foreign]."""

    listen: Listen
    realm: Realm
    vendor_id: VendorId = DEFAULT_VENDOR_ID


class ForeignClient(StrictModel):
    """[[client]] of foreign.toml: a foreign agent, and all that it may say it is."""

    name: Text
    address: Network
    secret_file: SharedSecret = Field(repr=False)
    fa_nai: FaNai
    nas_address: AnyAddress
    nas_identifier: Text


class HomeServer(StrictModel):
    """[[home_server]] of foreign.toml."""

    name: Text
    address: SocketAddress
    secret_file: SharedSecret = Field(repr=False)
    realms: Realms
    timeout_s: float = Field(default=2.0, gt=0, le=30)
    retries: int = Field(default=2, ge=0, le=10)


class ForeignConfig(StrictModel):
    """foreign.toml."""

    foreign: ForeignSection
    client: tuple[ForeignClient, ...] = ()
    home_server: tuple[HomeServer, ...] = ()
    log: LogSettings = LogSettings()


class AgentSection(StrictModel):
    """[agent]."""

    listen: SocketAddress
    nai: FaNai
    address: AnyAddress
    care_of_address: Ipv4
    nas_identifier: Text
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    advertisement_file: ConfiguredPath
    key_lifetime_s: int = Field(default=3600, ge=3600, le=86400)
    state_file: ConfiguredPath | None = None


class RadiusServer(StrictModel):
    """[radius] of agent.toml."""

    server: SocketAddress
    secret_file: SharedSecret = Field(repr=False)
    timeout_s: float = Field(default=3.0, gt=0, le=30)
    retries: int = Field(default=3, ge=0, le=10)


class AgentConfig(StrictModel):
    """agent.toml."""

    agent: AgentSection
    radius: RadiusServer
    log: LogSettings = LogSettings()


class MobileNodeSection(StrictModel):
    """[mobile_node]."""

    enrolment_file: ConfiguredPath
    state_file: ConfiguredPath
    foreign_agent: SocketAddress
    advertisement_file: ConfiguredPath
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    lifetime_s: int = Field(default=600, ge=1, le=65534)
    timeout_s: float = Field(default=2.0, gt=0, le=60)
    retries: int = Field(default=3, ge=0, le=10)
    link_address: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")] | None = (
        None
    )


class MobileNodeConfig(StrictModel):
    """mobile-node.toml."""

    mobile_node: MobileNodeSection
    log: LogSettings = LogSettings()


PROCESSES: Final[dict[str, type[StrictModel]]] = {
    "home": HomeConfig,
    "foreign": ForeignConfig,
    "agent": AgentConfig,
    "mobile_node": MobileNodeConfig,
}


def load_home(path: Path) -> HomeConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, HomeConfig)


def load_foreign(path: Path) -> ForeignConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, ForeignConfig)


def load_agent(path: Path) -> AgentConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, AgentConfig)


def load_mobile_node(path: Path) -> MobileNodeConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, MobileNodeConfig)


def load_any(path: Path) -> tuple[str, StrictModel]:
    """The process that a file is for, told by its section, and its configuration."""
    tables: dict[str, Any] = read_toml(path)
    named = [name for name in PROCESSES if name in tables]
    if len(named) != 1:
        sections = ", ".join(f"[{name}]" for name in PROCESSES)
        raise ConfigurationError(path, (Problem("", f"expected exactly one of {sections}"),))
    return named[0], load(path, PROCESSES[named[0]])
