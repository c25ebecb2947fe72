"""A home and a visited domain as an operator runs them: real processes on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aaa.demo.configurations import free_address, write_configurations
from aaa.net.advertisement import read_advertisement
from aaa.net.udp import Address
from aaa.roles.mobile_node import Heard
from aaa.serve.mobile_node import parse_enrolment
from aaa.serve.radius_probe import answers_status
from kdc.model import DEFAULT_VENDOR_ID, Enrolment
from tests.conftest import PostgresServer

START_TIMEOUT_S = 40.0


@dataclass
class Domains:
    """The folder with all configurations, and the processes by name."""

    folder: Path
    postgres: PostgresServer
    database_name: str
    ports: dict[str, Address] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def configure(self) -> None:
        """home, foreign and agent; every hop direct, every secret fresh."""
        self.ports = {name: free_address() for name in ("home", "foreign", "agent")}
        direct = {"to_home": self.ports["home"], "to_foreign": self.ports["foreign"]}
        write_configurations(self.folder, self.ports | direct)
        self.edit("home.toml", 'url = "embedded:state"', f'url = "{self.database_url}"')
        self.edit("home.toml", 'kek_file = "home.kek"', f'kek_file = "{self.postgres.kek_file}"')

    @property
    def database_url(self) -> str:
        return self.postgres.url(self.database_name)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def secret(self, file: str) -> bytes:
        return (self.folder / file).read_text().strip().encode()

    def kdc(self, *arguments: str, expect: int = 0) -> str:
        """`kdc` as an operator runs it."""
        return self._run("kdc", *arguments, expect=expect)

    def aaa(self, *arguments: str, expect: int = 0) -> str:
        """`aaa` to its end."""
        return self._run("aaa", *arguments, expect=expect)

    def _run(self, program: str, *arguments: str, expect: int) -> str:
        """What it prints; on standard error where it is expected to fail."""
        done = self.run(program, *arguments)
        assert done.returncode == expect, done.stderr
        return done.stdout if expect == 0 else done.stderr

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, whatever that is."""
        return subprocess.run(
            [sys.executable, "-m", program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def provision(self, count: int, *options: str) -> list[Enrolment]:
        printed = self.kdc(
            "subscriber", "add", "mn@home.example", "--config", "home.toml",
            "--count", str(count), "--json", *options,
        )  # fmt: skip
        return [parse_enrolment(json.loads(line)) for line in printed.splitlines()]

    def start(
        self, name: str, *options: str, config: str | None = None, kind: str | None = None
    ) -> None:
        """`aaa KIND --config CONFIG OPTIONS`; its log is NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "aaa", kind or name),
                    *("--config", config or f"{name}.toml", *options),
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    async def start_all(self) -> Heard:
        """Everything up and answering; returns what the agent advertises."""
        for name in ("home", "foreign", "agent"):
            self.start(name)
        await self.wait_for("home", "visited.secret")
        await self.wait_for("foreign", "fa1.secret")
        return await self.advertised()

    async def advertised(self) -> Heard:
        """What the agent advertises, as soon as it does."""
        advertisement = self.folder / "advertisement.json"
        until = time.monotonic() + START_TIMEOUT_S
        while not advertisement.exists():
            assert self.processes["agent"].poll() is None, self.log("agent")
            assert time.monotonic() < until, self.log("agent")
            await asyncio.sleep(0.02)
        return read_advertisement(advertisement, DEFAULT_VENDOR_ID)

    async def wait_for(self, name: str, secret_file: str) -> None:
        """Until the server answers Status-Server."""
        until = time.monotonic() + START_TIMEOUT_S
        while not await answers_status(self.ports[name], self.secret(secret_file), timeout_s=0.2):
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < until, self.log(name)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def stop_all(self) -> dict[str, int]:
        return {name: self.stop(name) for name in list(self.processes)}

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes.clear()

    def installed(self) -> list[dict[str, Any]]:
        """What the agent says it has installed."""
        path = self.folder / "installed.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]
