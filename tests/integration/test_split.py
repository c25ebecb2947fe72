"""Home agents, KDCs, AAA servers and agents in processes of their own, one database behind all."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import psycopg

from aaa.demo.configurations import text_of
from aaa.net.mobile_ip import MobileIpSocket
from aaa.policy import NodeNegotiation, Offer
from aaa.roles.mobile_node import Registered, accept_reply
from kdc.model import Mode
from kdc.outcome import decode_outcome
from kdc.records import Issued
from kdc.store import Store
from tests.integration.split import ADDRESSES, TERMS, Node, SplitHome, Visit, check_agreement

NODES = 200
AT_ONCE = 24
SEMISTATEFUL = NodeNegotiation(
    offer_mn_ha=Offer(mode="semi-stateful"),
    offer_mn_fa=Offer(mode="semi-stateful"),
    offer_mn_smm=Offer(mode="semi-stateful"),
).build_terms()
STATELESS = NodeNegotiation(
    offer_mn_ha=Offer(mode="stateless", groups=("x25519",)),
    offer_mn_fa=Offer(mode="stateless", groups=("x25519",)),
).build_terms()


async def test_two_hundred_nodes_of_two_home_agents_in_both_networks(split: SplitHome) -> None:
    enrolments = split.subscribers(NODES // 2) + split.subscribers(NODES // 2, home_agent="ha2")
    await split.launch("kdc1", "kdc2", "ha1", "ha2", "home", "foreign", "fa1", "fa2", "fa3", "fa4")
    nodes = [Node(enrolment, seed) for seed, enrolment in enumerate(enrolments)]
    limit = asyncio.Semaphore(AT_ONCE)

    async def visit(number: int, node: Node, turn: int) -> None:
        direct = "fa3" if node.home_agent == IPv4Address(ADDRESSES["ha1"]) else "fa4"
        agent = ("fa1", "fa2", direct)[(number + turn) % 3]
        terms = {3: SEMISTATEFUL, 4: STATELESS}.get((number + turn) % 5, TERMS)
        async with limit:
            await node.register(split, agent, terms=terms)

    started = time.monotonic()
    for turn in range(2):
        await asyncio.gather(*(visit(n, node, turn) for n, node in enumerate(nodes)))
    took_s = time.monotonic() - started
    print(f"\n{2 * NODES} registrations in {took_s:.1f} s")  # noqa: T201 - a measurement
    assert took_s < 120
    arguments = _arguments_of(split)
    visits = [visit for node in nodes for visit in node.visits]
    stored = split.stored()
    expected = sum(1 + len(visit.answer.associations) for visit in visits)  # and KEY2
    assert split.count() == (2 * NODES, expected)
    assert check_agreement(visits, split, stored) == expected
    modes = Counter(item.mode for item in stored)
    assert set(modes) == set(Mode) and min(modes.values()) >= NODES // 5
    _check_live_rows(split, visits)
    planted = await _inner_secrets(split, nodes)
    assert set(split.stop_all().values()) == {0}
    for kdc in ("kdc1", "kdc2"):
        assert "kdc.settled=" in split.log(kdc), "a KDC that was never asked"
    _check_no_secret([*planted, *_outer_secrets(split, nodes)], split, arguments)


def _check_live_rows(split: SplitHome, visits: list[Visit]) -> None:
    """The node's last registration and, for the overlap, the one before it."""
    with psycopg.connect(split.postgres.conninfo(split.database_name)) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT record_id) FROM live_associations"
        ).fetchone()
        revisions = connection.execute("SELECT DISTINCT revision FROM key0_records").fetchall()
    assert row == (sum(1 + len(v.answer.associations) for v in visits), NODES)
    assert revisions == [(2,)], "one change of its record for each registration"


def _arguments_of(split: SplitHome) -> bytes:
    return b"".join(
        Path(f"/proc/{process.pid}/{what}").read_bytes()
        for process in split.processes.values()
        for what in ("cmdline", "environ")
    )


