"""The command form of key use: each event on the standard input of a configured program.

The program is started by its list of arguments, without a shell, in a session of its own, with an
environment of two variables that are always the same; what it prints goes nowhere, since it knows
keys.  Events of one binding run one after another, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import zlib
from typing import Final

import structlog

from aaa.radius.counters import Counters
from kdc.keyuse.document import encode_event
from kdc.keyuse.table import Change
from kdc.model import Secret

LANES: Final = 4  # programs at a time; a binding always has the same lane
MAXIMUM_WAITING: Final = 1024  # events in all lanes
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            while not lane.empty():
                self._waiting -= 1
                self._shed(lane.get_nowait())
        self._lanes.clear()
        self._tasks.clear()

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
        process = await self._start(encode_event(change))
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await process.wait()
        except TimeoutError:
            await _kill(process)
            self._counters.add(COMMAND_TIMED_OUT)
            log.warning("key command killed: out of time", **_names(change))
        except asyncio.CancelledError:
            await _kill(process)
            self._shed(change)
            raise
        else:
            self._counters.add(COMMAND_FAILED if status else COMMAND_DONE)
            tell = log.warning if status else log.debug
            tell("key command ended", status=status, **_names(change))

    async def _start(self, document: Secret) -> asyncio.subprocess.Process:
        # A pipe of our own, filled before: asyncio's is a socket pair, which a program cannot open
        # as /dev/stdin.  An event is far smaller than a pipe; a write that would block is an error.
        for_program, for_us = os.pipe()
        try:
            try:
                os.set_blocking(for_us, False)
                octets = document.reveal()
                if os.write(for_us, octets) != len(octets):
                    raise OSError(0, "an event does not fit into a pipe")
            finally:
                os.close(for_us)
            return await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=for_program,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # a group of its own, for the kill
            )
        finally:
            os.close(for_program)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Ends the program and all that it has started in its session, and waits for it."""
    if process.returncode is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _names(change: Change) -> dict[str, object]:
    """What a log line may say of an event."""
    held = change.held
    return {"change": change.event.value, "spi": held.spi, "key_name": held.key_name.hex()}
