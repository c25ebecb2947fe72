"""home.toml, home-agent.toml and kdc.toml: the home side in one process or in several."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from aaa.config.clients import LimitedClient, RejectDelay
from aaa.config.fields import (
    Addresses,
    FaNai,
    HomeRealm,
    Ipv4Network,
    Listen,
    PublicKey,
    SocketAddress,
    VendorId,
)
from aaa.config.keys import KeyOutletSettings
from aaa.config.servers import Deadline, HopServer
from aaa.config.tls import (
    Listening,
    TlsPeer,
    TlsServer,
    TlsSettings,
    check_servers,
    check_ways,
)
from aaa.policy import HomeNegotiation, NotEmpty, Together
from kdc.config import (
    ConfiguredNai,
    DatabaseSettings,
    Ipv4,
    LogSettings,
    Realm,
    StrictModel,
    Text,
)
from kdc.model import DEFAULT_VENDOR_ID

ANY_REALM = "*"


class HomeAgentPolicySection(Listening):
    """What the operator of a home agent decides, in whatever process it is."""

    realm: HomeRealm
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    maximum_lifetime_s: int = Field(default=1800, ge=1, le=65534)
    window_s: int = Field(default=7, ge=1, le=60)
    registrations_per_minute: int = Field(default=12, ge=1, le=10000)
    fa_key_trust: Literal["heard", "pinned"] = "heard"
    default_suites: Together = ("aes-256-gcm",)
    overlap_s: float = Field(default=60, ge=0, le=3600)
    reject_delay_s: RejectDelay = 1.0


class HomeSection(HomeAgentPolicySection):
    """[home]; with `nai` and `address` a home agent is in this process."""

    nai: ConfiguredNai | None = None
    address: Ipv4 | None = None
    dynamic_addresses: Ipv4Network | None = None
    agent_deadline_s: Deadline = 2.25  # of [[home_agent]]; shorter than that of a proxy before us
    accounting_listen: Addresses = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.nai is None) != (self.address is None):
            raise ValueError("expected both nai and address of a home agent, or neither")
        return self


class KnownForeignAgent(StrictModel):
    """[[foreign_agent]]: what a home agent knows of one."""

    nai: FaNai
    care_of: tuple[Ipv4Network, ...] = ()
    pinned_keys: tuple[PublicKey, ...] = ()


class HomeClient(LimitedClient):
    """[[client]] of home.toml: a foreign AAA, and the realms that it may speak for."""

    realms: Annotated[tuple[Realm, ...], NotEmpty]


class HomeAgentServer(HopServer):
    """[[home_agent]] of home.toml: a home agent in another process, behind this home AAA.

    Several of one address are one home agent in several processes, asked in the order of the file.
    """

    address: Ipv4
    server: SocketAddress


class HomeConfig(StrictModel):
    """home.toml."""

    home: HomeSection
    tls: TlsSettings | None = None
    database: DatabaseSettings | None = None
    client: tuple[HomeClient, ...] = ()
    home_agent: tuple[HomeAgentServer, ...] = ()
    foreign_agent: tuple[KnownForeignAgent, ...] = ()
    negotiation: HomeNegotiation = HomeNegotiation()
    keys: KeyOutletSettings | None = None
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        check_ways(self.home, self.tls, self.client)
        check_servers(self.tls, self.home_agent)
        return self

    @model_validator(mode="after")
    def _has_home_agents(self) -> Self:
        if (self.home.address is None) != (self.database is None):
            raise ValueError(
                "expected [database] beside home.nai and home.address, for a home agent in this"
                " process, or none of them"
            )
        if self.home.accounting_listen and self.database is None:
            raise ValueError("expected [database] beside home.accounting_listen, to keep it in")
        if self.home.address is None and not self.home_agent:
            raise ValueError("expected a home agent: home.nai and home.address, or [[home_agent]]")
        if self.home.address in [item.address for item in self.home_agent]:
            raise ValueError("expected no [[home_agent]] with the address of the one in here")
        names = [item.name for item in self.home_agent]
        if len(set(names)) != len(names):
            raise ValueError("expected each [[home_agent]] to have a name of its own")
        return self


def _realm_or_any(realms: tuple[str, ...]) -> tuple[str, ...]:
    if ANY_REALM in realms and len(realms) > 1:
        raise ValueError('expected realms, or "*" alone for a home AAA that has judged them')
    return realms


class HomeAgentClient(LimitedClient):
    """[[client]] of home-agent.toml: our home AAA (realms = ["*"]), or a foreign agent itself."""

    realms: Annotated[tuple[Literal["*"] | Realm, ...], NotEmpty, AfterValidator(_realm_or_any)]


class HomeAgentSection(HomeAgentPolicySection):
    """[home_agent]."""

    name: Text
    nai: ConfiguredNai
    address: Ipv4
    kdc_deadline_s: float = Field(default=2.0, gt=0, le=30)  # shorter than agent_deadline_s


class HomeAgentConfig(StrictModel):
    """home-agent.toml."""

    home_agent: HomeAgentSection
    tls: TlsSettings
    kdc: Annotated[tuple[TlsServer, ...], NotEmpty]
    client: tuple[HomeAgentClient, ...] = ()
    foreign_agent: tuple[KnownForeignAgent, ...] = ()
    negotiation: HomeNegotiation = HomeNegotiation()
    keys: KeyOutletSettings | None = None
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        check_ways(self.home_agent, self.tls, self.client)
        return self


class KdcSection(StrictModel):
    """[kdc]."""

    listen: Listen
    realm: HomeRealm
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    overlap_s: float = Field(default=60, ge=0, le=3600)
    dynamic_addresses: Ipv4Network | None = None


class KdcHomeAgent(TlsPeer):
    """[[home_agent]] of kdc.toml: a home agent that may ask, for records of its own address."""

    nai: ConfiguredNai
    address: Ipv4


class KdcConfig(StrictModel):
    """kdc.toml."""

    kdc: KdcSection
    tls: TlsSettings
    database: DatabaseSettings
    home_agent: Annotated[tuple[KdcHomeAgent, ...], NotEmpty]
    log: LogSettings = LogSettings()
