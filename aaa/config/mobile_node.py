"""mobile-node.toml: one device."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from aaa.config.fields import InterfaceName, SocketAddress, VendorId
from aaa.config.keys import KeyOutletSettings
from aaa.policy import NodeNegotiation
from kdc.config import ConfiguredPath, LogSettings, StrictModel
from kdc.model import DEFAULT_VENDOR_ID


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
