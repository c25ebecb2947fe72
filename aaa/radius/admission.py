"""How many requests of a client are worked on: one token bucket for each, by its name.

Only verified requests may be brought here, or a forged source would spend what is another's.  It
knows no socket and no clock; what becomes of a request that finds no token is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdc.errors import LocalError


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests a second in the long run, and `burst` at once.  Raises `LocalError`."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if not self.per_second > 0 or self.burst < 1:
            raise LocalError("expected a rate above 0 and a burst of at least 1")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimits:
    """The buckets of all clients; a client without a limit has none.  `now` is monotonic."""

    __slots__ = ("_buckets", "_limits")

    def __init__(self, limits: Mapping[str, RateLimit] | None = None) -> None:
        self._limits: dict[str, RateLimit] = dict(limits or {})
        self._buckets: dict[str, _Bucket] = {}

    def replace(self, limits: Mapping[str, RateLimit]) -> None:
        """Takes these from now on; a bucket whose limit has not changed keeps what it has."""
        kept = {name for name, limit in limits.items() if self._limits.get(name) == limit}
        self._buckets = {n: bucket for n, bucket in self._buckets.items() if n in kept}
        self._limits = dict(limits)

    def take(self, client: str, now: float) -> bool:
        """Whether one more request of `client` may be worked on; it has been counted then."""
        limit = self._limits.get(client)
        if limit is None:
            return True
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(limit.burst, now)
        if now > bucket.filled_at:
            gained = (now - bucket.filled_at) * limit.per_second
            bucket.tokens = min(limit.burst, bucket.tokens + gained)
            bucket.filled_at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
