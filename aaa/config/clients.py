"""What every [[client]] of an AAA server has beside its way to us: what it may take of us."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from aaa.config.tls import RadiusClient
from kdc.config import SharedSecret

RejectDelay = Annotated[float, Field(ge=0, le=5)]


class LimitedClient(RadiusClient):
    """A RADIUS client with its limits.

    `previous_secret_file` is the secret that it may still use by UDP during a rotation.
    `requests_per_second` of 0 is no limit; `burst` is twice that number if it is not given.
    """

    previous_secret_file: SharedSecret | None = Field(default=None, repr=False)
    require_message_authenticator: bool = True
    requests_per_second: float = Field(default=0, ge=0, le=1_000_000)
    burst: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.burst is not None and not self.requests_per_second:
            raise ValueError("expected requests_per_second beside burst")
        previous = self.previous_secret_file
        if self.secret_file is None and (previous or not self.require_message_authenticator):
            raise ValueError(
                "expected previous_secret_file and require_message_authenticator only beside"
                " secret_file: over TLS there is neither"
            )
        if previous is not None and previous == self.secret_file:
            raise ValueError("expected another secret in previous_secret_file than in secret_file")
        return self
