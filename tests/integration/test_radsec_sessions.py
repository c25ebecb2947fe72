"""Accounting and dynamic authorization where every hop is TLS: no port is open for a way back."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PostgresServer
from tests.integration.test_processes import Node
from tests.integration.tls_home import TlsDomains

PATIENCE_S = 20.0


@pytest.fixture
def tls(tmp_path: Path, postgres: PostgresServer, database_name: str) -> Iterator[TlsDomains]:
    """Configured to account and to hand out keys; nothing runs afterwards."""
    both = TlsDomains(tmp_path, postgres, database_name)
    both.configure()
    both.edit(
        "agent.toml", "[radius]\n", '[keys]\nfile = "agent.keys"\n\n[radius]\naccounting = true\n'
    )
    try:
        yield both
    finally:
        both.kill_all()


async def _kdc(tls: TlsDomains, *arguments: str) -> list[dict[str, Any]]:
    printed = await asyncio.to_thread(tls.kdc, *arguments, "--config", "home.toml", "--json")
    return [json.loads(line) for line in printed.splitlines()]


async def _session(tls: TlsDomains, status: str) -> dict[str, Any]:
    """The one there is, as soon as it is accounted so."""
    until = time.monotonic() + PATIENCE_S
    while True:
        found = await _kdc(tls, "session", "list")
        if found and found[0]["status"].startswith(status):
            assert len(found) == 1
            return found[0]
        assert time.monotonic() < until, (found, tls.log("home"), tls.log("foreign"))


def _keys(tls: TlsDomains) -> str:
    path = tls.folder / "agent.keys"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("old", [None, "foreign.toml"], ids=["RADIUS 1.1", "RADIUS 1.0"])
async def test_a_session_is_accounted_and_ended_over_the_agents_own_connections(
    tls: TlsDomains, old: str | None
) -> None:
    if old is not None:
        tls.edit(old, "[tls]\n", '[tls]\nradius_versions = ["1.0"]\n')
    (enrolment,) = tls.provision(1)
    heard = await tls.start_all_over_tls()
    node = Node(enrolment, random.Random(7))
    await node.register(tls, heard, time.time())
    (answer,) = node.answers
    session = await _session(tls, "start")
    assert session["registered"] and session["peer"] == "visited"
    spi = str(answer.mn_fa.spi)
    assert spi in _keys(tls)
    (told,) = await _kdc(tls, "subscriber", "suspend", str(enrolment.nai))
    (ended,) = told["registrations"]
    assert (ended["state"], ended["error_cause"]) == ("acked", None)
    assert spi not in _keys(tls)
    session = await _session(tls, "stop")
    assert session["terminate_cause"] == 6  # Admin Reset
    assert tls.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
    for name in ("home", "foreign"):
        assert " connected " in tls.log(name)
