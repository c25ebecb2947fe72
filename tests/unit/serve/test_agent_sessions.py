"""Sessions at work: interim records, expiry, a full table, and a node that is invited."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aaa.exchange import AccessRequest
from aaa.radius.accounting import AccountingRequest, decode_accounting_request
from aaa.radius.counters import Counters
from aaa.radius.dynauth import DynamicRequest, encode_dynamic_request
from aaa.radius.packet import (
    ACCOUNTING_RESPONSE,
    COA_ACK,
    COA_NAK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.roles.foreign_agent import Delivery, FaIdentity, Relayed
from aaa.roles.foreign_agent_sessions import SessionTable
from aaa.roles.foreign_agent_terms import NOTHING_SAID
from aaa.serve.accounting import Accounting
from aaa.serve.agent_sessions import AgentSessions, Told
from aaa.serve.dynamic_authorization import STALE, DynamicAuthorization
from aaa.serve.installed_log import InstalledLog
from kdc.accounting import AccountingStatus
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID, Nai, Pair
from kdc.wire.registration import decode_request
from tests.keyuse_stories import association
from tests.unit.serve.outlet import Clock, outlet_of, settings
from tests.vectors_loader import octets, vectors

IDENTITY = FaIdentity(
    Nai.parse("fa1@visited.example"),
    IPv4Address("198.51.100.7"),
    IPv4Address("198.51.100.7"),
    b"fa1",
)

REQUEST = decode_request(octets(vectors("request")[0]["in"]["octets"]), DEFAULT_VENDOR_ID)
LIFETIME_S = 600


class Books:
    """The other end of the accounting: what was sent, answered at once."""

    def __init__(self) -> None:
        self.records: list[AccountingRequest] = []
        self.accounting = Accounting(self._exchange, DEFAULT_VENDOR_ID, Counters())

    async def _exchange(self, code: int, attributes: Attributes) -> VerifiedResponse:
        request = VerifiedRequest(code, 1, bytes(16), attributes, b"", 0)
        self.records.append(decode_accounting_request(request, DEFAULT_VENDOR_ID))
        return VerifiedResponse(ACCOUNTING_RESPONSE, 1, bytes(16), (), b"", 0)

    async def statuses(self) -> list[tuple[AccountingStatus, int | None]]:
        """Status and Acct-Terminate-Cause of each record, once all are sent."""
        while self.accounting._tasks:
            await asyncio.wait(self.accounting._tasks)
        return [(record.status, record.terminate_cause) for record in self.records]


def relayed(sender: str) -> Relayed:
    access = AccessRequest(
        REQUEST.realm.realm, IDENTITY.nas_identifier, IDENTITY.address, IDENTITY.nai, b"", ()
    )
    return Relayed((sender, 434), access, REQUEST, NOTHING_SAID, ())


def delivery(number: int, *, home_address: str = "10.20.0.1") -> Delivery:
    first_spi = 1000 + 2 * number
    return Delivery(
        octets=b"",
        code=0,
        lifetime_s=LIFETIME_S,
        alias=Nai.parse(f"m-{number}@home.example"),
        home_address=IPv4Address(home_address),
        home_agent_nai=Nai.parse("ha1@home.example"),
        associations=(
            association(Pair.FA_HA, first_spi, lifetime_s=LIFETIME_S),
            association(Pair.MN_FA, first_spi + 1, lifetime_s=LIFETIME_S),
        ),
        class_id=b"class %d" % number,
    )


@dataclass
class Stage:
    """Sessions with a real outlet and its file, and a clock of the test's."""

    folder: Path
    maximum: int = 16
    interim_s: float | None = None
    session_file: Path | None = None
    clock: Clock = field(default_factory=Clock)
    books: Books = field(default_factory=Books)
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.outlet = outlet_of(settings(self.folder, file=True), self.counters, clock=self.clock)
        self.outlet.open()
        self.log = InstalledLog(self.folder / "installed.jsonl")
        self.sessions = AgentSessions(
            IDENTITY,
            Told(self.outlet, self.log, self.books.accounting, self.session_file),
            self.counters,
            interim_s=self.interim_s,
            clock=self.clock,
            table=SessionTable(maximum=self.maximum),
        )
        self.sessions.open()

    def held(self) -> set[int]:
        return {held.spi for held in self.outlet.held()}

    async def close(self) -> None:
        await self.sessions.close()
        await self.outlet.close()
        self.log.close()


