"""Real processes: what is accounted at home, and what home ends at the agent (RFC 2866, 5176)."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from aaa.demo.configurations import free_address, text_of, write_secret
from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import STATUS_SERVER, decode
from aaa.roles.mobile_node import Registered
from kdc.model import Enrolment, Secret
from kdc.store import disconnects
from kdc.store.database import administration
from tests.integration.domains import Domains
from tests.integration.sessions import PATIENCE_S, Sessions
from tests.integration.test_processes import Node

MANY = 24
needs_radclient = pytest.mark.skipif(
    shutil.which("radclient") is None,
    reason="RADCLIENT IS MISSING: install freeradius-utils, or interoperability is NOT tested",
)


@pytest.fixture
async def sessions(domains: Domains) -> AsyncIterator[Sessions]:
    both = Sessions(domains)
    try:
        yield both
    finally:
        both.close()


async def _registered(sessions: Sessions) -> tuple[Enrolment, Registered]:
    (enrolment,) = sessions.domains.provision(1)
    heard = await sessions.domains.start_all()
    node = Node(enrolment, random.Random(7))
    await node.register(sessions.domains, heard, time.time())
    return enrolment, node.answers[0]


async def test_a_session_is_accounted_tied_and_ended_by_home(sessions: Sessions) -> None:
    enrolment, answer = await _registered(sessions)
    (session,) = await sessions.wait_for_sessions(bool)
    assert session["status"] == "started" and session["registered"]
    assert session["subscriber"] == str(enrolment.nai)
    assert (session["peer"], session["operator_realm"]) == ("visited", "visited.example")
    assert (session["fa_nai"], session["nas_identifier"]) == ("fa1@visited.example", "fa1")
    assert answer.mn_fa.spi in session["spis"] and answer.mn_ha.spi not in session["spis"]
    held = sessions.agent_keys()
    assert str(answer.mn_fa.spi) in held

    (told,) = await sessions.kdc_json("subscriber", "suspend", str(enrolment.nai))
    (ended,) = told["registrations"]
    assert (ended["state"], ended["error_cause"], ended["done"]) == ("acked", None, True)
    assert str(answer.mn_fa.spi) not in sessions.agent_keys()
    dropped = [line["spi"] for line in sessions.domains.installed() if "dropped" in line]
    assert sorted(dropped) == sorted(ended["spis"])

    (session,) = await sessions.wait_for_sessions(lambda found: found[0]["status"] == "stopped")
    assert session["terminate_cause"] == 6  # Admin Reset
    assert session["registration"] == ended["registration"]
    _check_no_key(sessions, enrolment, answer, held)


def _check_no_key(sessions: Sessions, enrolment: Enrolment, answer: Registered, held: str) -> None:
    """Neither in accounting nor in dynamic authorization, on any of the four hops."""
    codes = {octets[0] for octets in sessions.octets}
    assert {4, 5, 40, 41} <= codes, "a hop was not seen"
    secrets = [sessions.domains.secret(name) for name in ("visited.secret", "fa1.secret")]
    traffic = [bytes.fromhex(key) for key in re.findall(r'"key": ?"([0-9a-f]{32,})"', held)]
    assert traffic
    raw = [answer.mn_ha.keys.reveal(), answer.mn_fa.keys.reveal(), enrolment.key0.reveal()]
    for octets in sessions.octets:
        decode(octets, signed=False)
        for secret in (*secrets, *traffic, *raw):
            assert secret[:16] not in octets and secret[:16].hex().encode() not in octets


async def test_an_association_is_revoked_and_what_an_agent_cannot_do_is_said(
    sessions: Sessions,
) -> None:
    """It has no way to ask a node for a new registration: 406, and nothing of it ends."""
    _, answer = await _registered(sessions)
    spi = str(answer.mn_fa.spi)
    await sessions.kdc("sa", "revoke", spi, "--renew", expect=1)
    (asked,) = sessions.disconnects()
    assert (asked["state"], asked["error_cause"]) == ("naked", 406)
    assert spi in sessions.agent_keys()
    (told,) = await sessions.kdc_json("sa", "revoke", spi)
    assert told["registrations"][0]["state"] == "acked"
    assert spi not in sessions.agent_keys()


async def test_an_agent_that_is_away_and_one_that_has_forgotten(sessions: Sessions) -> None:
    """Nobody answers: the operator is told so, and a later attempt finds nothing left to end."""
    domains = sessions.domains
    _, answer = await _registered(sessions)
    await sessions.wait_for_sessions(bool)
    domains.processes["agent"].kill()
    domains.processes.pop("agent").wait(10)
    await sessions.kdc("sa", "revoke", str(answer.mn_fa.spi), "--wait", "10", expect=1)
    waiting = sessions.disconnects()[-1]
    assert waiting["state"] == "sent" and waiting["attempts"] == 2, "the lease has run out"
    domains.start("agent")
    ended = await sessions.wait_for_disconnect("acked")
    assert ended["error_cause"] == 503 and ended["attempts"] >= 2


async def test_a_node_that_dies_in_the_middle_leaves_it_to_the_next(sessions: Sessions) -> None:
    domains = sessions.domains
    _, answer = await _registered(sessions)
    await sessions.wait_for_sessions(bool)
    domains.processes["agent"].send_signal(signal.SIGSTOP)
    await sessions.kdc("sa", "revoke", str(answer.mn_fa.spi), "--no-wait")
    await sessions.wait_for_disconnect("sent")
    domains.processes["home"].kill()
    domains.processes.pop("home").wait(10)
    domains.processes["agent"].send_signal(signal.SIGCONT)
    domains.start("home")
    ended = await sessions.wait_for_disconnect("acked")
    assert ended["attempts"] > 1
    assert str(answer.mn_fa.spi) not in sessions.agent_keys()


async def test_two_nodes_share_the_work_and_send_nothing_twice(sessions: Sessions) -> None:
    domains = sessions.domains
    enrolments = domains.provision(MANY)
    heard = await domains.start_all()
    await _start_second_home(domains)
    nodes = [Node(enrolment, random.Random(number)) for number, enrolment in enumerate(enrolments)]
    await asyncio.gather(*(node.register(domains, heard, time.time()) for node in nodes))
    with administration(domains.postgres.conninfo(domains.database_name)) as connection:
        for enrolment in enrolments:
            disconnects.request_for_subscriber(connection, enrolment.nai, "suspended")
            await asyncio.sleep(0.1)  # so that both have the time to be the first
    until = time.monotonic() + PATIENCE_S
    while {each["state"] for each in sessions.disconnects()} != {"acked"}:
        assert time.monotonic() < until, sessions.disconnects()
        await asyncio.sleep(0.1)
    results = [domains.log(name).count("result=acked") for name in ("home", "home2")]
    assert sum(results) == MANY and min(results) > 0, "one of them has done it all"
    asked = [octets for _, outward, octets in sessions.taps["agent_dynauth"].seen if outward]
    classes = [value for octets in asked for kind, value in decode(octets).attributes if kind == 25]
    assert len(set(classes)) == MANY
    assert len(set(asked)) == MANY, "a session was asked for by two requests"
    assert {each["attempts"] for each in sessions.disconnects()} == {1}


async def _start_second_home(domains: Domains) -> None:
    """Another node on the same database; the proxy knows only the first."""
    text = (domains.folder / "home.toml").read_text()
    for name in ("home", "home_accounting"):
        text = text.replace(text_of(domains.ports[name]), text_of(free_address()))
    (domains.folder / "home2.toml").write_text(text)
    domains.start("home2", config="home2.toml", kind="home")
    until = time.monotonic() + PATIENCE_S
    while "listening" not in domains.log("home2"):
        assert time.monotonic() < until, domains.log("home2")
        await asyncio.sleep(0.1)


async def test_a_refusal_is_the_operators_to_see(sessions: Sessions) -> None:
    """The proxy has no such agent any more: 403, and it is final."""
    domains = sessions.domains
    _, answer = await _registered(sessions)
    await sessions.wait_for_sessions(bool)
    assert domains.stop("foreign") == 0
    domains.edit("foreign.toml", '"198.51.100.7"', '"198.51.100.9"')
    domains.start("foreign")
    await domains.wait_for("foreign", "fa1.secret")
    await sessions.kdc("sa", "revoke", str(answer.mn_fa.spi), expect=1)
    ended = sessions.disconnects()[-1]
    assert (ended["state"], ended["error_cause"]) == ("naked", 403)


def _count(sessions: Sessions) -> tuple[int, int]:
    """Accounting-Requests to the home, and its answers to them, not those to probes."""
    seen = [octets for _, _, octets in sessions.taps["home_accounting"].seen]
    answers = [octets for octets in seen if octets[0] == 5 and octets[20] != 80]
    return sum(octets[0] == 4 for octets in seen), len(answers)


async def test_without_the_database_nothing_is_answered_and_afterwards_all_is(
    sessions: Sessions,
) -> None:
    """The rows cannot be written for a while; the agent sends until they are."""
    domains = sessions.domains
    (enrolment,) = domains.provision(1)
    heard = await domains.start_all()
    node = Node(enrolment, random.Random(7))
    until = time.monotonic() + PATIENCE_S
    while not _count(sessions)[1]:
        assert time.monotonic() < until, domains.log("agent")
        await asyncio.sleep(0.1)
    with psycopg.connect(domains.postgres.conninfo(domains.database_name)) as connection:
        connection.execute("LOCK TABLE accounting_sessions IN ACCESS EXCLUSIVE MODE")
        before = _count(sessions)
        await node.register(domains, heard, time.time())
        await asyncio.sleep(3)
        asked, answered = _count(sessions)
        assert asked > before[0] and answered == before[1], "answered without a row"
    (session,) = await sessions.wait_for_sessions(bool)
    assert session["status"] == "started"
    assert _count(sessions)[1] > answered


async def _radclient(
    sessions: Sessions, command: str, text: str, *, secret: bytes | None = None
) -> str:
    host, port = sessions.ports["home_accounting"]
    done = await asyncio.to_thread(
        subprocess.run,
        ["radclient", "-x", "-r", "1", "-t", "3", f"{host}:{port}", command,
         (secret or sessions.domains.secret("visited.secret")).decode()],
        input=text, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    return done.stdout + done.stderr


@needs_radclient
async def test_radclient_accounts_and_a_wrong_secret_does_not(sessions: Sessions) -> None:
    await _registered(sessions)
    (ours,) = await sessions.wait_for_sessions(bool)
    said = (
        'Acct-Session-Id = "rc-1"\nNAS-Identifier = "fa1"\n'
        f'Class = 0x{ours["registration"]}\nOperator-Name = "1visited.example"\n'
        f'User-Name = "{ours["user_name"]}"\n'
    )
    wrong = await _radclient(
        sessions, "acct", said + "Acct-Status-Type = Start\n", secret=b"not the secret!!"
    )
    assert "Received" not in wrong
    for status, seconds in (("Start", 0), ("Interim-Update", 60), ("Stop", 90), ("Stop", 90)):
        text = (
            said + f"Acct-Status-Type = {status}\nAcct-Session-Time = {seconds}\n"
            f"Acct-Input-Octets = {seconds}\nAcct-Input-Gigawords = 1\n"
        )
        assert "Received Accounting-Response" in await _radclient(sessions, "acct", text)
    found = await sessions.kdc_json("session", "list")
    (session,) = [each for each in found if each["session_id"] == "rc-1"]
    assert (session["status"], session["session_time_s"]) == ("stopped", 90)
    assert session["input_octets"] == 2**32 + 90
    assert session["registration"] == ours["registration"] and session["registered"]
    assert len(found) == 2
    foreign = said.replace("1visited.example", "1other.example") + "Acct-Status-Type = Start\n"
    assert "Received" not in await _radclient(sessions, "acct", foreign)
    assert "Received Accounting-Response" in await _radclient(
        sessions, "status", "Message-Authenticator = 0x00\n"
    )


async def _answers(sessions: Sessions, secret: bytes, host: str = "127.0.0.2") -> bool:
    client = RadiusClient(Counters(), bind_host=host)
    try:
        await client.exchange(
            STATUS_SERVER, (), Secret(secret), Server(sessions.domains.ports["home"], 0.2, 0),
            deadline_s=0.2,
        )  # fmt: skip
    except NoAnswer:
        return False
    finally:
        client.close()
    return True


async def _within_two_seconds(sessions: Sessions, secret: bytes, *, answered: bool) -> None:
    until = time.monotonic() + 2
    while await _answers(sessions, secret) is not answered:
        assert time.monotonic() < until, sessions.domains.log("home")


def _secret_file(sessions: Sessions, name: str) -> bytes:
    write_secret(sessions.domains.folder / name)
    return sessions.domains.secret(name)


async def test_clients_come_change_and_go_while_the_home_runs(sessions: Sessions) -> None:
    domains = sessions.domains
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    first, second = _secret_file(sessions, "first"), _secret_file(sessions, "second")
    assert not await _answers(sessions, first)
    await sessions.kdc(
        "client", "add", "probe", "127.0.0.2/32", "--secret-file", "first",
        "--realm", "probe.example",
    )  # fmt: skip
    await _within_two_seconds(sessions, first, answered=True)
    assert not await _answers(sessions, second)

    await sessions.kdc("client", "rotate", "probe", "--secret-file", "second")
    await _within_two_seconds(sessions, second, answered=True)
    assert await _answers(sessions, first), "the old one is valid for an hour"
    await sessions.kdc("client", "rotate", "probe", "--secret-file", "first", "--old-valid", "0")
    await _within_two_seconds(sessions, second, answered=False)
    assert await _answers(sessions, first)

    await sessions.kdc("client", "disable", "probe")
    await _within_two_seconds(sessions, first, answered=False)
    await sessions.kdc("client", "enable", "probe")
    await _within_two_seconds(sessions, first, answered=True)

    # The file's own are never displaced, and a row that does not open is that client's trouble.
    await sessions.kdc("client", "add", "visited", "127.0.0.3/32", "--secret-file", "second")
    await sessions.kdc("client", "add", "thief", "127.0.0.1/32", "--secret-file", "second")
    await asyncio.sleep(2)
    assert not await _answers(sessions, second, "127.0.0.3")
    assert not await _answers(sessions, second, "127.0.0.1")
    assert await _answers(sessions, domains.secret("visited.secret"), "127.0.0.1")
    with psycopg.connect(domains.postgres.conninfo(domains.database_name)) as connection:
        connection.execute(
            "UPDATE radius_clients SET sealed_secret ="
            " set_byte(sealed_secret, 5, get_byte(sealed_secret, 5) # 1) WHERE name = 'probe'"
        )
    await _within_two_seconds(sessions, first, answered=False)
    log = domains.log("home")
    for line in ("the file has a client of this name", "the file has a client at 127.0.0.1/32"):
        assert line in log
    assert "its secret does not open" in log
    assert first.decode() not in log and second.decode() not in log


def _let_in(sessions: Sessions, *, allowed: bool) -> None:
    """Nobody gets to the database of the home, or everybody again."""
    domains = sessions.domains
    name = domains.database_name
    with psycopg.connect(domains.postgres.server.conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allowed}")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )


@needs_radclient
async def test_the_clients_known_last_stay_while_the_database_is_away(sessions: Sessions) -> None:
    domains = sessions.domains
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    secret = _secret_file(sessions, "first")
    await sessions.kdc("client", "add", "probe", "127.0.0.2/32", "--secret-file", "first")
    await _within_two_seconds(sessions, secret, answered=True)
    _let_in(sessions, allowed=False)
    try:
        await asyncio.sleep(4)
        assert await _answers(sessions, secret)
        said = 'Acct-Session-Id = "1"\nNAS-Identifier = "fa1"\nAcct-Status-Type = Start\n'
        assert "Received" not in await _radclient(sessions, "acct", said)
    finally:
        _let_in(sessions, allowed=True)
    assert domains.log("home").count("clients not looked up") == 1
    assert domains.log("home").count("dynamic authorization waits") == 1
    await sessions.kdc("client", "disable", "probe")
    until = time.monotonic() + PATIENCE_S
    while await _answers(sessions, secret):
        assert time.monotonic() < until, domains.log("home")
