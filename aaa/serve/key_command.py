"""The command form of key use: each event on the standard input of a configured program.

The program is started by its list of arguments, without a shell, in a session of its own, with an
environment of two variables that are always the same; what it prints goes nowhere, since it knows
keys.  Events of one binding run one after another, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from aaa.radius.counters import Counters
from kdc.keyuse.document import encode_event
from kdc.keyuse.table import Change
from kdc.model import Secret

LANES: Final = 4  # programs at a time; a binding always has the same lane
MAXIMUM_WAITING: Final = 1024  # events in all lanes
LOOKS_UP_EVERY_S: Final = 0.1  # from waiting for a program, whether we are closing
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
COMMAND_DONE: Final = "keys.command_done"
COMMAND_FAILED: Final = "keys.command_failed"
COMMAND_TIMED_OUT: Final = "keys.command_timed_out"
COMMAND_SHED: Final = "keys.command_shed"

log = structlog.get_logger("aaa.keys")


class KeyCommand:
    """Runs the command for each change that is submitted; sheds beyond `maximum_waiting`."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        counters: Counters,
        *,
        timeout_s: float,
        maximum_waiting: int = MAXIMUM_WAITING,
    ) -> None:
        self._arguments = arguments
        self._counters = counters
        self._timeout_s = timeout_s
        self._maximum_waiting = maximum_waiting
        self._waiting = 0
        self._is_shedding = False
        self._is_closing = False
        self._threads = ThreadPoolExecutor(LANES, "key-command")
        self._lanes: dict[int, asyncio.Queue[Change]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def submit(self, change: Change) -> None:
        """Queues one change, or sheds it: counted, and a log line when shedding begins."""
        if self._waiting >= self._maximum_waiting:
            self._shed(change)
            return
        self._is_shedding = False
        self._waiting += 1
        number = zlib.crc32(change.held.binding.encode()) % LANES
        if number not in self._lanes:
            lane = self._lanes[number] = asyncio.Queue()
            self._tasks.append(asyncio.get_running_loop().create_task(self._run_lane(lane)))
        self._lanes[number].put_nowait(change)

    async def close(self) -> None:
        """Waits for what is queued for one time limit, then ends the rest, counted as shed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                for lane in self._lanes.values():
                    await lane.join()
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            while not lane.empty():
                self._waiting -= 1
                self._shed(lane.get_nowait())
        self._lanes.clear()
        self._tasks.clear()
        await asyncio.to_thread(self._threads.shutdown)

    def _shed(self, change: Change) -> None:
        self._counters.add(COMMAND_SHED)
        if not self._is_shedding:
            log.error("key events are shed: the command is too slow", **_names(change))
        self._is_shedding = True

    async def _run_lane(self, lane: asyncio.Queue[Change]) -> None:
        while True:
            change = await lane.get()
            self._waiting -= 1
            try:
                await self._run(change)
            except OSError as error:  # not started: too many processes or files, or it is gone
                self._counters.add(COMMAND_FAILED)
                log.warning("key command not started", error=error.strerror, **_names(change))
            finally:
                lane.task_done()

    async def _run(self, change: Change) -> None:
        document = encode_event(change)
        try:
            loop = asyncio.get_running_loop()
            status = await loop.run_in_executor(self._threads, self._execute, document)
        except asyncio.CancelledError:
            self._shed(change)
            raise
        if status is None:
            self._counters.add(COMMAND_TIMED_OUT)
            log.warning("key command killed: out of time", **_names(change))
            return
        self._counters.add(COMMAND_FAILED if status else COMMAND_DONE)
        tell = log.warning if status else log.debug
        tell("key command ended", status=status, **_names(change))

    def _execute(self, document: Secret) -> int | None:
        """Runs the program in a thread of ours: its exit status, None if it had to be killed.

        Not by asyncio: a cancellation of all tasks while it starts a program is never over
        (CPython 3.11 loses the wake-up of the transport that it closes).  The thread that waits is
        the one that kills, so that the number killed is never that of another process.
        """
        until = time.monotonic() + self._timeout_s
        process = self._start(document)
        while True:
            left_s = until - time.monotonic()
            try:
                return process.wait(max(0.0, min(left_s, LOOKS_UP_EVERY_S)))
            except subprocess.TimeoutExpired:
                if left_s <= 0 or self._is_closing:
                    _kill(process)
                    return None

    def _start(self, document: Secret) -> subprocess.Popen[bytes]:
        # The pipe is filled before: an event is far smaller, and a program need not read it.
        for_program, for_us = os.pipe()
        try:
            try:
                os.set_blocking(for_us, False)
                octets = document.reveal()
                if os.write(for_us, octets) != len(octets):
                    raise BlockingIOError(errno.EAGAIN, "an event does not fit into a pipe")
            finally:
                os.close(for_us)
            return subprocess.Popen(
                self._arguments,
                stdin=for_program,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(for_program)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and all that it has started in its group, and waits for it."""
    # A program that became another user (sudo) is not ours to kill, nor to wait for.
    with contextlib.suppress(PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _names(change: Change) -> dict[str, object]:
    """What a log line may say of an event."""
    held = change.held
    return {"change": change.event.value, "spi": held.spi, "key_name": held.key_name.hex()}
