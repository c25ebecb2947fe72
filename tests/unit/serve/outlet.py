"""An outlet with its folder, its log and a clock that a test moves."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aaa.config import KeyOutletSettings
from aaa.radius.counters import Counters
from aaa.serve.key_outlet import SaOutlet
from kdc.keyuse.table import Grant
from kdc.keyuse.traffic import Party
from kdc.model import Pair
from tests.keyuse_stories import association, grant


class Clock:
    """Real seconds, and those that a test adds."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def script(folder: Path, text: str, name: str = "command") -> Path:
    """A program of /bin/sh that only we can change."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def settings(folder: Path, *, file: bool = False, **others: Any) -> KeyOutletSettings:
    given = dict(others) | ({"file": str(folder / "keys.json")} if file else {})
    return KeyOutletSettings.model_validate(given, context={"folder": folder})


def outlet_of(
    configured: KeyOutletSettings | None, counters: Counters | None = None, **others: Any
) -> SaOutlet:
    return SaOutlet(configured, Party.FOREIGN_AGENT, counters or Counters(), **others)


def registration(first_spi: int, binding: str = "10.20.0.1", *, lifetime_s: int = 600) -> Grant:
    return grant(
        binding,
        association(Pair.FA_HA, first_spi, lifetime_s=lifetime_s),
        association(Pair.MN_FA, first_spi + 1, lifetime_s=lifetime_s),
    )


def stored(path: Path) -> dict[int, str]:
    """SPI and state of what a file of keys holds, its mode looked at."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert content["party"] == "foreign_agent"
    return {item["spi"]: item["state"] for item in content["associations"]}


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - files and processes set no event
            await asyncio.sleep(0.005)
