"""What a process does beside its requests: sweeps what is over, and tells its counters."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from aaa.radius.counters import Counters
from kdc.config import DatabaseSettings
from kdc.errors import RemoteError
from kdc.store import Store
from kdc.store.retention import purge

PURGED_SESSIONS: Final = "store.purged.sessions"
PURGED_DISCONNECTS: Final = "store.purged.disconnects"
SWEEP_EVERY_S: Final = 30.0
COUNTERS_EVERY_S: Final = 60.0
UNREADABLE: Final = "home.records.unreadable"
UNUSABLE: Final = "home.data_keys.unusable"


async def keep_house(
    store: Store,
    settings: DatabaseSettings,
    counters: Counters,
    log: structlog.stdlib.BoundLogger,
) -> None:
    """Until cancelled."""
    elapsed_s = 0.0
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        elapsed_s += SWEEP_EVERY_S
        raise_alarms(store, counters, log)
        try:
            await store.sweep()
            purged = await purge(store, settings)
            counters.add(PURGED_SESSIONS, purged.sessions)
            counters.add(PURGED_DISCONNECTS, purged.disconnects)
        except RemoteError:
            log.warning("sweep postponed: the database is not reachable")
        if elapsed_s >= COUNTERS_EVERY_S:
            elapsed_s = 0.0
            log.info("counters", **counters.snapshot())


def raise_alarms(store: Store, counters: Counters, log: structlog.stdlib.BoundLogger) -> None:
    """Counts and tells what has not opened since the last time: somebody has been at the rows."""
    for name, found, text in (
        (UNREADABLE, store.unreadable, "records whose seal does not open: their requests refused"),
        (UNUSABLE, store.keys.unusable, "data keys that do not open: what they seal is refused"),
    ):
        count = found - counters[name]
        if count > 0:
            counters.add(name, count)
            log.error(text, count=count)


async def tell_counters(counters: Counters, log: structlog.stdlib.BoundLogger) -> None:
    """Until cancelled, of a process without a database."""
    while True:
        await asyncio.sleep(COUNTERS_EVERY_S)
        log.info("counters", **counters.snapshot())
