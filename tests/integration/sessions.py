"""Both domains with accounting and dynamic authorization, and a tap on each of those hops."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from aaa.demo.configurations import free_address, text_of
from aaa.demo.stage import Tap
from tests.integration.domains import Domains

PATIENCE_S = 20.0


class Operated:
    """What an operator does and sees at home while this loop goes on."""

    def __init__(self, domains: Domains) -> None:
        self.domains = domains

    async def kdc(self, *arguments: str, expect: int = 0) -> str:
        """`kdc` as an operator runs it, while this loop goes on."""
        return await asyncio.to_thread(
            self.domains.kdc, *arguments, "--config", "home.toml", expect=expect
        )

    async def kdc_json(self, *arguments: str, expect: int = 0) -> list[dict[str, Any]]:
        """The objects that it prints; of one that fails, none."""
        printed = await self.kdc(*arguments, "--json", expect=expect)
        return [json.loads(line) for line in printed.splitlines()]

    async def wait_for_sessions(
        self, is_it: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """`kdc session list`, as soon as it shows what is awaited."""
        until = time.monotonic() + PATIENCE_S
        while True:
            found = await self.kdc_json("session", "list")
            if is_it(found):
                return found
            assert time.monotonic() < until, (found, self.domains.log("home"))

    def disconnects(self) -> list[dict[str, Any]]:
        """What became of each request, as the database has it."""
        query = "SELECT id, state, error_cause, attempts FROM disconnects ORDER BY id"
        with psycopg.connect(
            self.domains.postgres.conninfo(self.domains.database_name), row_factory=dict_row
        ) as connection:
            return connection.execute(query).fetchall()

    async def wait_for_disconnect(self, state: str) -> dict[str, Any]:
        """The last one, as soon as its state is that."""
        until = time.monotonic() + PATIENCE_S
        while True:
            last = self.disconnects()[-1]
            if last["state"] == state:
                return last
            assert time.monotonic() < until, (last, self.domains.log("home"))
            await asyncio.sleep(0.1)

    def agent_keys(self) -> str:
        """What the agent hands to other software just now."""
        path = self.domains.folder / "agent.keys"
        return path.read_text() if path.exists() else ""


class Sessions(Operated):
    """The hops of `domains` that are not registrations; to be made inside the event loop."""

    def __init__(self, domains: Domains) -> None:
        super().__init__(domains)
        names = ("home_accounting", "foreign_accounting", "foreign_dynauth", "agent_dynauth")
        self.ports = {name: free_address() for name in names}
        domains.ports |= self.ports
        self.taps = {name: Tap(name, port, "127.0.0.1") for name, port in self.ports.items()}
        self._configure()

    def _configure(self) -> None:
        to = {name: text_of(tap.address) for name, tap in self.taps.items()}
        at = {name: text_of(port) for name, port in self.ports.items()}
        edit = self.domains.edit
        edit("home.toml", "[home]\n", f'[home]\naccounting_listen = ["{at["home_accounting"]}"]\n')
        edit(
            "home.toml",
            'realms = ["visited.example"]\n',
            f'realms = ["visited.example"]\ndynamic_authorization = "{to["foreign_dynauth"]}"\n',
        )
        edit(
            "foreign.toml",
            "[foreign]\n",
            f'[foreign]\naccounting_listen = ["{at["foreign_accounting"]}"]\n'
            f'dynamic_authorization_listen = ["{at["foreign_dynauth"]}"]\n',
        )
        edit(
            "foreign.toml",
            "[[client]]\n",
            f'[[client]]\ndynamic_authorization = "{to["agent_dynauth"]}"\n',
        )
        edit(
            "foreign.toml",
            "[[home_server]]\n",
            f'[[home_server]]\naccounting = "{to["home_accounting"]}"\n',
        )
        edit(
            "agent.toml",
            "[agent]\n",
            f'[agent]\ndynamic_authorization_listen = "{at["agent_dynauth"]}"\n',
        )
        edit(
            "agent.toml",
            "[radius]\n",
            '[keys]\nfile = "agent.keys"\n\n'
            "[radius]\naccounting = true\n"
            f'accounting_server = "{to["foreign_accounting"]}"\n',
        )

    def close(self) -> None:
        for tap in self.taps.values():
            tap.close()

    @property
    def octets(self) -> list[bytes]:
        """All that has passed the taps."""
        return [octets for tap in self.taps.values() for _, _, octets in tap.seen]
