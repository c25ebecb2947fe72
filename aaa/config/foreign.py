"""foreign.toml: a foreign AAA, its foreign agents and the homes that it knows."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from aaa.config.fields import AnyAddress, FaNai, Realms, SocketAddress, VendorId
from aaa.config.tls import (
    Listening,
    RadiusClient,
    RadiusServer,
    TlsSettings,
    check_servers,
    check_ways,
)
from kdc.config import LogSettings, Realm, StrictModel, Text
from kdc.model import DEFAULT_VENDOR_ID


class ForeignSection(Listening):
    """[foreign]."""

    realm: Realm
    vendor_id: VendorId = DEFAULT_VENDOR_ID


class ForeignClient(RadiusClient):
    """[[client]] of foreign.toml: a foreign agent, and all that it may say it is."""

    fa_nai: FaNai
    nas_address: AnyAddress
    nas_identifier: Text


class HomeServer(RadiusServer):
    """[[home_server]] of foreign.toml."""

    name: Text
    address: SocketAddress
    realms: Realms
    timeout_s: float = Field(default=2.0, gt=0, le=30)
    retries: int = Field(default=2, ge=0, le=10)


class ForeignConfig(StrictModel):
    """foreign.toml."""

    foreign: ForeignSection
    tls: TlsSettings | None = None
    client: tuple[ForeignClient, ...] = ()
    home_server: tuple[HomeServer, ...] = ()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        check_ways(self.foreign, self.tls, self.client)
        check_servers(self.tls, self.home_server)
        return self
