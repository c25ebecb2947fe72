"""Starts and stops the processes that are measured, and reads their processor time from /proc.

What each process is and how it is configured is in bench.postgres, bench.freeradius and
bench.roamkey.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aaa.demo.configurations import free_address
from aaa.radius.packet import STATUS_SERVER, decode, encode_request, verify_response
from kdc.errors import RoamkeyError
from kdc.model import Secret

LOOPBACK: Final = "127.0.0.1"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_START_DEADLINE_S: Final = 30.0
_STOP_DEADLINE_S: Final = 20.0


class BenchError(Exception):
    """The benchmark cannot be run or its result would mean nothing; the text says why."""


class Server:
    """One process with its children; its output goes to `log_file`.  A context manager."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_file: Path,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log_file = log_file
        self._stop_signal = stop_signal
        # Only root may start another user's process: elsewhere everything is the user's own.
        owner = user if os.geteuid() == 0 else None
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=owner,
                group=owner,
                extra_groups=[] if owner else None,
                env=None if environment is None else {**os.environ, **environment},
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_running(self) -> None:
        """Raises `BenchError` with the end of the log if the process has ended."""
        status = self._process.poll()
        if status is not None:
            log = self._log_file.read_text(errors="replace")[-2000:]
            raise BenchError(f"{self._process.args!r} ended with status {status}:\n{log}")

    def wait_for_status_server(self, address: tuple[str, int], secret: Secret) -> None:
        """Returns when the process answers Status-Server (RFC 5997); raises `BenchError`."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.05)
            client.connect(address)
            deadline = time.monotonic() + _START_DEADLINE_S
            identifiers = itertools.cycle(range(256))
            while time.monotonic() < deadline:
                self.check_running()
                authenticator = os.urandom(16)
                request = encode_request(
                    STATUS_SERVER, next(identifiers), authenticator, (), secret
                )
                try:
                    client.send(request)
                    verify_response(decode(client.recv(4096)), authenticator, secret)
                except ConnectionRefusedError:
                    time.sleep(0.02)  # nothing listens yet, and nothing tells when it will
                except (TimeoutError, RoamkeyError):
                    continue  # a late answer to the packet before has another authenticator
                else:
                    return
        raise BenchError(f"{self._process.args!r} does not answer Status-Server")

    def cpu_s(self) -> float:
        """Processor seconds, user and system, of the process and all its descendants so far."""
        return tree_cpu_s(self.pid)

    def stop(self) -> None:
        """Ends the process, by force if it does not end by itself."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def tree_cpu_s(root: int) -> float:
    """Processor seconds of `root`, its living descendants, and those that each has waited for."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # proc(5): the name, in parentheses, may hold anything; fields 4 and 14-17 come after it.
        fields = text.rpartition(")")[2].split()
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        ticks[int(entry.name)] = sum(int(field) for field in fields[11:15])
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        total += ticks.get(pid, 0)
        waiting += children.get(pid, ())
    return total / _TICKS_PER_S


def find_free_port() -> int:
    """A UDP port of the loopback address that was free a moment ago."""
    return free_address()[1]
