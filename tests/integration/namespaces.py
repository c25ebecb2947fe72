"""Network namespaces joined by veth pairs: one machine for each party, made and removed by a test.

Needs root and iproute2.  Whatever was started inside is gone after `remove`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

_UP_TIMEOUT_S = 5.0
_REPOSITORY = Path(__file__).parents[2]


def why_not(*, bridges: bool = False) -> str | None:
    """The reason why this machine gives us no network namespaces, None if it does.

    `bridges`: the test needs those as well.
    """
    if shutil.which("ip") is None:
        return "`ip` (Debian: iproute2) is not here"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"rk-probe-{secrets.token_hex(3)}"
    made = _ip("netns", "add", probe, check=False)
    if made.returncode:
        return f"network namespaces are refused: {made.stderr.strip()}"
    try:
        # The name is one step; a veth pair between two machines is what the tests need.
        pair = _ip(
            "-n", probe, "link", "add", "name", "one", "type", "veth", "peer", "name", "other",
            check=False,
        )  # fmt: skip
        if pair.returncode:
            return f"veth pairs are refused: {pair.stderr.strip()}"
        if not bridges:
            return None
        bridge = _ip("-n", probe, "link", "add", "name", "both", "type", "bridge", check=False)
        return f"bridges are refused: {bridge.stderr.strip()}" if bridge.returncode else None
    finally:
        _ip("netns", "delete", probe, check=False)


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done


class Namespaces:
    """The machines of one test, by the short names that the test gives them.

    The interface of `a` toward `b` is called `to-b`: names have at most 12 characters.
    """

    def __init__(self) -> None:
        self._prefix = f"rk{secrets.token_hex(3)}"
        self._names: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []

    def full_name(self, name: str) -> str:
        """What `ip netns` calls it."""
        return f"{self._prefix}-{name}"

    def add(self, name: str) -> None:
        """A machine with nothing but its loopback interface."""
        _ip("netns", "add", self.full_name(name))
        self._names.append(name)
        self.ip(name, "link", "set", "lo", "up")

    def ip(self, name: str, *arguments: str) -> str:
        """`ip ...` on one machine; what it printed."""
        return _ip("-n", self.full_name(name), *arguments).stdout

    def link(
        self,
        a: str,
        a_address: str | None,
        b: str,
        b_address: str | None,
        *,
        a_interface: str | None = None,
    ) -> None:
        """A cable between two machines; up at return.

        Addresses as 192.0.2.1/24, or `192.0.2.1 peer 192.0.2.2` for a cable without a prefix of
        its own; None for none.
        """
        a_interface, b_interface = a_interface or f"to-{b}", f"to-{a}"
        _ip(
            "-n", self.full_name(a), "link", "add", "name", a_interface, "type", "veth",
            "peer", "name", b_interface, "netns", self.full_name(b),
        )  # fmt: skip
        for name, interface, address in (
            (a, a_interface, a_address),
            (b, b_interface, b_address),
        ):
            if address is not None:
                self.ip(name, "address", "add", *address.split(), "dev", interface)
            self.ip(name, "link", "set", interface, "up")
        self.wait_for_carrier(a, a_interface)

    def wait_for_carrier(self, name: str, interface: str) -> None:
        """Until the other end of the cable is up, too."""
        until = time.monotonic() + _UP_TIMEOUT_S
        while "LOWER_UP" not in self.ip(name, "link", "show", "dev", interface):
            assert time.monotonic() < until, f"{interface} of {name} does not come up"
            time.sleep(0.02)

    def run(
        self,
        name: str,
        *arguments: str,
        check: bool = True,
        timeout_s: float = 60,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program on one machine to its end, with our packages importable."""
        done = subprocess.run(
            self._command(name, arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=self._environment,
            cwd=cwd,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def popen(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a program on one machine; it is killed at the latest by `remove`.

        `ip netns exec` becomes the program, so that signals reach it.
        """
        options.setdefault("env", self._environment)
        process = subprocess.Popen(self._command(name, arguments), **options)
        self._processes.append(process)
        return process

    def _command(self, name: str, arguments: tuple[str, ...]) -> list[str]:
        return ["ip", "netns", "exec", self.full_name(name), *arguments]

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONUNBUFFERED": "1"}

    def remove(self) -> None:
        """Kills what still runs and removes all machines, and their cables with them."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for name in self._names:
            _ip("netns", "delete", self.full_name(name), check=False)
        self._processes.clear()
        self._names.clear()
