"""Servers that a proxy sends to: how often, and how it finds out whether they live."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aaa.config.tls import RadiusServer
from kdc.config import Text

Deadline = Annotated[float, Field(ge=0.1, le=30)]


class HopServer(RadiusServer):
    """A server by UDP or over TLS.

    By UDP `timeout_s` passes before it is sent to a second time, then twice that.
    """

    name: Text
    timeout_s: float = Field(default=1.0, gt=0, le=30)
    retries: int = Field(default=2, ge=0, le=10)
    status_server: bool = True
    probe_interval_s: float = Field(default=30.0, ge=2, le=3600)
    revive_after_s: float = Field(default=60.0, ge=1, le=3600)
