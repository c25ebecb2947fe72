"""The stage of the demo: a folder, real processes, and a tap on every wire between them."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from aaa.demo.configurations import SOURCES, free_address, write_split_configurations
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.serve.radius_probe import answers_status
from kdc.errors import LocalError

START_TIMEOUT_S: Final = 60.0
PROCESSES: Final = {
    "kdc": ("kdc", "serve", "kdc.toml"),
    "ha1": ("aaa", "home-agent", "home-agent.toml"),
    "home": ("aaa", "home", "home.toml"),
    "foreign": ("aaa", "foreign", "foreign.toml"),
    "fa1": ("aaa", "agent", "fa1.toml"),
    "fa2": ("aaa", "agent", "fa2.toml"),
    "fa3": ("aaa", "agent", "fa3.toml"),
}
_RADIUS_SERVERS: Final = {"home": "visited", "ha1": "ha1", "foreign": "fa1"}
_TAPS: Final = {  # name: what is behind it, and as whom it sends
    "to_home": ("home", "127.0.0.1"),
    "to_ha1": ("ha1", "127.0.0.1"),
    "fa1_to_foreign": ("foreign", SOURCES["fa1"]),
    "fa2_to_foreign": ("foreign", SOURCES["fa2"]),
    "fa3_to_ha1": ("ha1", SOURCES["fa3"]),
    "air1": ("fa1", "127.0.0.1"),
    "air2": ("fa2", "127.0.0.1"),
    "air3": ("fa3", "127.0.0.1"),
}


class Tap:
    """A wire that is listened to: passes datagrams on and remembers each with its time."""

    def __init__(self, name: str, target: Address, source_host: str) -> None:
        self.name = name
        self._target = target
        self._source_host = source_host
        self._clients: dict[Address, UdpEndpoint] = {}
        self.seen: list[tuple[float, bool, bytes]] = []  # when, outward, octets
        self._front = UdpEndpoint.open(("127.0.0.1", 0), self._outward)
        self.address = self._front.address

    def _outward(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            self.seen.append((time.monotonic(), True, octets))
            back = self._clients.get(source)
            if back is None:
                back = UdpEndpoint.open((self._source_host, 0), partial(self._inward, source))
                self._clients[source] = back
            back.send_many([(octets, self._target)])

    def _inward(self, client: Address, batch: list[Datagram]) -> None:
        for octets, _ in batch:
            self.seen.append((time.monotonic(), False, octets))
            self._front.send_many([(octets, client)])

    def close(self) -> None:
        self._front.close()
        for endpoint in self._clients.values():
            endpoint.close()


@dataclass
class Stage:
    """The folder, the processes and the taps of one run."""

    folder: Path
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)

    async def run_tool(self, *arguments: str) -> str:
        """`kdc ...` as an operator runs it; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kdc", *arguments,
            cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode:
            raise LocalError(f"kdc {arguments[0]} failed: {err.decode().strip()}")
        return out.decode()

    async def set_up(self) -> None:
        """Certificates, secrets, configurations, database; then every process with its taps."""
        await self.run_tool("tls", "authority", "tls", "--name", "home.example")
        for name in ("kdc", "ha1"):
            await self.run_tool("tls", "issue", "tls", name, "--san", f"{name}.home.example")
        ports = {name: free_address() for name in PROCESSES}
        for name, (target, source_host) in _TAPS.items():
            self.taps[name] = Tap(name, ports[target], source_host)
        reached = {name: tap.address for name, tap in self.taps.items()}
        write_split_configurations(self.folder, ports | reached)
        await self.run_tool("kek", "create", "home.kek")
        await self.run_tool("db", "upgrade", "--config", "kdc.toml")
        for name in PROCESSES:
            await self.start(name)
        await self._wait_until_ready(ports)

    async def start(self, name: str) -> None:
        """The process with its log in NAME.log."""
        package, command, config = PROCESSES[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", package, command, "--config", config,
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip

    async def _wait_until_ready(self, ports: Mapping[str, Address]) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        for name, secret_of in _RADIUS_SERVERS.items():
            secret = (self.folder / f"{secret_of}.secret").read_text().strip().encode()
            source = SOURCES.get(secret_of)
            while not await answers_status(ports[name], secret, timeout_s=0.25, source=source):
                self._check(name, until)
        for name in ("fa1", "fa2", "fa3"):
            while not (self.folder / f"{name}-advertisement.json").exists():
                self._check(name, until)
                await asyncio.sleep(0.05)
        while "listening" not in (self.folder / "kdc.log").read_text():
            self._check("kdc", until)
            await asyncio.sleep(0.05)

    def _check(self, name: str, until: float) -> None:
        for running, process in self.processes.items():
            if process.returncode is not None:
                log = (self.folder / f"{running}.log").read_text().strip().splitlines()
                raise LocalError(f"{running} ended at start: {log[-1] if log else 'no reason'}")
        if time.monotonic() > until:
            raise LocalError(f"{name} did not become ready; see {self.folder}/{name}.log")

    async def stop(self) -> list[int]:
        """Ends the processes, the last started first; returns their exit statuses."""
        statuses = []
        for process in reversed(self.processes.values()):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                statuses.append(await asyncio.wait_for(process.wait(), 30))
            except TimeoutError:
                process.kill()
                statuses.append(await process.wait())
        self.processes.clear()
        for tap in self.taps.values():
            tap.close()
        return statuses
