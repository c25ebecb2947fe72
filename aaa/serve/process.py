"""What every process shares: its log, its signals, its exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from aaa.net.udp import Address
from kdc.config import LogSettings
from kdc.errors import RoamkeyError


def split_address(text: str) -> Address:
    """(host, port) of `HOST:PORT` or `[HOST]:PORT`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def configure_log(settings: LogSettings) -> None:
    """One event a line on standard error, as text or JSON."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if settings.format == "text":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run(main: Callable[[asyncio.Event], Awaitable[None]], log: LogSettings) -> int:
    """Runs until SIGTERM or SIGINT, drains, and returns the exit status.

    What goes wrong on purpose is one line on standard error and status 1; the rest is a bug and
    keeps its traceback.
    """
    configure_log(log)
    # What was imported lives as long as the process, and what a request makes has no cycles: the
    # collector's walks over all of it doubled the 99th percentile (docs/performance.md).
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        asyncio.run(_until_signal(main))
    except RoamkeyError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the operator, before any log
        return 1
    except OSError as error:
        print(f"expected an address that we can bind: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def on_hangup(reload: Callable[[], None], log: structlog.stdlib.BoundLogger) -> None:
    """On SIGHUP reads again what may have changed; what cannot be read leaves all as it was."""

    def reload_or_say() -> None:
        try:
            reload()
        except RoamkeyError as error:
            log.error("not reloaded", reason=str(error))  # noqa: TRY400 - one line, no traceback
        else:
            log.info("reloaded")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_or_say)


@contextmanager
def on_user_signal(act: Callable[[], None]) -> Iterator[None]:
    """Acts on each SIGUSR1, which would end the process otherwise."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, act)
    try:
        yield
    finally:
        # Not back to what ends a process: one may be on its way while we drain.
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)


async def _until_signal(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)  # until a process does something by it
    await main(stop)
