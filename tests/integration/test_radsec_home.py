"""RADIUS over TLS between real processes: who gets in, who does not, and what a loss costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aaa.demo.configurations import text_of
from aaa.net.mobile_ip import MobileIpSocket
from aaa.net.radsec_link import Watchdog
from aaa.net.tls import TlsContexts, TlsFiles, load_contexts
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_REJECT, RADSEC_SECRET, encode_request
from aaa.roles.mobile_node import MobileNodeState, Registered, build_request, next_spi
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from aaa.serve.mobile_node import Retransmission, exchange
from kdc.cli.tls import issue
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Secret
from tests.conftest import PostgresServer
from tests.integration.split import Node, SplitHome, free_tcp
from tests.integration.tls_home import OTHER, VISITED, TlsDomains, crl_line
from tests.unit.net.authority import Authority, bundle
from tests.unit.net.radsec import Raw, until

NODES, ROUNDS = 20, 3
TERMS = MnTerms()
PATIENCE = Retransmission(timeout_s=4, retries=3)
USER = ((1, b"@home.example"),)


@pytest.fixture
def tls(tmp_path: Path, postgres: PostgresServer, database_name: str) -> Iterator[TlsDomains]:
    """Configured and not started; nothing runs afterwards."""
    both = TlsDomains(tmp_path, postgres, database_name)
    both.configure()
    try:
        yield both
    finally:
        both.kill_all()


@pytest.fixture
async def visited(tls: TlsDomains) -> TlsContexts:
    """A home that runs, and what its foreign AAA shows."""
    contexts = tls.contexts(tls.authority.issue("visited", [VISITED]))
    await tls.start_home(contexts)
    return contexts


async def _register(tls: TlsDomains, enrolments: list[Enrolment], rounds: int) -> int:
    heard = await tls.start_all_over_tls()
    rng = random.Random(11)

    async def visit(enrolment: Enrolment) -> int:
        state, count = MobileNodeState.enrolled(enrolment), 0
        for _ in range(rounds):
            offers = Negotiation().offer(TERMS, spi=next_spi(state), entropy=os.urandom)[1]
            state, pending = build_request(
                state,
                heard,
                lifetime_s=600,
                now=time.time(),
                entropy=rng.randbytes,
                offers=offers,
            )
            async with MobileIpSocket.open(tls.ports["agent"]) as link:
                state, answer = await exchange(
                    link, state, pending, PATIENCE, terms=TERMS, vendor_id=DEFAULT_VENDOR_ID
                )
            assert isinstance(answer, Registered), answer
            count += 1
        return count

    return sum(await asyncio.gather(*map(visit, enrolments)))


@pytest.mark.parametrize("old", [None, "home.toml", "foreign.toml", "agent.toml"])
async def test_nodes_register_with_every_hop_over_tls(tls: TlsDomains, old: str | None) -> None:
    """The newest form on every hop; with one party that knows 1.0 alone, its hops have that."""
    if old is not None:
        tls.edit(old, "[tls]\n", '[tls]\nradius_versions = ["1.0"]\n')
    assert await _register(tls, tls.provision(NODES), ROUNDS) == NODES * ROUNDS
    assert tls.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
    expected = {
        "home": "1.0" if old in ("home.toml", "foreign.toml") else "1.1",
        "foreign": "1.0" if old in ("foreign.toml", "agent.toml") else "1.1",
    }
    for name, version in expected.items():
        found = re.findall(r"connected .*version=(1\.\d)", _plain(tls.log(name)))
        assert found[-1:] == [version], tls.log(name)  # the first at the home is the probe's
    assert len(tls.installed()) == 2 * NODES * ROUNDS


async def _is_refused(tls: TlsDomains, contexts: TlsContexts) -> None:
    """No request comes through, whatever TLS 1.3 lets a client believe."""
    client = tls.client(contexts)
    try:
        with pytest.raises(NoAnswer):
            await client.exchange(1, USER, deadline_s=0.7)
    finally:
        await client.close()


async def _is_served(tls: TlsDomains, contexts: TlsContexts) -> None:
    client = tls.client(contexts)
    try:
        assert (await client.exchange(1, USER)).code == ACCESS_REJECT  # no registration in it
        assert (await client.exchange(12, ())).code == 2
    finally:
        await client.close()


async def test_strangers_do_not_get_in(tls: TlsDomains, visited: TlsContexts) -> None:
    mine = tls.authority
    another = Authority(tls.folder, "Another CA")
    stranger = another.issue("stranger", [VISITED])
    yesterday = datetime.now(UTC) - timedelta(minutes=1)
    refused = {
        "wrong CA": load_contexts(
            TlsFiles(stranger.certificate_file, stranger.key_file, mine.file), ("1.0", "1.1")
        ),
        "wrong SAN": tls.contexts(mine.issue("unknown", ["nobody.visited.example"])),
        "right Common Name": tls.contexts(mine.issue("nameless", [], common_name=VISITED)),
        "two peers at once": tls.contexts(mine.issue("two", [VISITED, OTHER])),
        "expired": tls.contexts(mine.issue("old", [VISITED], until=yesterday)),
    }
    for contexts in refused.values():
        await _is_refused(tls, contexts)
    await _is_served(tls, visited)
    tls.stop("home")
    counted = _counters(tls.log("home"))
    assert counted["radsec.unknown_peer"] >= 3
    assert counted["radsec.handshake_failed"] >= 2
    assert counted["radius.requests"] == 1


def _counters(log: str) -> dict[str, int]:
    """What a process has counted, from the last line that says so."""
    line = [each for each in log.splitlines() if " counters " in each][-1]
    return {name: int(count) for name, count in re.findall(r"([a-z_.]+)=(\d+)", _plain(line))}


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        await asyncio.wait_for(reader.read(), 8)


async def test_plain_octets_and_malformed_packets_close(
    tls: TlsDomains, visited: TlsContexts
) -> None:
    for octets in (_request(1), b"GET / HTTP/1.1\r\n\r\n", bytes(5000)):
        reader, writer = await asyncio.open_connection(*tls.ports["home"])
        writer.write(octets)
        await _until_closed(reader)
        writer.close()
    old = tls.contexts(tls.authority.issue("old-form", [VISITED]), ("1.0",)).client
    good = _request(2)
    malformed = {
        "Length 19": good[:2] + b"\x00\x13" + good[4:],
        "Length 4097": good[:2] + b"\x10\x01" + good[4:],
        "truncated attribute": good[:2] + bytes([0, len(good) + 2]) + good[4:] + b"\x01\x09",
        "attribute of length 0": good[:2] + bytes([0, len(good) + 2]) + good[4:] + b"\x1a\x00",
        "no Message-Authenticator": b"\x01\x02\x00\x14" + bytes(16),
        "wrong secret": encode_request(1, 2, bytes(16), USER, Secret(b"sixteen octets!!")),
    }
    for bad in malformed.values():
        raw = await Raw.connect(tls.ports["home"], old)
        raw.send(_request(1))
        assert (await raw.packet()).code == ACCESS_REJECT
        raw.send(bad)
        assert await raw.is_closed()
        await raw.close()
    raw = await Raw.connect(tls.ports["home"], old)
    raw.send(bytes([77, 1, 0, 20]) + bytes(16), _request(3))  # an unknown code does not close
    assert (await raw.packet()).identifier == 3
    await raw.close()
    await _is_served(tls, visited)


def _request(identifier: int) -> bytes:
    return encode_request(1, identifier, os.urandom(16), USER, RADSEC_SECRET)


async def test_a_flood_of_half_open_handshakes_keeps_nobody_out(
    tls: TlsDomains, visited: TlsContexts
) -> None:
    flood: list[socket.socket] = []

    async def open_half(count: int) -> None:
        for _ in range(count):
            plain = socket.socket()
            plain.setblocking(False)
            flood.append(plain)
            await asyncio.get_running_loop().sock_connect(plain, tls.ports["home"])

    try:
        await open_half(300)  # 128 handshakes may be under way
        for _ in range(5):
            began = time.monotonic()
            await _is_served(tls, visited)  # a handshake of its own each time
            assert time.monotonic() - began < 4
            await open_half(40)
    finally:
        for plain in flood:
            plain.close()
    tls.stop("home")
    assert _counters(tls.log("home"))["radsec.handshake_evicted"] >= 300


async def test_a_home_does_not_talk_to_itself(tls: TlsDomains, visited: TlsContexts) -> None:
    own = TlsFiles(tls.folder / "home.pem", tls.folder / "home.key", tls.authority.file)
    raw = await Raw.connect(tls.ports["home"], load_contexts(own).client)
    assert await raw.is_closed()
    await raw.close()
    counters = Counters()
    client = tls.client(load_contexts(own), counters)
    with pytest.raises(NoAnswer):
        await client.exchange(1, USER, deadline_s=0.5)
    await client.close()
    assert counters[names.RADSEC_CLIENT_SELF] >= 1
    await _is_served(tls, visited)
    assert "radsec.self" in tls.log("home")


async def test_a_peer_is_closed_when_its_authority_is_no_longer_trusted(
    tls: TlsDomains, visited: TlsContexts
) -> None:
    counters = Counters()
    client = tls.client(visited, counters)
    assert (await client.exchange(1, USER)).code == ACCESS_REJECT
    await tls.reload("home")
    assert (await client.exchange(1, USER)).code == ACCESS_REJECT
    assert (counters[names.RADSEC_CLIENT_OPENED], counters[names.RADSEC_CLIENT_LOST]) == (1, 0)
    newer = Authority(tls.folder, "Newer CA")
    shutil.copy(newer.file, tls.folder / "trust.pem")
    await tls.reload("home")
    await until(lambda: counters[names.RADSEC_CLIENT_LOST] >= 1)
    with pytest.raises(NoAnswer):
        await client.exchange(1, USER, deadline_s=0.7)
    issued = newer.issue("visited-new", [VISITED])
    renewed = TlsFiles(issued.certificate_file, issued.key_file, tls.authority.file)
    await _is_served(tls, load_contexts(renewed, ("1.0", "1.1")))
    (tls.folder / "trust.pem").write_text("no certificate")
    process = tls.processes["home"]
    process.send_signal(signal.SIGHUP)
    await until(lambda: "not reloaded" in tls.log("home"))
    await _is_served(tls, load_contexts(renewed, ("1.0", "1.1")))  # all as it was
    bundle(tls.folder / "trust.pem", tls.authority, newer)
    await tls.reload("home")
    assert (await client.exchange(1, USER)).code == ACCESS_REJECT  # the first one again
    await client.close()


async def test_a_peer_is_closed_when_it_is_revoked(tls: TlsDomains) -> None:
    mine = tls.authority
    issued, kept = mine.issue("visited", [VISITED]), mine.issue("kept", [OTHER])
    lists = mine.revoke("revoked")
    tls.edit("home.toml", 'ca_file = "trust.pem"\n', crl_line(lists))
    visited, other = tls.contexts(issued), tls.contexts(kept)
    await tls.start_home(visited)
    counters, others = Counters(), Counters()
    client, second = tls.client(visited, counters), tls.client(other, others)
    for each in (client, second):
        assert (await each.exchange(1, USER)).code == ACCESS_REJECT
    mine.revoke("revoked", issued)
    await tls.reload("home")
    await until(lambda: counters[names.RADSEC_CLIENT_LOST] >= 1)
    with pytest.raises(NoAnswer):
        await client.exchange(1, USER, deadline_s=0.7)
    assert (await second.exchange(1, USER)).code == ACCESS_REJECT
    assert others[names.RADSEC_CLIENT_LOST] == 0
    await client.close()
    await second.close()


async def test_what_is_in_flight_when_a_home_is_killed(
    tls: TlsDomains, visited: TlsContexts
) -> None:
    """Sent again to the next process, or failed in time where there is none."""
    counters = Counters()
    client = tls.client(visited, counters, watchdog=Watchdog(owed_s=20, answer_s=20))
    assert (await client.exchange(12, ())).code == 2
    os.kill(tls.processes["home"].pid, signal.SIGSTOP)
    asked = [asyncio.create_task(client.exchange(1, USER, deadline_s=60)) for _ in range(100)]
    await until(lambda: counters[names.CLIENT_SENT] >= 101)
    tls.processes["home"].kill()
    tls.processes["home"].wait()
    await until(lambda: counters[names.RADSEC_CLIENT_RESENT] == 100)
    tls.start("home")
    answers = await asyncio.gather(*asked)
    assert {each.code for each in answers} == {ACCESS_REJECT}
    os.kill(tls.processes["home"].pid, signal.SIGSTOP)
    asked = [asyncio.create_task(client.exchange(1, USER, deadline_s=2)) for _ in range(100)]
    await asyncio.sleep(0.2)
    tls.processes["home"].kill()
    began = time.monotonic()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(each) for each in outcomes} == {NoAnswer}
    assert time.monotonic() - began < 3
    await client.close()


async def test_a_frozen_home_is_noticed_by_the_watchdog(
    tls: TlsDomains, visited: TlsContexts
) -> None:
    counters = Counters()
    watchdog = Watchdog(idle_s=0.3, owed_s=0.3, answer_s=0.4)
    client = tls.client(visited, counters, watchdog=watchdog)
    assert (await client.exchange(12, ())).code == 2
    await asyncio.sleep(1.5)  # some watchdogs, each answered
    assert counters[names.RADSEC_CLIENT_LOST] == 0
    process = tls.processes["home"]
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: counters[names.RADSEC_CLIENT_SILENT] >= 1)
    os.kill(process.pid, signal.SIGCONT)
    assert (await client.exchange(1, USER, deadline_s=10)).code == ACCESS_REJECT
    await client.close()
    tls.stop("home")
    assert _counters(tls.log("home"))["radius.status_server"] >= 4


async def test_a_home_agent_behind_its_home_aaa_over_tls(split: SplitHome) -> None:
    """One client of the home agent in both ways: it is asked over TLS, and probed by UDP."""
    port = text_of(free_tcp())
    issue(split.folder / "tls", "home", ["aaa.home.example"])
    files = "".join(
        f'{key} = "tls/{file}"\n'
        for key, file in (
            ("certificate_file", "home.pem"), ("key_file", "home.key"), ("ca_file", "ca.pem"),
        )
    )  # fmt: skip
    split.edit(
        "home.toml",
        f'server = "{text_of(split.ports["ha1"])}"\nsecret_file = "ha1.secret"\n',
        f'server = "{port}"\nsan = ["ha1.home.example"]\n',
    )
    with (split.folder / "home.toml").open("a") as opened:
        opened.write(f"\n[tls]\n{files}")
    split.edit("ha1.toml", "[home_agent]\n", f'[home_agent]\ntls_listen = ["{port}"]\n')
    split.edit("ha1.toml", 'name = "aaah"\n', 'name = "aaah"\nsan = ["aaa.home.example"]\n')
    await split.launch("kdc1", "ha1", "home", "foreign", "fa1")
    nodes = [Node(each, seed) for seed, each in enumerate(split.subscribers(10))]
    await asyncio.gather(*(node.register(split, "fa1", terms=TERMS) for node in nodes))
    assert set(split.stop_all().values()) == {0}
    assert re.search(r"connected .*source=aaah version=1\.1", _plain(split.log("ha1")))
    assert split.count()[0] == 10
