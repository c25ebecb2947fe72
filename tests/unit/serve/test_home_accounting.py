"""Accounting at a home: what is stored, what is answered, and what is neither."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest

from aaa.exchange import Peer
from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE
from aaa.serve.home_accounting import DROPPED, MAXIMUM_WAITING, RECORDED, HomeAccounting
from kdc.accounting import AccountingRecord, AccountingStatus
from kdc.store.accounting import Recorded
from kdc.store.errors import CommitUnknown, DatabaseUnavailable
from tests.unit.serve.transactions import Asked, asked

VENDOR = 32473
REPORT = AccountingRequest(
    status=AccountingStatus.INTERIM_UPDATE,
    session_id=b"session\x00\xff",
    nas_identifier=b"fa1",
    nas_address=IPv4Address("198.51.100.7"),
    user_name=b"m-0123456789abcdef@home.example",
    classes=(b"of a proxy", b"8 octets"),
    spis=(4096, 4097),
    fa_nai=b"fa1@visited.example",
    operator_name=b"1Visited.example",
    delay_time_s=5,
    session_time_s=60,
    input_octets=2**32 + 1,
    output_octets=7,
    terminate_cause=6,
)
NOW = 1_800_000_000.0


@dataclass
class Database:
    """Keeps what it is given; `fails` is raised instead, `held` until it is set."""

    kept: list[AccountingRecord] = field(default_factory=list)
    fails: Exception | None = None
    results: list[Recorded] | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def record(self, batch: Sequence[AccountingRecord]) -> list[Recorded]:
        await self.held.wait()
        if self.fails is not None:
            raise self.fails
        self.kept += batch
        return self.results or [Recorded.RECORDED] * len(batch)


@dataclass
class Home:
    database: Database
    counters: Counters
    accounting: HomeAccounting

    def take(self, *reports: AccountingRequest, client: str = "visited") -> list[Asked]:
        requests = [
            asked(client, ACCOUNTING_REQUEST, encode_accounting_request(each, VENDOR))
            for each in reports
        ]
        self.accounting.on_requests(list(requests))
        return requests


@pytest.fixture
def home() -> Home:
    database, counters = Database(), Counters()
    peers = {"visited": Peer("visited", frozenset({"visited.example"}))}
    return Home(
        database,
        counters,
        HomeAccounting(
            database.record,
            peers,
            counters,
            realm="home.example",
            vendor_id=VENDOR,
            clock=lambda: NOW,
        ),
    )


async def test_stored_first_and_answered_then(home: Home) -> None:
    (request,) = home.take(REPORT)
    await asyncio.sleep(0.01)
    assert not request.answers, "answered before it was stored"
    home.database.held.set()
    await home.accounting.drain()
    assert request.answers == [(ACCOUNTING_RESPONSE, ())]
    assert home.counters.snapshot()[RECORDED] == 1
    (record,) = home.database.kept
    assert record == AccountingRecord(
        peer="visited",
        status=AccountingStatus.INTERIM_UPDATE,
        event_time=NOW - 5,
        session_id="session\\x00\\xff",
        nas_identifier="fa1",
        nas_address=IPv4Address("198.51.100.7"),
        class_id=b"8 octets",  # ours among those of others
        spis=(4096, 4097),
        user_name="m-0123456789abcdef@home.example",
        operator_realm="visited.example",
        fa_nai="fa1@visited.example",
        session_time_s=60,
        input_octets=2**32 + 1,
        output_octets=7,
        terminate_cause=6,
    )


async def test_any_class_is_kept_as_it_is(home: Home) -> None:
    home.database.held.set()
    home.take(replace(REPORT, classes=(b"somebody's",)), replace(REPORT, classes=()))
    await home.accounting.drain()
    assert [record.class_id for record in home.database.kept] == [b"somebody's", None]


async def test_one_batch_for_what_came_together_and_each_gets_its_own_result(home: Home) -> None:
    home.database.results = [Recorded.RECORDED, Recorded.REFUSED, Recorded.RECORDED]
    home.database.held.set()
    requests = home.take(REPORT, REPORT, REPORT)
    await home.accounting.drain()
    assert [len(each.answers) for each in requests] == [1, 0, 1]
    assert requests[1].forgotten == 1
    assert home.counters.snapshot()[f"{DROPPED}.refused"] == 1


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), CommitUnknown("perhaps")])
async def test_what_is_not_known_to_be_stored_is_not_answered(home: Home, error: Exception) -> None:
    home.database.fails = error
    home.database.held.set()
    requests = home.take(REPORT, REPORT)
    await home.accounting.drain()
    assert all(each.forgotten == 1 for each in requests)
    assert home.counters.snapshot()[f"{DROPPED}.database"] == 2
    home.database.fails = None  # it is back, and the client has sent again
    (again,) = home.take(REPORT)
    await home.accounting.drain()
    assert len(again.answers) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operator_name": b"1other.example"}, "operator_realm"),
        ({"operator_name": b"0visited.example"}, "operator_realm"),
        ({"fa_nai": b"fa1@other.example"}, "fa_realm"),
        ({"fa_nai": b"fa1@OTHER.example"}, "fa_realm"),
        ({"fa_nai": b"fa1"}, "fa_realm"),
        ({"fa_nai": b"fa1@other.example."}, "fa_realm"),
        # No NAI, and so no realm: what looks like another's name must not be stored as one.
        ({"fa_nai": b"fa1@other.example\xff"}, "malformed"),
        ({"user_name": b"somebody@other.example"}, "user_realm"),
    ],
)
async def test_a_peer_reports_only_of_realms_that_are_its_own(
    home: Home, change: dict[str, bytes], reason: str
) -> None:
    home.database.held.set()
    (request,) = home.take(replace(REPORT, **change))  # type: ignore[arg-type]
    await home.accounting.drain()
    assert request.forgotten == 1 and not home.database.kept
    assert home.counters.snapshot()[f"{DROPPED}.{reason}"] == 1


async def test_a_nas_without_roamkey_says_little_and_is_stored(home: Home) -> None:
    home.database.held.set()
    bare = AccountingRequest(
        status=AccountingStatus.START, session_id=b"1", nas_identifier=b"nas", user_name=b"bob"
    )
    (request,) = home.take(bare)
    await home.accounting.drain()
    assert len(request.answers) == 1
    assert home.database.kept[0].operator_realm is None


async def test_malformed_is_dropped_and_counted(home: Home) -> None:
    home.database.held.set()
    request = asked("visited", ACCOUNTING_REQUEST, ((40, bytes(4)), (44, b"1"), (32, b"nas")))
    home.accounting.on_requests([request])
    await home.accounting.drain()
    assert request.forgotten == 1 and not home.database.kept
    assert home.counters.snapshot()[f"{DROPPED}.malformed"] == 1


async def test_memory_is_bounded_while_the_database_hangs(home: Home) -> None:
    requests = home.take(*[REPORT] * (MAXIMUM_WAITING + 512 + 10))
    await asyncio.sleep(0)
    more = home.take(*[REPORT] * 1000)
    dropped = sum(each.forgotten for each in (*requests, *more))
    assert dropped > 0
    assert home.counters.snapshot()[f"{DROPPED}.overload"] == dropped
    home.database.held.set()
    await home.accounting.drain()
    assert all(each.answers or each.forgotten for each in (*requests, *more))


async def test_a_peer_that_sends_too_much_is_dropped_and_the_others_are_stored(home: Home) -> None:
    home.accounting.peers = {
        name: Peer(name, frozenset({"visited.example"})) for name in ("visited", "quiet")
    }
    home.take(*[REPORT] * (MAXIMUM_WAITING + 2000))
    await asyncio.sleep(0)
    quiet = home.take(*[REPORT] * 20, client="quiet")
    assert not any(each.forgotten for each in quiet)
    assert all(each.forgotten for each in home.take(*[REPORT] * 20))
    home.database.held.set()
    await home.accounting.drain()
    assert all(each.answers for each in quiet)
    # Behind the two batches that were under way, and before all of the other that waited.
    assert [each.peer for each in home.database.kept[512:768]].count("quiet") == 20
