"""foreign.toml: a foreign AAA, its foreign agents and the homes that it knows."""

from __future__ import annotations

from pydantic import Field

from aaa.config.clients import RadiusClient, RejectDelay
from aaa.config.fields import AnyAddress, FaNai, Listen, Realms, SocketAddress, VendorId
from kdc.config import LogSettings, Realm, SharedSecret, StrictModel, Text
from kdc.model import DEFAULT_VENDOR_ID


class ForeignSection(StrictModel):
    """[foreign]."""

    listen: Listen
    realm: Realm
    vendor_id: VendorId = DEFAULT_VENDOR_ID
    reject_delay_s: RejectDelay = 1.0


class ForeignClient(RadiusClient):
    """[[client]] of foreign.toml: a foreign agent, and all that it may say it is.

    One agent is not to take what the others need of us and of the homes: 500 a second is what
    30,000 nodes do that come back each minute.
    """

    requests_per_second: float = Field(default=500, ge=0, le=1_000_000)
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
