"""A home in many processes of which some die or freeze: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from aaa.serve.mobile_node import NoReply, Retransmission
from kdc.store import migrate
from kdc.store.database import administration
from kdc.store.embedded import EmbeddedServer
from tests.conftest import PostgresServer
from tests.integration.split import Node, SplitHome, check_agreement, run_kdc

AT_ONCE = 16
STEADY = Retransmission(timeout_s=3, retries=9)  # goes on asking with the same octets
DIRECT = ("kdc1", "kdc2", "ha1", "fa3")
EVERYTHING = (*DIRECT, "home", "foreign", "fa1")


@dataclass
class Crowd:
    """Nodes that register once each, some at a time, while something happens to their home."""

    split: SplitHome
    nodes: list[Node]
    once: bool = False  # one request each, and its first answer counts
    registered: int = 0
    refused: list[int | None] = field(default_factory=list)
    slowest_s: float = 0.0
    _visits: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        limit = asyncio.Semaphore(AT_ONCE)
        agents = [agent for agent in ("fa1", "fa3") if agent in self.split.processes]
        self._visits = [
            asyncio.create_task(self._visit(limit, agents[number % len(agents)], node))
            for number, node in enumerate(self.nodes)
        ]

    async def _visit(self, limit: asyncio.Semaphore, agent: str, node: Node) -> None:
        async with limit:
            started = time.monotonic()
            code: int | None = 0
            if self.once:
                code = await node.try_once(self.split, agent)
            else:
                try:
                    await node.register(self.split, agent, patience=STEADY)
                except NoReply as refused:
                    code = refused.hint
            if code == 0:
                self.registered += 1
            else:
                self.refused.append(code)
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    async def reach(self, count: int) -> None:
        """Until so many are registered."""
        until = time.monotonic() + 40
        while self.registered < count:
            assert time.monotonic() < until, (self.registered, self.refused)
            await asyncio.sleep(0.005)

    async def finish(self) -> None:
        """Until each has had its answer, which is that it is registered."""
        await asyncio.wait_for(asyncio.gather(*self._visits), 90)
        assert not self.refused and self.registered == len(self.nodes), self.refused


def crowd_of(split: SplitHome, count: int, *, once: bool = False) -> Crowd:
    nodes = [Node(enrolment, seed) for seed, enrolment in enumerate(split.subscribers(count))]
    return Crowd(split, nodes, once)


def check_rows(split: SplitHome, *crowds: Crowd) -> None:
    """Whatever a node was told is in the database, whole, and each key at its two holders."""
    visits = [visit for crowd in crowds for node in crowd.nodes for visit in node.visits]
    stored = split.stored()
    told = {item.spi for visit in visits for item in visit.answer.associations}
    assert told <= {item.spi for item in stored}
    assert len(stored) == 3 * split.count()[0], "half a registration"
    # One that was committed and whose node has not heard of it is no harm.
    classes = {item.class_id for item in stored if item.spi in told}
    check_agreement(visits, split, [item for item in stored if item.class_id in classes])


async def recovered(split: SplitHome, node: Node, agent: str = "fa1") -> float:
    """How long it takes until the node is registered; each try is a new request."""
    started = time.monotonic()
    while await node.try_once(split, agent) != 0:
        assert time.monotonic() - started < 40
        await asyncio.sleep(0.1)
    return time.monotonic() - started


def told(split: SplitHome, text: str) -> None:
    print(f"\n{text}")  # noqa: T201 - a measurement, shown with -s
    assert split.processes


async def test_a_killed_kdc_is_replaced_and_with_none_nothing_is_issued(split: SplitHome) -> None:
    crowd = crowd_of(split, 120, once=True)
    one, two = (Node(e, 1) for e in split.subscribers(2, name="later"))
    await split.launch(*EVERYTHING)
    crowd.start()
    await crowd.reach(30)
    split.kill("kdc1")
    await crowd.finish()
    told(split, f"a KDC killed: the slowest of 120 took {crowd.slowest_s:.2f} s")
    check_rows(split, crowd)
    assert split.count() == (120, 360), "a registration twice"
    split.kill("kdc2")
    started = time.monotonic()
    assert [await one.try_once(split, agent) for agent in ("fa1", "fa3")] == [67, 67]
    told(split, f"no KDC: two denied after {time.monotonic() - started:.1f} s")
    assert split.count() == (120, 360)
    await split.launch("kdc1", "kdc2")
    took_s = await recovered(split, one)
    told(split, f"KDCs back: registered {took_s:.1f} s later")
    assert await two.try_once(split, "fa3") == 0
    assert split.stop("ha1") == 0
    assert "home.denials.130=" in split.log("ha1")


async def test_a_frozen_kdc_is_passed_over_within_the_deadline(split: SplitHome) -> None:
    """What was asked of it a moment ago is answered by the other, and nobody is denied."""
    crowd = crowd_of(split, 60, once=True)
    before, during = crowd.nodes[:20], crowd.nodes[20:]
    await split.launch(*DIRECT)
    crowd.nodes = before
    crowd.start()
    await crowd.finish()
    frozen = split.processes["kdc1"]
    frozen.send_signal(signal.SIGSTOP)
    try:
        crowd.nodes = during
        crowd.registered, crowd.slowest_s = 0, 0.0
        crowd.start()
        await crowd.finish()
    finally:
        frozen.send_signal(signal.SIGCONT)
    told(split, f"a KDC frozen: the slowest of 40 took {crowd.slowest_s:.2f} s")
    await asyncio.sleep(0.5)  # what the first one had still to read is settled or in conflict
    crowd.nodes = before + during
    check_rows(split, crowd)
    assert split.count() == (60, 180), "a registration twice"


async def test_a_killed_home_agent_comes_back_to_what_was_committed(split: SplitHome) -> None:
    crowd = crowd_of(split, 100)
    await split.launch(*DIRECT)
    crowd.start()
    await crowd.reach(25)
    split.kill("ha1")
    await split.launch("ha1")
    await crowd.finish()
    told(split, f"a home agent restarted: the slowest of 100 took {crowd.slowest_s:.2f} s")
    check_rows(split, crowd)
    assert split.count() == (100, 300), "a retransmission that was issued anew"


@pytest.fixture
def own_server(
    split: SplitHome, postgres: PostgresServer, database_name: str, reachable_folder: object
) -> Iterator[EmbeddedServer]:
    """A database server of this test alone, which it may stop; both KDCs use it."""
    folder = postgres.kek_file.parent / f"split-{os.urandom(4).hex()}"
    server = EmbeddedServer(folder)
    server.start()
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database_name}")
    own = PostgresServer(server, postgres.kek_file)
    with administration(own.conninfo(database_name)) as migrated:
        migrate.upgrade(migrated, postgres.kek, entropy=os.urandom, progress=lambda line: None)
    for kdc in ("kdc1", "kdc2"):
        split.edit(f"{kdc}.toml", split.database_url, own.url(database_name))
    split.postgres = own
    yield server
    server.stop()


async def test_a_database_that_stops_under_load_denies_and_comes_back(
    split: SplitHome, own_server: EmbeddedServer
) -> None:
    crowd = crowd_of(split, 100)
    denied, later = (Node(e, 1) for e in split.subscribers(2, name="later"))
    await split.launch(*DIRECT)
    crowd.start()
    await crowd.reach(25)
    own_server.stop()
    assert await denied.try_once(split, "fa3") == 67
    own_server.start()
    took_s = await recovered(split, denied, "fa3")
    told(split, f"PostgreSQL back: registered {took_s:.1f} s later")
    await crowd.finish()
    assert await later.try_once(split, "fa3") == 0
    check_rows(split, crowd)
    assert split.count() == (102, 306), "a registration twice"
    assert {split.stop(name) for name in ("ha1", "kdc1", "kdc2")} == {0}
    assert "home.denials.130=" in split.log("ha1")


async def test_a_reload_with_another_authority_changes_who_is_served(split: SplitHome) -> None:
    """The old home agent is cut off at once, the new one is served, and the old one can follow."""
    one, two = (Node(e, 1) for e in split.subscribers(2))
    (other,) = (Node(e, 1) for e in split.subscribers(1, home_agent="ha2"))
    run_kdc(split.folder, "tls", "authority", "next", "--name", "next.example")
    for name in ("kdc1", "ha1", "ha2"):
        run_kdc(split.folder, "tls", "issue", "next", name, "--san", f"{name}.home.example")
    for name in ("ha1", "ha2"):  # no second KDC to turn to
        text = (split.folder / f"{name}.toml").read_text()
        before, _, rest = text.partition('[[kdc]]\nname = "kdc2"')
        _, _, after = rest.partition("\n\n")
        (split.folder / f"{name}.toml").write_text(before + after)
    split.edit("ha2.toml", "tls/", "next/")
    await split.launch("kdc1", "ha1", "ha2", "fa3", "fa4")
    assert await one.try_once(split, "fa3") == 0
    assert await other.try_once(split, "fa4") == 67, "an authority that the KDC does not know yet"
    # A file that cannot be read leaves everything as it was.
    (split.folder / "tls/ca.pem").rename(split.folder / "tls/ca.kept")
    await _hang_up(split, "kdc1", "not reloaded")
    assert await one.try_once(split, "fa3") == 0
    for name in ("ca.pem", "kdc1.pem", "kdc1.key"):
        shutil.copy(split.folder / "next" / name, split.folder / "tls" / name)
    await _hang_up(split, "kdc1", "] reloaded")
    assert await two.try_once(split, "fa3") == 67, "a certificate of the old authority"
    took_s = await recovered(split, other, "fa4")
    told(split, f"a new authority: the new home agent served {took_s:.1f} s later")
    for name in ("ha1.pem", "ha1.key"):
        shutil.copy(split.folder / "next" / name, split.folder / "tls" / name)
    await _hang_up(split, "ha1", "] reloaded")
    await recovered(split, two, "fa3")
    assert split.stop("kdc1") == 0
    assert "radsec.revoked=" in split.log("kdc1")


async def _hang_up(split: SplitHome, name: str, expected: str) -> None:
    """SIGHUP, until the process has said what it came to."""
    before = split.log(name).count(expected)
    split.processes[name].send_signal(signal.SIGHUP)
    until = time.monotonic() + 20
    while split.log(name).count(expected) == before:
        assert time.monotonic() < until, split.log(name)
        await asyncio.sleep(0.02)
