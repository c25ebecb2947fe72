"""The outlet of associations for other software: a table, and the file and command that follow it.

A service calls it for what its role has installed, used and dropped.  Nothing that goes wrong here
reaches the service: it is counted and logged, by SPI and key name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from aaa.config import KeyOutletSettings
from aaa.radius.counters import Counters
from aaa.serve.key_command import KeyCommand
from aaa.serve.key_file import KeyFile
from kdc.errors import LocalError
from kdc.keyuse.document import decode_set, encode_set
from kdc.keyuse.table import (
    DEFAULT_OVERLAP_S,
    MAXIMUM_HELD,
    AssociationTable,
    Change,
    Grant,
    Held,
)
from kdc.keyuse.traffic import Party
from kdc.model import Secret

CHANGED: Final = "keys"  # one counter an event: keys.installed, keys.renewed, keys.retired
REFUSED: Final = "keys.refused"
LONGEST_SLEEP_S: Final = 5.0  # a clock that is set forward is noticed after that

log = structlog.get_logger("aaa.keys")


class SaOutlet:
    """The associations of one party for other software; without settings it does nothing."""

    def __init__(
        self,
        settings: KeyOutletSettings | None,
        holder: Party,
        counters: Counters,
        *,
        overlap_s: float = DEFAULT_OVERLAP_S,
        maximum: int = MAXIMUM_HELD,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._holder = holder
        self._counters = counters
        self._clock = clock
        self._table = AssociationTable(holder, overlap_s=overlap_s, maximum=maximum)
        self._is_used = settings is not None
        self._file: KeyFile | None = None
        self._command: KeyCommand | None = None
        self._timer: asyncio.TimerHandle | None = None
        if settings is not None and settings.file is not None:
            self._file = KeyFile(settings.file, self._snapshot, counters)
        if settings is not None and settings.command is not None:
            self._command = KeyCommand(settings.command, counters, timeout_s=settings.timeout_s)

    def open(self) -> None:
        """At the start, inside the event loop: takes over what an earlier process left in the file.

        Raises `LocalError` if the file is another user's or its folder open to others.
        """
        if self._file is None:
            return
        stored = self._file.read()
        if stored is not None:
            try:
                self._apply(lambda now: self._take_over(stored, now))
            except LocalError as error:
                log.warning("the file of keys is replaced", reason=str(error))
        self._file.changed()  # a looser mode and what is no longer true end now

    def installed(self, grant: Grant) -> None:
        """A registration brought these; they renew what its binding had."""
        self._try(lambda now: self._table.install(grant, now=now))

    def first_used(self, binding: str, spi: int) -> None:
        """The first use of a new association: what it superseded ends before the overlap does."""
        self._try(lambda now: self._table.first_use(binding, spi, now=now))

    def deregistered(self, binding: str) -> None:
        """All associations of a binding end."""
        self._try(lambda now: self._table.deregister(binding, now=now))

    def revoked(self, spi: int, *, binding: str | None = None) -> None:
        """One association ends; `binding` tells which, where several homes may use one SPI."""
        self._try(lambda now: self._table.revoke(spi, now=now, binding=binding))

    def held(self) -> tuple[Held, ...]:
        """What is held now."""
        return self._table.held()

    async def close(self) -> None:
        """Ends the queue of the command and writes the file a last time."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_used = False
        if self._command is not None:
            await self._command.close()
        if self._file is not None:
            await self._file.close()

    def _take_over(self, stored: Secret, now: float) -> tuple[Change, ...]:
        return self._table.restore(decode_set(stored, self._holder), now=now)

    def _try(self, move: Callable[[float], tuple[Change, ...]]) -> None:
        if not self._is_used:
            return
        try:
            self._apply(move)
        except LocalError as error:  # TableFull, or what this holder cannot hold
            self._counters.add(REFUSED)
            log.warning("associations not handed on", reason=str(error))

    def _apply(self, move: Callable[[float], tuple[Change, ...]]) -> None:
        changes = move(self._clock())
        for change in changes:
            self._counters.add(f"{CHANGED}.{change.event.value}")
            log.info(
                "association",
                change=change.event.value,
                spi=change.held.spi,
                key_name=change.held.key_name.hex(),
                pair=change.held.pair.name,
                reason=change.reason and change.reason.value,
            )
            if self._command is not None:
                self._command.submit(change)
        if changes and self._file is not None:
            self._file.changed()
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._table.next_deadline()
        if deadline is not None and self._is_used:
            wait_s = min(max(deadline - self._clock(), 0.0), LONGEST_SLEEP_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._apply(lambda now: self._table.advance(now=now))

    def _snapshot(self) -> Callable[[], Secret]:
        held, now = self._table.held(), self._clock()
        return lambda: encode_set(self._holder, held, now=now)
