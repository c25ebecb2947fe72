"""A set in one file of mode 0600 that follows its changes: of associations, or of sessions.

It is written in a thread, at most once in 50 ms and for at most a tenth of the time; changes that
come meanwhile go into the next writing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from aaa.net.files import (
    check_private_target,
    read_private,
    remove_leftovers,
    write_atomically,
)
from aaa.radius.counters import Counters
from kdc.model import Secret

MINIMUM_INTERVAL_S: Final = 0.05
SHARE_OF_TIME: Final = 0.1  # a large set takes long to write: it must not take all of a core
RETRY_AFTER_S: Final = 1.0
_WRITTEN: Final = "file_written"
_FAILED: Final = "file_failed"
FILE_WRITTEN: Final = f"keys.{_WRITTEN}"
FILE_FAILED: Final = f"keys.{_FAILED}"

# Called on the event loop for a snapshot; what it returns is called in the thread.
Snapshot = Callable[[], Callable[[], Secret]]

log = structlog.get_logger("aaa.keys")


class KeyFile:
    """Writes `snapshot` to a file after each change, coalesced, off the event loop.

    `what` the file is of is in its counters and its log lines.
    """

    def __init__(
        self, path: Path, snapshot: Snapshot, counters: Counters, *, what: str = "keys"
    ) -> None:
        self._path = path
        self._what = what
        self._failure = f"the file of {what} was not written"
        self._snapshot = snapshot
        self._counters = counters
        self._changes = 0
        self._written = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def read(self) -> Secret | None:
        """What an earlier process wrote, None if nothing; before the first change, blocking.

        Raises `LocalError` if the file must not be written or was not written by us alone.
        """
        check_private_target(self._path)
        remove_leftovers(self._path)
        return read_private(self._path)

    def changed(self) -> None:
        """The set is another one now."""
        self._changes += 1
        if self._task is None and not self._closing.is_set():
            self._task = asyncio.get_running_loop().create_task(self._write_until_done())

    async def close(self) -> None:
        """Writes what is not written yet; a failure of that is logged, not raised."""
        self._closing.set()
        if self._task is not None:
            await self._task
        if self._written != self._changes:
            await self._write()

    async def _write_until_done(self) -> None:
        while self._written != self._changes and not self._closing.is_set():
            began = time.monotonic()
            if await self._write():
                pause_s = max(MINIMUM_INTERVAL_S, (time.monotonic() - began) / SHARE_OF_TIME)
            else:
                pause_s = RETRY_AFTER_S
            try:
                await asyncio.wait_for(self._closing.wait(), pause_s)
            except TimeoutError:
                continue
        self._task = None

    async def _write(self) -> bool:
        changes, encode = self._changes, self._snapshot()
        try:
            await asyncio.to_thread(
                lambda: write_atomically(self._path, encode().reveal(), mode=0o600)
            )
        except OSError as error:
            self._counters.add(f"{self._what}.{_FAILED}")
            log.warning(self._failure, error=error.strerror)
            return False
        self._written = changes
        self._counters.add(f"{self._what}.{_WRITTEN}")
        return True
