"""The configuration of each process of aaa: strict models over TOML (kdc.config).

How a file is read and what is said of a fault is kdc.config's; nothing here starts anything.
"""

from __future__ import annotations

import os
import re
import stat
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from aaa.policy import (
    AgentNegotiation,
    HomeNegotiation,
    NodeNegotiation,
    NotEmpty,
    Together,
)
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
    SharedSecret,
    StrictModel,
    Text,
    load,
    parser_of,
    read_toml,
)
from kdc.model import DEFAULT_VENDOR_ID, MAXIMUM_FA_NAI_OCTETS, Nai

MAXIMUM_HOME_REALM_OCTETS: Final = 64 - len("m-0123456789abcdef@")  # PROTOCOL section 9
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")  # linux/if.h: IFNAMSIZ; an IPv4 address fits too
_ADDRESS: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})")


def _check_address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 <= int(found[2]) < 65536:
        raise ValueError
    return text


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


def _check_command(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """A command that is given keys: nobody but root and us may have put its program there."""
    program = Path(arguments[0])
    if not program.is_absolute():
        raise ValueError("expected the absolute path of a program first: no shell looks for it")
    try:
        status = program.stat()
    except OSError as error:
        raise ValueError(f"expected a program that we can execute: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
        raise ValueError("expected a program that we can execute")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ValueError("expected a program that only root or the user of this process can change")
    return arguments


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
InterfaceName = Annotated[
    str, parser_of(_check_interface, "the name of an interface, such as eth0, or its IPv4 address")
]
PublicKey = Annotated[bytes, PlainValidator(_public_key)]
FaNai = Annotated[ConfiguredNai, AfterValidator(_short_nai)]
VendorId = Annotated[int, Field(ge=1, le=2**24 - 1)]
Listen = Annotated[tuple[SocketAddress, ...], NotEmpty]
Realms = Annotated[tuple[Realm, ...], NotEmpty]


class KeyOutletSettings(StrictModel):
    """[keys]: where the associations of a process go for other software (docs/key-use.md)."""

    file: ConfiguredPath | None = None
    command: (
        Annotated[tuple[Text, ...], Field(max_length=64), NotEmpty, AfterValidator(_check_command)]
        | None
    ) = None
    timeout_s: float = Field(default=10.0, gt=0, le=300)

    @model_validator(mode="after")
    def _has_an_outlet(self) -> KeyOutletSettings:
        if self.file is None and self.command is None:
            raise ValueError("expected file, command or both")
        return self


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
    default_suites: Together = ("aes-256-gcm",)
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
    negotiation: HomeNegotiation = HomeNegotiation()
    keys: KeyOutletSettings | None = None
    log: LogSettings = LogSettings()


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
    """[agent]; it advertises by ICMP on `advertise_on`, in `advertisement_file`, or in both."""

    listen: SocketAddress
    nai: FaNai
    address: AnyAddress
    care_of_address: Ipv4
    nas_identifier: Text
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    advertise_on: InterfaceName | None = None
    advertisement_address: Literal["224.0.0.1", "255.255.255.255"] = "224.0.0.1"
    # RFC 1256 §4.1 begins at 4 s; for mobility agents RFC 5944 §2.3 only asks for a limit.
    advertisement_interval_s: float = Field(default=10, ge=1, le=1800)
    advertisement_file: ConfiguredPath | None = None
    key_lifetime_s: int = Field(default=3600, ge=3600, le=86400)
    state_file: ConfiguredPath | None = None

    @model_validator(mode="after")
    def _is_heard(self) -> Self:
        if self.advertise_on is None and self.advertisement_file is None:
            raise ValueError("expected advertise_on (an interface) or advertisement_file")
        if self.advertise_on is not None and not isinstance(self.address, IPv4Address):
            raise ValueError("expected an IPv4 address in address: advertise_on speaks ICMP")
        return self


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
    negotiation: AgentNegotiation = AgentNegotiation()
    keys: KeyOutletSettings | None = None
    log: LogSettings = LogSettings()


class MobileNodeSection(StrictModel):
    """[mobile_node]; it hears its agent by ICMP on `interface`, or reads `advertisement_file`.

    Requests go to UDP 434 of the agent that was heard or read, or to `foreign_agent` if given.
    """

    enrolment_file: ConfiguredPath
    state_file: ConfiguredPath
    interface: InterfaceName | None = None
    advertisement_file: ConfiguredPath | None = None
    foreign_agent: SocketAddress | None = None
    hearing_s: float = Field(default=10.0, gt=0, le=3600)  # how long an agent is listened for
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    lifetime_s: int = Field(default=600, ge=1, le=65534)
    timeout_s: float = Field(default=2.0, gt=0, le=60)
    retries: int = Field(default=3, ge=0, le=10)
    link_address: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")] | None = (
        None
    )

    @model_validator(mode="after")
    def _hears_one(self) -> Self:
        if (self.interface is None) == (self.advertisement_file is None):
            raise ValueError("expected either interface or advertisement_file")
        return self


class MobileNodeConfig(StrictModel):
    """mobile-node.toml."""

    mobile_node: MobileNodeSection
    negotiation: NodeNegotiation = NodeNegotiation()
    keys: KeyOutletSettings | None = None
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