def asked(number: int, code: int = DISCONNECT_REQUEST, **others: Any) -> DynamicRequest:
    first_spi = 1000 + 2 * number
    return DynamicRequest(
        code=code,
        realm=REQUEST.realm.realm,
        class_id=b"class %d" % number,
        spis=(first_spi, first_spi + 1),
        event_timestamp=int(time.time()),
        nas_identifier=b"fa1",
        **others,
    )


async def test_interim_records_and_the_end_of_the_lifetime(tmp_path: Path) -> None:
    stage = Stage(tmp_path, interim_s=250)
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(1))
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(1))  # a reply that came twice
    for _ in range(2):
        stage.clock.ahead_s += 251
        stage.sessions._on_timer()
        stage.sessions._on_timer()
    stage.clock.ahead_s += 99
    stage.sessions._on_timer()
    assert await stage.books.statuses() == [
        (AccountingStatus.ACCOUNTING_ON, None),
        (AccountingStatus.START, None),
        (AccountingStatus.INTERIM_UPDATE, None),
        (AccountingStatus.INTERIM_UPDATE, None),
        (AccountingStatus.STOP, 5),
    ]
    assert [record.session_time_s for record in stage.books.records[1:]] == [None, 251, 502, 601]
    assert len({record.session_id for record in stage.books.records[1:]}) == 1
    assert not stage.sessions.disconnect(asked(1))
    await stage.close()


async def test_a_disconnect_that_overtakes_the_grant_is_not_in_vain(tmp_path: Path) -> None:
    """Home takes 503 for "holds nothing": what comes after it must not make that wrong."""
    stage = Stage(tmp_path)
    assert not stage.sessions.disconnect(asked(1))
    assert stage.sessions.was_revoked(relayed("192.0.2.9"), delivery(1))
    assert not stage.sessions.was_revoked(relayed("192.0.2.9"), delivery(2))
    await stage.close()


async def test_the_timer_ends_a_session_by_itself(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    short = replace(delivery(1), lifetime_s=1)
    stage.sessions.hand_on(relayed("192.0.2.9"), short)
    async with asyncio.timeout(5):
        while len(stage.sessions):  # noqa: ASYNC110 - the timer tells no event
            await asyncio.sleep(0.05)
    assert (await stage.books.statuses())[-1] == (AccountingStatus.STOP, 5)
    await stage.close()


async def test_what_home_cannot_revoke_any_more_is_not_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, maximum=2)
    for number in range(3):
        address = f"10.20.0.{number}"
        stage.sessions.hand_on(relayed(f"192.0.2.{number}"), delivery(number, home_address=address))
    assert len(stage.sessions) == 2
    assert stage.held() == {1002, 1003, 1004, 1005}
    assert (AccountingStatus.STOP, 13) in await stage.books.statuses()
    lines = [json.loads(line) for line in (tmp_path / "installed.jsonl").read_text().splitlines()]
    assert [(line["dropped"], line["spi"]) for line in lines] == [
        ("displaced", 1000),
        ("displaced", 1001),
    ]
    await stage.close()


async def test_a_renewal_at_the_moment_of_expiry_keeps_its_binding(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(1))
    stage.clock.ahead_s += LIFETIME_S + 1
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(2))
    assert (await stage.books.statuses())[1:] == [
        (AccountingStatus.START, None),
        (AccountingStatus.STOP, 5),
        (AccountingStatus.START, None),
    ]
    stage.sessions.hand_on(relayed("192.0.2.9"), Delivery(b"", 0, 0, Nai.parse("m-3@home.example")))
    assert (await stage.books.statuses())[-1] == (AccountingStatus.STOP, 1)
    assert stage.held() == set()
    await stage.close()


