"""Log lines that whoever sends us packets can cause: at most one of a kind and source in 10 s."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

EVERY_S: Final = 10.0
MAXIMUM_SOURCES: Final = 1024
OTHERS: Final = "others"  # all further sources together: addresses can be forged


@dataclass(slots=True)
class _Said:
    silent_until: float
    suppressed: int = 0


class LimitedLog:
    """What is suppressed is counted in the next line of its kind and source."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        *,
        every_s: float = EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._every_s = every_s
        self._monotonic = monotonic
        self._said: dict[tuple[str, str, str], _Said] = {}
        self._swept_at = 0.0

    def tell(
        self,
        event: str,
        source: str,
        *,
        variant: str = "",
        level: int = logging.WARNING,
        **fields: object,
    ) -> None:
        """One line with its `source`, or none; `event` with `variant` is its kind."""
        now = self._monotonic()
        key = (event, variant, source)
        said = self._said.get(key)
        if said is None and len(self._said) >= MAXIMUM_SOURCES and not self._has_room(now):
            key, fields = (event, variant, OTHERS), {}
            said = self._said.get(key)
        if said is not None and now < said.silent_until:
            said.suppressed += 1
            return
        suppressed = said.suppressed if said is not None else 0
        self._said[key] = _Said(now + self._every_s)
        counted = {"suppressed": suppressed} if suppressed else {}
        self._log.log(level, event, source=key[2], **fields, **counted)

    def _has_room(self, now: float) -> bool:
        """Looks through all of them once in a period: a flood must not pay for it each time."""
        if now - self._swept_at >= self._every_s:
            self._swept_at = now
            self._said = {k: said for k, said in self._said.items() if said.silent_until > now}
        return len(self._said) < MAXIMUM_SOURCES
