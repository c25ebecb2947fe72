"""A home whose database or which itself goes down: nothing is lost, nothing is made up."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from aaa.net.mobile_ip import MobileIpSocket
from aaa.roles.mobile_node import Heard, MobileNodeState, Registered, accept_reply, build_request
from kdc.errors import RemoteError
from kdc.model import Enrolment
from kdc.store import migrate
from kdc.store.database import administration
from kdc.store.embedded import EmbeddedServer
from tests.conftest import PostgresServer
from tests.integration.domains import Domains


@dataclass
class Attempt:
    """One request of one node and what came of it."""

    code: int | None
    answer: Registered | None


async def attempt(
    domains: Domains, heard: Heard, enrolment: Enrolment, *, timeout_s: float = 12
) -> Attempt:
    """A fresh node's single request, retransmitted as its agent's RADIUS does."""
    state, pending = build_request(
        MobileNodeState.enrolled(enrolment),
        heard,
        lifetime_s=600,
        now=time.time(),
        entropy=random.Random(enrolment.spis[0]).randbytes,
    )
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        link.send(pending.octets)
        octets = await link.receive(timeout_s)
    if octets is None:
        return Attempt(None, None)
    try:
        _, answer = accept_reply(state, pending, octets, now=time.time())
    except RemoteError:
        return Attempt(octets[1], None)
    return Attempt(octets[1], answer if isinstance(answer, Registered) else None)


@pytest.fixture
def own_server(
    domains: Domains, postgres: PostgresServer, reachable_folder: Path
) -> Iterator[EmbeddedServer]:
    """A database server of this test alone, which it may stop; home.toml names it."""
    server = EmbeddedServer(reachable_folder / f"own-{os.urandom(4).hex()}")
    server.start()
    with administration(server.conninfo) as connection:
        migrate.upgrade(connection, postgres.kek, entropy=os.urandom, progress=lambda line: None)
    url = f"postgresql:///postgres?host={server.socket_folder}&user=roamkey"
    domains.edit("home.toml", domains.database_url, url)
    yield server
    server.stop()


async def test_a_database_that_is_down_at_the_start_is_said_in_one_line(
    domains: Domains, own_server: EmbeddedServer
) -> None:
    own_server.stop()
    said = domains.aaa("home", "--config", "home.toml", expect=1)
    assert "the database is not reachable" in said and "database.url" in said
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1


async def test_a_schema_that_is_missing_is_said_with_its_remedy(
    domains: Domains, postgres: PostgresServer, database_name: str
) -> None:
    with psycopg.connect(postgres.conninfo(database_name), autocommit=True) as connection:
        connection.execute("DROP TABLE alembic_version")
    assert "kdc db upgrade" in domains.aaa("home", "--config", "home.toml", expect=1)


async def test_a_database_that_goes_down_denies_and_recovers_without_a_restart(
    domains: Domains, own_server: EmbeddedServer
) -> None:
    one, two, three = domains.provision(3)
    heard = await domains.start_all()
    assert (await attempt(domains, heard, one)).answer is not None
    own_server.stop()
    denied = await attempt(domains, heard, two)
    assert denied.code == 67 and denied.answer is None
    own_server.start()
    assert (await attempt(domains, heard, three)).answer is not None
    # The request that was denied by 130 has spent nothing: its SPI still works.
    assert (await attempt(domains, heard, two)).answer is not None
    assert domains.stop_all()["home"] == 0
    assert "home.denials.130=" in domains.log("home")


async def test_a_frozen_database_is_answered_within_the_deadline(
    domains: Domains, own_server: EmbeddedServer
) -> None:
    one, two, three = domains.provision(3)
    heard = await domains.start_all()
    assert (await attempt(domains, heard, one)).answer is not None
    frozen = _server_processes(own_server)
    assert len(frozen) > 3
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        denied = await attempt(domains, heard, two)
        assert denied.code == 67
        assert time.monotonic() - started < 8, "the deadline of two seconds, twice, and a retry"
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    until = time.monotonic() + 20
    while (await attempt(domains, heard, three)).answer is None:
        assert time.monotonic() < until


def _server_processes(server: EmbeddedServer) -> list[int]:
    (postmaster,) = (server.folder / "data" / "postmaster.pid").read_text().split()[:1]
    found = subprocess.run(
        ["pgrep", "-P", postmaster], capture_output=True, text=True, check=True
    ).stdout.split()
    return [int(postmaster), *map(int, found)]


@pytest.mark.parametrize("seed", range(4))
async def test_killing_home_at_any_moment_leaves_no_reply_without_its_rows(
    domains: Domains, postgres: PostgresServer, database_name: str, seed: int
) -> None:
    enrolments = domains.provision(60)
    heard = await domains.start_all()
    attempts = [
        asyncio.create_task(attempt(domains, heard, enrolment, timeout_s=3))
        for enrolment in enrolments
    ]
    await asyncio.sleep(random.Random(seed).uniform(0.01, 0.12))
    domains.processes["home"].send_signal(signal.SIGKILL)
    domains.processes["home"].wait()
    answers = [one.answer for one in await asyncio.gather(*attempts) if one.answer is not None]
    with psycopg.connect(postgres.conninfo(database_name)) as connection:
        stored = {row[0] for row in connection.execute("SELECT spi FROM associations")}
        rows = connection.execute("SELECT count(*) FROM registrations").fetchone()
    for answer in answers:
        assert {answer.mn_ha.spi, answer.mn_fa.spi} <= stored
    assert rows is not None and rows[0] >= len(answers)
    assert len(stored) == 3 * rows[0], "half a registration"


_OWNER = """
import sys, time, pathlib
from kdc.store.embedded import EmbeddedServer
EmbeddedServer(pathlib.Path(sys.argv[1])).start()
print("up", flush=True)
time.sleep(60)
"""


def test_an_embedded_server_does_not_outlive_its_owner(reachable_folder: Path) -> None:
    folder = reachable_folder / "orphan"
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _OWNER,
            str(folder),
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    second = EmbeddedServer(folder)
    assert second.start() and not second.owned, "never two servers on one folder"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    third = EmbeddedServer(folder)  # waits for the end of the first, then starts its own
    third.start()
    try:
        with psycopg.connect(third.conninfo) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        third.stop()
    assert not (folder / "data" / "postmaster.pid").exists()