async def test_a_revoked_session_is_no_longer_its_senders_to_end(tmp_path: Path) -> None:
    """Behind one address: with the other's session gone, a deregistration is not ambiguous."""
    stage = Stage(tmp_path)
    for number in (1, 2):
        address = f"10.20.0.{number}"
        stage.sessions.hand_on(relayed("192.0.2.9"), delivery(number, home_address=address))
    assert stage.sessions.disconnect(asked(1))
    stage.sessions.hand_on(relayed("192.0.2.9"), Delivery(b"", 0, 0, Nai.parse("m-3@home.example")))
    assert stage.held() == set()
    assert (await stage.books.statuses())[-2:] == [
        (AccountingStatus.STOP, 6),
        (AccountingStatus.STOP, 1),
    ]
    await stage.close()


async def test_the_end_of_the_process_ends_the_accounting_and_no_key(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(1))
    await stage.sessions.close()
    assert (await stage.books.statuses())[-2:] == [
        (AccountingStatus.STOP, 7),
        (AccountingStatus.ACCOUNTING_OFF, None),
    ]
    assert stage.held() == {1002, 1003}
    await stage.outlet.close()
    stage.log.close()


@dataclass
class Asked:
    """A transaction that keeps its answer."""

    request: VerifiedRequest
    answer: tuple[int, Attributes] | None = None
    forgotten: bool = False

    @property
    def client(self) -> Any:
        raise AssertionError("nobody asks who it was: the transport has")

    def respond(self, code: int, attributes: Attributes) -> None:
        self.answer = (code, attributes)

    def forget(self) -> None:
        self.forgotten = True


def _ask(handler: DynamicAuthorization, request: DynamicRequest, *more: tuple[int, bytes]) -> Asked:
    attributes = (*encode_dynamic_request(request, DEFAULT_VENDOR_ID), *more)
    transaction = Asked(VerifiedRequest(request.code, 1, bytes(16), attributes, b"", 0))
    handler.on_requests([transaction])
    return transaction


async def test_a_node_is_invited_to_register_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    invited: list[IPv4Address] = []

    def invite(node: IPv4Address) -> None:
        if node == IPv4Address("203.0.113.1"):
            raise LocalError("expected a neighbour to invite")
        invited.append(node)

    handler = DynamicAuthorization(IDENTITY, stage.sessions, stage.counters, invite=invite)
    senders = ("192.0.2.9", "203.0.113.1", "2001:db8::9")
    for number, sender in enumerate(senders):
        address = f"10.20.0.{number}"
        stage.sessions.hand_on(relayed(sender), delivery(number, home_address=address))
    answers = [_ask(handler, asked(n, COA_REQUEST, state=b"s")).answer for n in range(4)]
    assert answers == [
        (COA_ACK, ((24, b"s"),)),
        (COA_NAK, ((24, b"s"), (101, (506).to_bytes(4, "big")))),
        (COA_NAK, ((24, b"s"), (101, (406).to_bytes(4, "big")))),
        (COA_NAK, ((24, b"s"), (101, (503).to_bytes(4, "big")))),
    ]
    assert invited == [IPv4Address("192.0.2.9")]
    assert len(stage.held()) == 6  # nobody has lost anything
    authorize_only = _ask(handler, asked(0, COA_REQUEST), (6, (17).to_bytes(4, "big")))
    assert authorize_only.answer == (COA_NAK, ((101, (405).to_bytes(4, "big")),))
    await stage.close()


