"""Four real processes and a real database: many nodes, every key, no secret where none belongs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from aaa.demo.configurations import free_address
from aaa.net.mobile_ip import MobileIpSocket
from aaa.roles.mobile_node import (
    Heard,
    MobileNodeState,
    Registered,
    accept_reply,
    build_request,
    next_spi,
)
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from aaa.serve.mobile_node import Retransmission, exchange
from kdc.model import DEFAULT_VENDOR_ID, Enrolment
from kdc.store import associations, migrate
from kdc.store.database import administration
from tests.integration.domains import Domains
from tests.integration.visits import check_agreement, stored_associations

NODES = 200
ROUNDS = 5
AT_ONCE = 32
TERMS = MnTerms()  # pair 1 with forward secrecy, as a node offers by default
PATIENCE = Retransmission(timeout_s=4, retries=3)


class Node:
    """A mobile node with a socket of its own."""

    def __init__(self, enrolment: Enrolment, rng: random.Random) -> None:
        self.state = MobileNodeState.enrolled(enrolment)
        self.answers: list[Registered] = []
        self._rng = rng

    async def register(self, domains: Domains, heard: Heard, now: float) -> None:
        self.state, pending = build_request(
            self.state,
            heard,
            lifetime_s=600,
            now=now,
            entropy=self._rng.randbytes,
            offers=Negotiation().offer(TERMS, spi=next_spi(self.state), entropy=os.urandom)[1],
        )
        async with MobileIpSocket.open(domains.ports["agent"]) as link:
            self.state, answer = await exchange(
                link, self.state, pending, PATIENCE, terms=TERMS, vendor_id=DEFAULT_VENDOR_ID
            )
        assert isinstance(answer, Registered), answer
        self.answers.append(answer)


async def test_two_hundred_nodes_register_a_thousand_times(domains: Domains) -> None:
    enrolments = domains.provision(NODES)
    heard = await domains.start_all()
    rng = random.Random(7)
    nodes = [Node(enrolment, rng) for enrolment in enrolments]
    limit = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()

    async def visit(node: Node) -> None:
        async with limit:
            await node.register(domains, heard, time.time())

    started = loop.time()
    for _ in range(ROUNDS):
        await asyncio.gather(*map(visit, nodes))
    assert loop.time() - started < 120
    arguments = _arguments_of(domains)
    stored = stored_associations(domains.postgres, domains.database_name)
    answers = [answer for node in nodes for answer in node.answers]
    assert len(answers) == NODES * ROUNDS
    check_agreement(answers, stored, domains.installed())
    assert domains.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
    _check_no_secret(nodes, domains, arguments)


def _arguments_of(domains: Domains) -> bytes:
    return b"".join(
        Path(f"/proc/{process.pid}/{what}").read_bytes()
        for process in domains.processes.values()
        for what in ("cmdline", "environ")
    )


def _secrets(nodes: list[Node], domains: Domains) -> Iterator[bytes]:
    """Planted values: KEY0 of every node, KEY1 and KEY3 of every registration, the KEK."""
    yield domains.postgres.kek.reveal()
    for node in nodes:
        yield node.state.enrolment.key0.reveal()
        for answer in node.answers:
            yield answer.mn_ha.keys.reveal()
            yield answer.mn_fa.keys.reveal()


def _check_no_secret(nodes: list[Node], domains: Domains, arguments: bytes) -> None:
    logs = b"".join(path.read_bytes() for path in domains.folder.glob("*.log"))
    logs += (domains.folder / "installed.jsonl").read_bytes()
    logs += (domains.folder / "advertisement.json").read_bytes()
    columns = bytearray()
    with psycopg.connect(domains.postgres.conninfo(domains.database_name)) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace ="
            " 'public'::regnamespace AND NOT relispartition"
        ).fetchall()
        assert len(tables) >= 7
        for (table,) in tables:
            for (row,) in connection.execute(f"SELECT t::text FROM {table} AS t").fetchall():
                columns += row.encode()
    searched = {"logs": logs, "arguments": arguments, "database": bytes(columns)}
    assert all(len(text) > 100 for text in searched.values())
    # A dozen hexadecimal digits of a key are as good as all; both spellings are looked for.
    hexadecimal = {name: text.lower() for name, text in searched.items()}
    for secret in _secrets(nodes, domains):
        for name, text in searched.items():
            assert secret[:16] not in text, name
            assert secret.hex()[:24].encode() not in hexadecimal[name], name


async def test_duplicates_are_one_registration_also_at_a_second_home(domains: Domains) -> None:
    """The same request 100 times, then by another home process on the same database."""
    (enrolment,) = domains.provision(1)
    heard = await domains.start_all()
    rng = random.Random(8)
    state, pending = build_request(
        MobileNodeState.enrolled(enrolment),
        heard,
        lifetime_s=600,
        now=time.time(),
        entropy=rng.randbytes,
    )
    replies: set[bytes] = set()

    async def ask() -> bytes:
        # A socket of its own makes each a new Access-Request, not a RADIUS retransmission.
        async with MobileIpSocket.open(domains.ports["agent"]) as link:
            link.send(pending.octets)
            reply = await link.receive(10)
            assert reply is not None
            return reply

    for _ in range(10):
        replies |= set(await asyncio.gather(*(ask() for _ in range(10))))
    assert len(replies) == 1
    domains.edit("foreign.toml", _address(domains, "home"), _second_home(domains))
    domains.start("home2", config="home2.toml", kind="home")
    await domains.wait_for("home2", "visited.secret")
    domains.stop("foreign")
    domains.start("foreign")
    await domains.wait_for("foreign", "fa1.secret")
    domains.stop("home")
    replies.add(await ask())
    assert len(replies) == 1
    (reply,) = replies
    _, answer = accept_reply(state, pending, reply, now=time.time())
    assert isinstance(answer, Registered)
    with administration(domains.postgres.conninfo(domains.database_name)) as connection:
        assert associations.count(connection) == (1, 3)
    assert len({line["fingerprint"] for line in domains.installed()}) == 2


def _address(domains: Domains, name: str) -> str:
    host, port = domains.ports[name]
    return f"{host}:{port}"


def _second_home(domains: Domains) -> str:
    """home2.toml: the same home at another port."""
    domains.ports["home2"] = free_address()
    text = (domains.folder / "home.toml").read_text()
    second = _address(domains, "home2")
    (domains.folder / "home2.toml").write_text(text.replace(_address(domains, "home"), second))
    return second


async def test_a_suspended_subscriber_is_refused_by_the_next_request(domains: Domains) -> None:
    (enrolment,) = domains.provision(1)
    heard = await domains.start_all()
    node = Node(enrolment, random.Random(9))
    await node.register(domains, heard, time.time())
    name = str(enrolment.nai)
    domains.kdc("subscriber", "suspend", name, "--no-wait", "--config", "home.toml")
    state, pending = build_request(
        node.state, heard, lifetime_s=600, now=time.time(), entropy=random.Random(1).randbytes
    )
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        link.send(pending.octets)
        answer = await link.receive(10)
    assert answer is not None and answer[1] == 67
    domains.kdc("subscriber", "resume", name, "--config", "home.toml")
    node.state = state
    await node.register(domains, heard, time.time() + 1)


async def test_the_mobile_node_command_prints_keys_only_when_asked(domains: Domains) -> None:
    printed = domains.kdc(
        "subscriber", "add", "alice@home.example", "--json", "--config", "home.toml"
    )
    (domains.folder / "alice.json").write_text(printed)
    await domains.start_all()
    host, port = domains.ports["agent"]
    (domains.folder / "mobile-node.toml").write_text(
        '[mobile_node]\nenrolment_file = "alice.json"\nstate_file = "alice.state"\n'
        f'foreign_agent = "{host}:{port}"\nadvertisement_file = "advertisement.json"\n'
        'link_address = "02:00:5e:10:33:44"\n'
        '[keys]\nfile = "keys.json"\n'
    )
    quiet = domains.aaa("mobile-node", "register", "--config", "mobile-node.toml")
    assert "fingerprint" in quiet and "keys " not in quiet
    shown = domains.aaa(
        "mobile-node", "register", "--config", "mobile-node.toml", "--show-keys", "--json"
    )
    assert "keys" in json.loads(shown)["mn_fa"]  # and nothing else is on standard output
    assert (domains.folder / "alice.state").stat().st_mode & 0o077 == 0
    ended = domains.aaa("mobile-node", "deregister", "--config", "mobile-node.toml")
    assert "lifetime_s       0" in ended
    with administration(domains.postgres.conninfo(domains.database_name)) as connection:
        keyring = migrate.load_keyring(connection, domains.postgres.kek)
        assert not any(item.live for item in associations.list_all(connection, keyring))
