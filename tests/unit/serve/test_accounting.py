"""Records on their way to a real server over loopback that is slow, silent or away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.accounting import AccountingRequest, decode_accounting_request
from aaa.radius.counters import Counters
from aaa.radius.packet import (
    ACCOUNTING_RESPONSE,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.serve.accounting import ANSWERED, LOST, UNDER_WAY, Accounting
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Secret
from tests.integration.agent_requests import AccountingServer

SECRET = Secret(b"a secret of sixteen octets")
START = AccountingRequest(
    status=AccountingStatus.START, session_id=b"s1", nas_identifier=b"fa1", event_timestamp=1000
)
ON = replace(START, status=AccountingStatus.ACCOUNTING_ON, session_id=b"on")
OFF = replace(START, status=AccountingStatus.ACCOUNTING_OFF, session_id=b"off")
STOP = replace(START, status=AccountingStatus.STOP)
INTERIM = replace(START, status=AccountingStatus.INTERIM_UPDATE)


class Client:
    """`Accounting` over our RADIUS client, and its counters."""

    def __init__(self, server: AccountingServer, *, retries: int = 0) -> None:
        self.counters = Counters()
        self.radius = RadiusClient(self.counters)
        self._to = Server(server.address, 0.1, retries)

    def accounting(self, **others: float) -> Accounting:
        return Accounting(
            self.exchange,
            DEFAULT_VENDOR_ID,
            self.counters,
            shortest_pause_s=0.05,
            **others,  # type: ignore[arg-type]
        )

    async def exchange(self, code: int, attributes: Attributes) -> VerifiedResponse:
        return await self.radius.exchange(code, attributes, SECRET, self._to)


@pytest.fixture
async def server() -> AsyncIterator[AccountingServer]:
    running = AccountingServer(SECRET)
    yield running
    running.close()


@pytest.fixture
async def client(server: AccountingServer) -> AsyncIterator[Client]:
    running = Client(server)
    yield running
    running.radius.close()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - counters of the real parts, which tell no event
            await asyncio.sleep(0.01)


async def test_nothing_overtakes_accounting_on(server: AccountingServer, client: Client) -> None:
    server.answering = False
    accounting = client.accounting()
    accounting.begin(ON)
    accounting.submit(START)
    await until(lambda: server.heard >= 2)
    server.answering = True
    assert (await server.take(AccountingStatus.ACCOUNTING_ON)).session_id == b"on"
    assert (await server.take(AccountingStatus.START)).session_id == b"s1"
    await accounting.close(OFF, within_s=5)
    await server.take(AccountingStatus.ACCOUNTING_OFF)
    assert client.counters[ANSWERED] == 3
    assert client.counters[LOST] == 0


async def test_a_record_is_given_up_and_the_next_one_is_not(
    server: AccountingServer, client: Client
) -> None:
    server.answering = False
    accounting = client.accounting(give_up_after_s=0.4)
    with capture_logs() as logs:
        accounting.submit(START)
        await until(lambda: client.counters[LOST] == 1)
        server.answering = True
        accounting.submit(STOP)
        await server.take(AccountingStatus.STOP)
        await until(lambda: client.counters[ANSWERED] == 1)
    said = [(item["event"], item.get("lost")) for item in logs]
    assert said == [("accounting server silent", None), ("accounting goes on", 1)]
    await accounting.close(OFF, within_s=5)


async def test_what_waits_is_bounded_and_interim_updates_go_first(
    server: AccountingServer, client: Client
) -> None:
    server.answering = False
    accounting = client.accounting(maximum_waiting=10)
    accounting.begin(ON)  # holds all the others back
    for n in range(12):
        accounting.submit(replace(STOP, session_id=b"%d" % n))
    accounting.submit(INTERIM)
    assert client.counters[LOST] == 3
    server.answering = True
    await server.take(AccountingStatus.ACCOUNTING_ON)
    stops = {(await server.take(AccountingStatus.STOP)).session_id for _ in range(10)}
    assert stops == {b"%d" % n for n in range(2, 12)}
    await accounting.close(OFF, within_s=5)


async def test_a_home_that_does_not_answer_holds_up_no_other() -> None:
    """Neither while its records are under way, nor by what of them waits."""
    answered: list[bytes | None] = []
    released = asyncio.Event()

    async def exchange(code: int, attributes: Attributes) -> VerifiedResponse:
        request = VerifiedRequest(code, 1, bytes(16), attributes, b"", 0)
        record = decode_accounting_request(request, DEFAULT_VENDOR_ID)
        if record.user_name == b"m-1@silent.example":
            await released.wait()
        answered.append(record.session_id)
        return VerifiedResponse(ACCOUNTING_RESPONSE, 1, bytes(16), (), b"", 0)

    counters = Counters()
    accounting = Accounting(exchange, DEFAULT_VENDOR_ID, counters, maximum_waiting=200)
    for n in range(300):
        silent = replace(STOP, user_name=b"m-1@silent.example", session_id=b"%d" % n)
        accounting.submit(silent)
        if n == 0:
            await asyncio.sleep(0)
    others = [b"other %d" % n for n in range(100)]
    for name in others:
        accounting.submit(replace(STOP, user_name=b"m-2@other.example", session_id=name))
    async with asyncio.timeout(5):
        while len(answered) < len(others):  # noqa: ASYNC110 - another task's work
            await asyncio.sleep(0)
    assert set(answered) == set(others)
    released.set()
    await accounting.close(OFF, within_s=5)
    assert counters[LOST] + counters[ANSWERED] == 401 and counters[LOST] >= 100
    assert not accounting._tasks


async def test_a_thousand_records_and_no_task_left(
    server: AccountingServer, client: Client
) -> None:
    accounting = client.accounting()
    for n in range(1000):
        accounting.submit(replace(STOP, session_id=b"%d" % n))
    assert len(accounting._tasks) <= UNDER_WAY
    await accounting.close(OFF, within_s=20)
    assert {server.records.get_nowait().session_id for _ in range(1000)} == {
        b"%d" % n for n in range(1000)
    }
    await server.take(AccountingStatus.ACCOUNTING_OFF)


async def test_the_end_does_not_wait_for_a_server_that_is_away(
    server: AccountingServer, client: Client
) -> None:
    server.answering = False
    accounting = client.accounting()
    accounting.begin(ON)
    accounting.submit(STOP)
    with capture_logs() as logs:
        async with asyncio.timeout(2):
            await accounting.close(OFF, within_s=0.3)
    assert not accounting._tasks
    assert client.counters[LOST] == 3  # On, Stop and Off
    assert logs[-1]["event"] == "accounting lost at the end"


async def test_what_no_packet_holds_is_lost_alone(server: AccountingServer, client: Client) -> None:
    accounting = client.accounting()
    accounting.submit(replace(START, session_id=b"x" * 254))
    accounting.submit(STOP)
    await server.take(AccountingStatus.STOP)
    await accounting.close(OFF, within_s=5)
    assert client.counters[LOST] == 1