async def test_the_window_by_the_agents_clock(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.sessions.hand_on(relayed("192.0.2.9"), delivery(1))
    handler = DynamicAuthorization(IDENTITY, stage.sessions, stage.counters, clock=stage.clock)
    request = asked(1)
    stage.clock.ahead_s = 310
    assert _ask(handler, request).forgotten
    assert stage.counters[STALE] == 1
    stage.clock.ahead_s = 290
    assert _ask(handler, request).answer == (DISCONNECT_ACK, ())
    assert _ask(handler, request).answer == (
        DISCONNECT_NAK,
        ((101, (503).to_bytes(4, "big")),),
    )
    await stage.close()


async def test_an_ipv6_agent_is_compared_as_such(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    handler = DynamicAuthorization(IDENTITY, stage.sessions, stage.counters)
    request = asked(1, nas_address=IPv6Address("2001:db8::1"))
    answer = _ask(handler, request).answer
    assert answer == (DISCONNECT_NAK, ((101, (403).to_bytes(4, "big")),))
    await stage.close()


async def test_the_next_process_knows_what_the_last_one_served(tmp_path: Path) -> None:
    first = Stage(tmp_path, session_file=tmp_path / "sessions.json")
    for number in (1, 2, 3):
        address = "10.20.0.1" if number < 3 else "10.20.0.3"
        first.sessions.hand_on(relayed("192.0.2.9"), delivery(number, home_address=address))
    await first.close()
    assert (tmp_path / "sessions.json").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "sessions.json").read_bytes()
    for item in delivery(1).associations:
        assert item.keys.reveal() not in text
        assert item.keys.reveal().hex()[:24].encode() not in text

    second = Stage(tmp_path, session_file=tmp_path / "sessions.json", clock=first.clock)
    assert second.held() == {1002, 1003, 1004, 1005, 1006, 1007}
    assert await second.books.statuses() == [
        (AccountingStatus.ACCOUNTING_ON, None),
        (AccountingStatus.START, None),
        (AccountingStatus.START, None),
    ]
    earlier = {record.session_id for record in first.books.records}
    assert not earlier & {record.session_id for record in second.books.records}
    # The one that was replaced, and one of the others; the last is its sender's to end.
    assert second.sessions.disconnect(asked(1))
    assert second.sessions.disconnect(asked(2))
    assert second.held() == {1006, 1007}
    second.sessions.hand_on(
        relayed("192.0.2.9"), Delivery(b"", 0, 0, Nai.parse("m-3@home.example"))
    )
    assert second.held() == set()
    await second.close()
    third = Stage(tmp_path, session_file=tmp_path / "sessions.json")
    assert len(third.sessions) == 0
    await third.close()


UNBOUND = """{"schema": "roamkey/agent-sessions", "version": 1, "sessions": [{"number": "1",
"realm": "h.ex", "class_id": "00", "spis": [256], "binding": "no name of ours",
"sender": "192.0.2.9", "alias": "m-1@h.ex", "began_at": 0, "expires_at": 99999999999}]}"""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": "roamkey/agent-sessions", "version": 2, "sessions": []}',
        '{"schema": "roamkey/agent-sessions", "version": 1, "sessions": [{}]}',
        UNBOUND,
    ],
)
async def test_a_file_that_is_no_file_of_sessions_is_replaced(content: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(content)
    path.chmod(0o600)
    with capture_logs() as logs:
        stage = Stage(tmp_path, session_file=path)
    assert "the file of sessions is replaced" in [item["event"] for item in logs]
    assert len(stage.sessions) == 0
    await stage.close()
    assert json.loads(path.read_text())["schema"] == "roamkey/agent-sessions"


async def test_a_reply_that_comes_twice_does_not_bring_back_what_home_has_ended(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path)
    node, granted = relayed("192.0.2.9"), delivery(1)
    assert not stage.sessions.was_revoked(node, granted)
    stage.sessions.hand_on(node, granted)
    assert not stage.sessions.was_revoked(node, granted)
    assert stage.sessions.disconnect(asked(1))
    assert stage.sessions.was_revoked(node, granted)
    assert not stage.sessions.was_revoked(node, delivery(2))
    stage.clock.ahead_s += LIFETIME_S + 1
    assert not stage.sessions.was_revoked(node, granted)
    await stage.close()