async def _inner_secrets(split: SplitHome, nodes: list[Node]) -> list[bytes]:
    """R and W of each node's last registration, which no party but the home side and an FA has."""
    spis = [node.state.spent for node in nodes if node.state.spent is not None]
    settings = split.postgres.settings(split.database_name)
    async with Store.opened(settings, entropy=os.urandom) as store:
        loaded = await store.load(spis)
    secrets: set[bytes] = set()
    for stored in loaded.records.values():
        assert stored.outcome is not None
        outcome = decode_outcome(stored.outcome)
        assert isinstance(outcome, Issued) and outcome.seed and outcome.wrapping_key
        secrets |= {outcome.seed.reveal(), outcome.wrapping_key.w.reveal()}
    assert len(secrets) > len(nodes)
    return sorted(secrets)


def _outer_secrets(split: SplitHome, nodes: list[Node]) -> Iterator[bytes]:
    yield split.postgres.kek.reveal()
    for node in nodes:
        yield node.state.enrolment.key0.reveal()
        for visit in node.visits:
            for item in visit.answer.associations:
                yield item.keys.reveal()
    for row in split.stored():
        if row.keys is not None:
            yield row.keys.reveal()


def _check_no_secret(secrets: list[bytes], split: SplitHome, arguments: bytes) -> None:
    files = [*split.folder.glob("*.log"), *split.folder.glob("*.json*")]
    columns = bytearray()
    with psycopg.connect(split.postgres.conninfo(split.database_name)) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace ="
            " 'public'::regnamespace AND NOT relispartition"
        ).fetchall()
        assert len(tables) >= 7
        for (table,) in tables:
            for (row,) in connection.execute(f"SELECT t::text FROM {table} AS t").fetchall():
                columns += row.encode()
    searched = {
        "logs": b"".join(path.read_bytes() for path in files),
        "arguments": arguments,
        "database": bytes(columns),
    }
    assert all(len(text) > 1000 for text in searched.values())
    hexadecimal = {name: text.lower() for name, text in searched.items()}
    assert b"mn-ha1000001@home.example" in searched["database"], "the search finds what is there"
    for secret in secrets:
        for name, text in searched.items():
            assert secret[:16] not in text, name
            assert secret.hex()[:24].encode() not in hexadecimal[name], name


async def test_a_duplicate_by_other_processes_has_the_same_octets_and_one_row(
    split: SplitHome,
) -> None:
    (enrolment,) = split.subscribers(1)
    await split.launch("kdc1", "kdc2", "ha1", "ha1b", "home", "foreign", "fa1")
    node = Node(enrolment, 1)
    pending = node.request(split.heard("fa1"), terms=STATELESS)
    replies = [await _ask_again(split, pending.octets) for _ in range(3)]
    # The other process of the same home agent, which asks the other KDC.
    split.edit("home.toml", text_of(split.ports["ha1"]), text_of(split.ports["ha1b"]))
    split.edit("home.toml", 'secret_file = "ha1.secret"', 'secret_file = "ha1b.secret"')
    split.stop("home")
    await split.launch("home")
    replies.append(await _ask_again(split, pending.octets))
    split.stop("ha1")
    split.stop("kdc1")
    replies.append(await _ask_again(split, pending.octets))
    assert len(set(replies)) == 1
    assert split.count() == (1, 3)
    node.state, answer = accept_reply(
        node.state, pending, replies[0], now=time.time(), terms=STATELESS
    )
    assert isinstance(answer, Registered)
    assert check_agreement([Visit("fa1", answer)], split, split.stored()) == 3
    split.stop_all()
    assert "kdc.settled=3" in split.log("kdc1") and "kdc.settled=2" in split.log("kdc2")
    assert "home.registrations" not in split.log("ha1b"), "it has repeated, and granted nothing"


async def _ask_again(split: SplitHome, octets: bytes) -> bytes:
    """By a socket of its own: a new Access-Request, no retransmission of RADIUS."""
    async with MobileIpSocket.open(split.ports["fa1"]) as link:
        link.send(octets)
        reply = await link.receive(20)
    assert reply is not None
    return reply
