"""A real `aaa agent`: home ends what it granted and hears of every session (RFC 5176, 2866)."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import resources
from ipaddress import IPv4Address

import pytest

from aaa.demo.configurations import AGENTS
from aaa.radius.accounting import AccountingRequest
from aaa.radius.dynauth import DynamicAnswer, encode_dynamic_request
from aaa.radius.packet import ACCESS_REQUEST, COA_REQUEST, DISCONNECT_REQUEST
from aaa.roles.mobile_node import Deregistered, Registered
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Secret
from tests.integration.agent_requests import (
    AccountingServer,
    Agent,
    Asker,
    Visitor,
    asked_of,
    configure_agent,
)
from tests.integration.domains import Domains
from tests.integration.radclient import needs_radclient

START, STOP = AccountingStatus.START, AccountingStatus.STOP
ON, OFF = AccountingStatus.ACCOUNTING_ON, AccountingStatus.ACCOUNTING_OFF
ACKNOWLEDGED, NOT_FOUND = DynamicAnswer(True), DynamicAnswer(False, 503)


@pytest.fixture
async def agent(domains: Domains) -> AsyncIterator[Agent]:
    secret = Secret(domains.secret("fa1.secret"))
    accounting = AccountingServer(secret)
    asker = Asker(configure_agent(domains, accounting), secret)
    try:
        heard = await domains.start_all()
        yield Agent(domains, accounting, asker, heard)
    finally:
        asker.close()
        accounting.close()


async def visit(agent: Agent, visitor: Visitor) -> AccountingRequest:
    """A registration, and the Start that it is accounted by."""
    assert isinstance(await visitor.register(agent), Registered)
    return await agent.accounting.take(START)


async def test_a_session_from_its_start_to_the_word_of_home(agent: Agent) -> None:
    (enrolment,) = agent.domains.provision(1)
    visitor = Visitor(enrolment)
    begun = await agent.accounting.take(ON)
    assert (begun.nas_identifier, begun.nas_address) == (b"fa1", IPv4Address(AGENTS["fa1"]))
    assert begun.delay_time_s == 0
    before = int(time.time())
    start = await visit(agent, visitor)
    installed = {item["spi"]: item for item in agent.domains.installed()}
    assert set(start.spis) == set(installed)
    (answer,) = visitor.answers
    assert answer.mn_fa.spi in start.spis
    assert answer.mn_ha.spi not in start.spis
    assert start == AccountingRequest(
        status=START,
        session_id=start.session_id,
        nas_identifier=b"fa1",
        nas_address=IPv4Address(AGENTS["fa1"]),
        user_name=installed[start.spis[0]]["alias"].encode(),
        classes=start.classes,
        spis=start.spis,
        fa_nai=b"fa1@visited.example",
        event_timestamp=start.event_timestamp,
    )
    assert start.user_name is not None and start.user_name.endswith(b"@home.example")
    assert str(enrolment.nai).encode() not in start.user_name
    assert before <= (start.event_timestamp or 0) <= time.time()
    await agent.held(set(start.spis))

    await _everything_that_does_not_fit(agent, start)
    await agent.held(set(start.spis))
    assert agent.accounting.records.empty()

    asked = asked_of(start)
    wire = agent.asker.wire(asked.code, encode_dynamic_request(asked, DEFAULT_VENDOR_ID))
    assert await agent.asker.ask_raw(wire) == ACKNOWLEDGED
    stop = await agent.accounting.take(STOP)
    assert stop.session_time_s is not None
    assert 0 <= stop.session_time_s <= time.time() - before
    assert stop == replace(
        start,
        status=STOP,
        event_timestamp=stop.event_timestamp,
        session_time_s=stop.session_time_s,
        terminate_cause=6,
    )
    assert (stop.event_timestamp or 0) >= (start.event_timestamp or 0)
    await agent.held(set())
    assert [item["spi"] for item in agent.dropped()] == list(start.spis)
    assert {item["dropped"] for item in agent.dropped()} == {"revoked"}
    # The same packet once more is the same request; a new one finds nothing.
    assert await agent.asker.ask_raw(wire) == ACKNOWLEDGED
    assert await agent.asker.ask(asked) == NOT_FOUND
    assert await asyncio.to_thread(agent.domains.stop, "agent") == 0
    await agent.accounting.take(OFF)
    assert agent.accounting.records.empty()
    _no_key_in_any_packet(agent, visitor)


async def _everything_that_does_not_fit(agent: Agent, start: AccountingRequest) -> None:
    asker, asked = agent.asker, asked_of(start)
    for changed in (
        replace(asked, class_id=asked.class_id[:-1] + bytes((asked.class_id[-1] ^ 1,))),
        replace(asked, class_id=asked.class_id + b"\x00"),
        replace(asked, realm="other.example"),
        replace(asked, spis=(max(asked.spis) ^ 1,)),
        replace(asked, spis=(*asked.spis, max(asked.spis) ^ 1)),
        replace(asked, session_id=b"0" * 16),
        replace(asked, code=COA_REQUEST, class_id=b"another"),
    ):
        assert await asker.ask(changed) == NOT_FOUND, changed
    for changed in (
        replace(asked, nas_identifier=b"fa2"),
        replace(asked, nas_address=IPv4Address("192.0.2.1")),
    ):
        assert await asker.ask(changed) == DynamicAnswer(False, 403)
    # This agent advertises in a file: it cannot ask a node for anything.
    assert await asker.ask(replace(asked, code=COA_REQUEST)) == DynamicAnswer(False, 406)
    attributes = encode_dynamic_request(asked, DEFAULT_VENDOR_ID)
    for missing in (1, 25, 26, 55):
        without = tuple(item for item in attributes if item[0] != missing)
        answer = await asker.ask_raw(asker.wire(DISCONNECT_REQUEST, without))
        assert answer == DynamicAnswer(False, 402), missing
    unsupported = asker.wire(DISCONNECT_REQUEST, (*attributes, (31, b"00-11-22")))
    assert await asker.ask_raw(unsupported) == DynamicAnswer(False, 401)
    await _all_that_is_dropped(agent, start)


async def _all_that_is_dropped(agent: Agent, start: AccountingRequest) -> None:
    asker, asked = agent.asker, asked_of(start)
    for beside_s in (-400, 400):
        stale = replace(asked, event_timestamp=int(time.time()) + beside_s)
        octets = asker.wire(asked.code, encode_dynamic_request(stale, DEFAULT_VENDOR_ID))
        assert await asker.is_dropped(octets), beside_s
    attributes = encode_dynamic_request(asked, DEFAULT_VENDOR_ID)
    good = asker.wire(asked.code, attributes)
    assert await asker.is_dropped(_without_message_authenticator(good, asker.secret))
    wrong = asker.wire(asked.code, attributes, Secret(b"another secret of some octets"))
    assert await asker.is_dropped(wrong)
    assert await asker.is_dropped(good[:-1] + bytes((good[-1] ^ 1,)))
    assert await asker.is_dropped(asker.wire(ACCESS_REQUEST, attributes))
    elsewhere = Asker(asker.to, asker.secret, source="127.0.0.2")
    try:
        assert await elsewhere.is_dropped(good)
    finally:
        elsewhere.close()


def _without_message_authenticator(octets: bytes, secret: Secret) -> bytes:
    """The same request signed as RFC 2866 does, and by nothing else."""
    body = octets[38:]
    head = octets[:2] + (20 + len(body)).to_bytes(2, "big")
    digest = hashlib.md5(head + bytes(16) + body + secret.reveal(), usedforsecurity=False).digest()
    return head + digest + body


def _no_key_in_any_packet(agent: Agent, *visitors: Visitor) -> None:
    packets = b"".join((*agent.accounting.octets, *agent.asker.octets))
    assert len(packets) > 1000
    files = ("agent.log", "installed.jsonl", "sessions.json")
    text = b"".join((agent.domains.folder / name).read_bytes() for name in files).lower()
    for visitor in visitors:
        for secret in visitor.secrets():
            assert secret[:12] not in packets
            assert secret.hex()[:24].encode() not in packets.lower()
            assert secret.hex()[:24].encode() not in text
        assert visitor.state.enrolment.nai.octets not in packets


async def test_one_association_can_end_alone(agent: Agent) -> None:
    (enrolment,) = agent.domains.provision(1)
    await agent.accounting.take(ON)
    start = await visit(agent, Visitor(enrolment))
    first, *others = start.spis
    await agent.held(set(start.spis))
    assert await agent.asker.ask(replace(asked_of(start), spis=(first,))) == ACKNOWLEDGED
    await agent.held(set(others))
    assert agent.accounting.records.empty()
    assert await agent.asker.ask(replace(asked_of(start), spis=(first,))) == NOT_FOUND
    # One that has ended does not keep the others.
    named = replace(asked_of(start), session_id=start.session_id)
    assert await agent.asker.ask(named) == ACKNOWLEDGED
    await agent.held(set())
    assert (await agent.accounting.take(STOP)).terminate_cause == 6


async def test_renewal_deregistration_and_shutdown(agent: Agent) -> None:
    visitors = [Visitor(enrolment) for enrolment in agent.domains.provision(2)]
    await agent.accounting.take(ON)
    first = await visit(agent, visitors[0])
    assert isinstance(await visitors[0].register(agent), Registered)
    records = {(await asyncio.wait_for(agent.accounting.records.get(), 20)) for _ in range(2)}
    renewed = {record.status: record for record in records}
    assert renewed[STOP].session_id == first.session_id
    assert renewed[STOP].terminate_cause == 10
    second = renewed[START]
    assert second.classes != first.classes and not set(second.spis) & set(first.spis)
    # Home may still end what the renewal has superseded; the new one stays as it is.
    await agent.held({*first.spis, *second.spis})
    assert await agent.asker.ask(asked_of(first)) == ACKNOWLEDGED
    await agent.held(set(second.spis))
    assert isinstance(await visitors[0].register(agent, lifetime_s=0), Deregistered)
    ended = await agent.accounting.take(STOP)
    assert (ended.session_id, ended.terminate_cause) == (second.session_id, 1)
    assert await agent.asker.ask(asked_of(second)) == NOT_FOUND

    third = await visit(agent, visitors[1])
    assert await asyncio.to_thread(agent.domains.stop, "agent") == 0
    last = await agent.accounting.take(STOP)
    assert (last.session_id, last.terminate_cause) == (third.session_id, 7)
    await agent.accounting.take(OFF)

    # The keys outlive the process, and so does what home can say of them.
    agent.domains.start("agent")
    await agent.accounting.take(ON)
    restored = await agent.accounting.take(START)
    assert (restored.classes, restored.spis) == (third.classes, third.spis)
    assert restored.session_id != third.session_id
    await agent.held(set(third.spis))
    assert await agent.asker.ask(asked_of(third)) == ACKNOWLEDGED
    await agent.held(set())
    assert (await agent.accounting.take(STOP)).session_id == restored.session_id
    _no_key_in_any_packet(agent, *visitors)


async def test_an_outage_loses_no_stop(agent: Agent) -> None:
    (enrolment,) = agent.domains.provision(1)
    await agent.accounting.take(ON)
    start = await visit(agent, Visitor(enrolment))
    agent.accounting.answering = False
    before = agent.accounting.heard
    assert await agent.asker.ask(asked_of(start)) == ACKNOWLEDGED
    until = time.monotonic() + 20
    while agent.accounting.heard < before + 3:  # retransmitted, and then sent as a new packet
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    agent.accounting.answering = True
    stop = await agent.accounting.take(STOP)
    assert stop.delay_time_s >= 1
    assert stop.session_id == start.session_id
    identifiers = {octets[1] for octets in agent.accounting.octets[before:]}
    assert len(identifiers) >= 2  # RFC 2866 §5.2: another delay is another packet
    while "accounting goes on" not in (log := agent.domains.log("agent")):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    assert "accounting server silent" in log


@needs_radclient
async def test_radclient_disconnects(agent: Agent) -> None:
    (enrolment,) = agent.domains.provision(1)
    await agent.accounting.take(ON)
    start = await visit(agent, Visitor(enrolment))
    folder = agent.domains.folder / "dictionaries"
    folder.mkdir()
    ours = resources.files("aaa.radius") / "dictionary.roamkey"
    (folder / "dictionary.roamkey").write_text(ours.read_text())
    (folder / "dictionary").write_text(
        "$INCLUDE /usr/share/freeradius/dictionary\n$INCLUDE dictionary.roamkey\n"
    )
    secret = agent.domains.secret("fa1.secret").decode()

    async def radclient(command: str, *, class_id: bytes, at: int | None) -> str:
        text = (
            'User-Name = "@home.example"\nNAS-Identifier = "fa1"\n'
            f"NAS-IP-Address = {start.nas_address}\nClass = 0x{class_id.hex()}\n"
            'Operator-Name = "1visited.example"\nMessage-Authenticator = 0x00\n'
            + "".join(f"Roamkey-SPI += {spi}\n" for spi in start.spis)
            + (f"Event-Timestamp = {at}\n" if at is not None else "")
        )
        process = await asyncio.create_subprocess_exec(
            "radclient", "-x", "-r", "1", "-t", "2", "-D", str(folder),
            f"127.0.0.1:{agent.asker.to[1]}", command, secret,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(text.encode()), 20)
        return output.decode()

    class_id, now = start.classes[0], int(time.time())
    wrong = await radclient("disconnect", class_id=b"wrong", at=now)
    assert "Received Disconnect-NAK" in wrong and "Session-Context-Not-Found" in wrong, wrong
    missing = await radclient("disconnect", class_id=class_id, at=None)
    assert "Missing-Attribute" in missing, missing
    assert "No reply" in await radclient("disconnect", class_id=class_id, at=now - 1000)
    coa = await radclient("coa", class_id=class_id, at=now)
    assert "Received CoA-NAK" in coa and "Unsupported-Extension" in coa, coa
    done = await radclient("disconnect", class_id=class_id, at=now)
    assert "Received Disconnect-ACK" in done, done
    again = await radclient("disconnect", class_id=class_id, at=now)
    assert "Session-Context-Not-Found" in again, again
    assert (await agent.accounting.take(STOP)).terminate_cause == 6
    assert {item["class_id"] for item in agent.dropped()} == {class_id.hex()}
