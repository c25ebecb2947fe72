"""What every [[client]] has: where it is, its secrets, and what it may take of us."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from aaa.config.fields import Network
from kdc.config import SharedSecret, StrictModel, Text

RejectDelay = Annotated[float, Field(ge=0, le=5)]


class RadiusClient(StrictModel):
    """A RADIUS client over UDP.

    `previous_secret_file` is the secret that it may still use during a rotation.
    `requests_per_second` of 0 is no limit; `burst` is twice that number if it is not given.
    """

    name: Text
    address: Network
    secret_file: SharedSecret = Field(repr=False)
    previous_secret_file: SharedSecret | None = Field(default=None, repr=False)
    require_message_authenticator: bool = True
    requests_per_second: float = Field(default=0, ge=0, le=1_000_000)
    burst: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.burst is not None and not self.requests_per_second:
            raise ValueError("expected requests_per_second beside burst")
        previous = self.previous_secret_file
        if previous is not None and previous == self.secret_file:
            raise ValueError("expected another secret in previous_secret_file than in secret_file")
        return self
