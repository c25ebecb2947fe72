"""agent.toml: a foreign agent between mobile nodes and its RADIUS server."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Literal, Self

from pydantic import Field, model_validator

from aaa.config.fields import AnyAddress, FaNai, InterfaceName, SocketAddress, VendorId
from aaa.config.keys import KeyOutletSettings
from aaa.config.tls import RadiusServer, TlsSettings, check_servers
from aaa.policy import AgentNegotiation
from kdc.config import ConfiguredPath, Ipv4, LogSettings, StrictModel, Text
from kdc.model import DEFAULT_VENDOR_ID


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
    # Sessions outlive the process as associations in [keys] file do: home may still end them.
    session_file: ConfiguredPath | None = None
    # RFC 5176: where the server of [radius], and nobody else, ends sessions; usually port 3799.
    dynamic_authorization_listen: SocketAddress | None = None

    @model_validator(mode="after")
    def _is_heard(self) -> Self:
        if self.advertise_on is None and self.advertisement_file is None:
            raise ValueError("expected advertise_on (an interface) or advertisement_file")
        if self.advertise_on is not None and not isinstance(self.address, IPv4Address):
            raise ValueError("expected an IPv4 address in address: advertise_on speaks ICMP")
        return self


class AgentRadius(RadiusServer):
    """[radius] of agent.toml: the AAA server of the foreign domain."""

    server: SocketAddress
    source_address: AnyAddress | None = None  # whom the server is to see; None: the route decides
    timeout_s: float = Field(default=3.0, gt=0, le=30)
    retries: int = Field(default=3, ge=0, le=10)
    accounting: bool = False
    accounting_server: SocketAddress | None = None  # None: the port after that of `server`
    # RFC 2869 §5.16: not below 60, better not below 600.  None: Start and Stop alone.
    accounting_interim_s: int | None = Field(default=None, ge=60, le=86400)

    @model_validator(mode="after")
    def _accounts_where(self) -> Self:
        told = self.accounting_server is not None or self.accounting_interim_s is not None
        if told and not self.accounting:
            raise ValueError("expected accounting = true beside accounting_server and _interim_s")
        return self


class AgentConfig(StrictModel):
    """agent.toml."""

    agent: AgentSection
    radius: AgentRadius
    tls: TlsSettings | None = None
    negotiation: AgentNegotiation = AgentNegotiation()
    keys: KeyOutletSettings | None = None
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        check_servers(self.tls, (self.radius,))
        if not self.radius.san:
            return self
        if self.radius.source_address is not None or self.radius.accounting_server is not None:
            raise ValueError(
                "expected neither source_address nor accounting_server beside radius.san: over TLS"
                " the certificate says who asks, and there is one port"
            )
        if self.agent.dynamic_authorization_listen is not None:
            raise ValueError(
                "expected no dynamic_authorization_listen beside radius.san: over TLS such requests"
                " come over the agent's own connection"
            )
        return self
