"""Servers that a proxy sends to: how often, and how it finds out whether they live."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdc.config import SharedSecret, StrictModel, Text

Deadline = Annotated[float, Field(ge=0.1, le=30)]


class UdpServer(StrictModel):
    """A server by UDP; `timeout_s` passes before it is sent to a second time, then twice that."""

    name: Text
    secret_file: SharedSecret = Field(repr=False)
    timeout_s: float = Field(default=1.0, gt=0, le=30)
    retries: int = Field(default=2, ge=0, le=10)
    status_server: bool = True
    probe_interval_s: float = Field(default=30.0, ge=2, le=3600)
    revive_after_s: float = Field(default=60.0, ge=1, le=3600)
