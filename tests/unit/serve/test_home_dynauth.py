"""Dynamic authorization from a home: what is sent, and what becomes of each answer and of none."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from aaa.exchange import Peer
from aaa.radius.counters import Counters
from aaa.radius.dynauth import decode_dynamic_request
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    COA_ACK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.serve.home_clients import KnownClients
from aaa.serve.home_dynauth import AT_ONCE, AT_ONCE_OF_REALM, DynamicAuthorization, result_of
from aaa.serve.peer_requests import Patience, PeerRequests
from kdc.store.disconnects import Claimed, DisconnectKind, DisconnectState
from kdc.store.errors import DatabaseUnavailable

VENDOR = 32473
NOW = 1_800_000_000
DUE = Claimed(
    id=7,
    kind=DisconnectKind.DISCONNECT,
    class_id=b"8 octets",
    spis=(4096, 4097),
    realm="visited.example",
    operator_realm="visited.example",
    fa_nai="fa1@visited.example",
    nas_identifier="fa1",
    nas_address=IPv4Address("198.51.100.7"),
    not_after=NOW + 60,
    remaining_s=60.0,
    attempts=1,
)


def _cause(number: int) -> Attributes:
    return ((101, number.to_bytes(4, "big")),)


@dataclass
class Box:
    """An outbox in memory; `fails` calls are unreachable before one succeeds."""

    due: list[Claimed] = field(default_factory=list)
    finished: list[tuple[int, DisconnectState, int | None]] = field(default_factory=list)
    asked_for: list[frozenset[str]] = field(default_factory=list)
    fails: int = 0

    def _check(self) -> None:
        if self.fails:
            self.fails -= 1
            raise DatabaseUnavailable("away")

    async def claim(self, realms: Collection[str], limit: int) -> list[Claimed]:
        self._check()
        self.asked_for.append(frozenset(realms))
        taken = [each for each in self.due if each.realm in realms][:limit]
        self.due = [each for each in self.due if each not in taken]
        return taken

    async def finish(
        self, disconnect_id: int, state: DisconnectState, error_cause: int | None
    ) -> bool:
        self._check()
        self.finished.append((disconnect_id, state, error_cause))
        return True


@dataclass
class Peers:
    """Peers with connections of their own; what they were asked, and what they answer."""

    connected: set[str] = field(default_factory=lambda: {"visited"})
    asked: list[tuple[str, int, Attributes]] = field(default_factory=list)
    answer: tuple[int, Attributes] | Exception = (DISCONNECT_ACK, ())
    held: asyncio.Event | None = None

    def has_connection(self, peer_name: str) -> bool:
        return peer_name in self.connected

    async def exchange(
        self, peer_name: str, code: int, attributes: Attributes, *, deadline_s: float
    ) -> VerifiedResponse:
        self.asked.append((peer_name, code, attributes))
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return VerifiedResponse(self.answer[0], 1, bytes(16), self.answer[1], b"", 0)


@dataclass
class Home:
    box: Box
    peers: Peers
    counters: Counters
    dynauth: DynamicAuthorization

    async def send(self, *due: Claimed) -> list[tuple[int, DisconnectState, int | None]]:
        self.box.due += due
        await self.dynauth.take()
        await self.dynauth.drain()
        return self.box.finished


@pytest.fixture
async def home() -> Any:
    box, peers, counters = Box(), Peers(), Counters()
    known = KnownClients(
        (),
        {
            "elsewhere": Peer("elsewhere", frozenset({"visited.example", "other.example"})),
            "visited": Peer("visited", frozenset({"visited.example"})),
        },
        {},
        {},
    )
    requests = PeerRequests({}, counters, Patience(5, 0.1, 0), connections=peers)
    dynauth = DynamicAuthorization(
        box,
        known,
        requests,
        counters,
        realm="home.example",
        vendor_id=VENDOR,
        clock=lambda: NOW,
    )
    yield Home(box, peers, counters, dynauth)
    dynauth.close()


async def test_what_is_asked_names_the_session_and_no_key(home: Home) -> None:
    assert await home.send(DUE) == [(7, DisconnectState.ACKED, None)]
    ((peer, code, attributes),) = home.peers.asked
    assert (peer, code) == ("visited", DISCONNECT_REQUEST)
    request = decode_dynamic_request(
        VerifiedRequest(code, 1, bytes(16), attributes, b"", 0), VENDOR
    )
    assert (request.realm, request.operator_realm) == ("home.example", "visited.example")
    assert (request.class_id, request.spis) == (b"8 octets", (4096, 4097))
    assert (request.nas_identifier, request.nas_address) == (b"fa1", DUE.nas_address)
    assert request.event_timestamp == NOW
    assert {kind for kind, _ in attributes} == {1, 126, 32, 4, 25, 55, 26}


async def test_only_what_this_node_has_a_way_to_is_taken(home: Home) -> None:
    """The peer of the other realm is connected to another node: the request is that one's."""
    assert await home.send(replace(DUE, realm="other.example")) == []
    assert home.box.asked_for == [{"visited.example"}]
    home.peers.connected.clear()
    await home.send()
    assert home.box.asked_for[-1] == frozenset()
    home.peers.connected.add("elsewhere")
    await home.send()
    assert home.box.asked_for[-1] == {"visited.example", "other.example"}


@pytest.mark.parametrize(
    ("answer", "attempts", "outcome"),
    [
        ((DISCONNECT_NAK, _cause(501)), 1, (7, DisconnectState.NAKED, 501)),
        ((DISCONNECT_NAK, ()), 1, (7, DisconnectState.NAKED, None)),
        ((DISCONNECT_NAK, _cause(503)), 1, (7, DisconnectState.NAKED, 503)),
        ((DISCONNECT_NAK, _cause(503)), 2, (7, DisconnectState.ACKED, 503)),
        ((DISCONNECT_ACK, ((55, (NOW + 300).to_bytes(4, "big")),)), 1,
         (7, DisconnectState.ACKED, None)),
    ],
)  # fmt: skip
async def test_what_an_answer_makes_of_it(
    home: Home,
    answer: tuple[int, Attributes],
    attempts: int,
    outcome: tuple[int, DisconnectState, int | None],
) -> None:
    home.peers.answer = answer
    assert await home.send(replace(DUE, attempts=attempts)) == [outcome]


@pytest.mark.parametrize(
    "answer",
    [
        NoAnswer("silence"),
        (DISCONNECT_NAK, _cause(505)),
        (DISCONNECT_NAK, _cause(506)),
        (DISCONNECT_ACK, ((55, (NOW - 301).to_bytes(4, "big")),)),  # somebody plays an old one
        (DISCONNECT_NAK, ((101, b"\x01"),)),
    ],
)
async def test_what_leaves_it_to_a_later_attempt(
    home: Home, answer: tuple[int, Attributes] | Exception
) -> None:
    """Nothing is written: the lease runs out, and some node goes on."""
    home.peers.answer = answer
    assert await home.send(DUE) == []
    assert len(home.peers.asked) == 1


async def test_the_next_peer_of_a_realm_is_asked_where_one_was_silent(home: Home) -> None:
    home.peers.connected.add("elsewhere")
    for attempts in (1, 2, 3):
        await home.send(replace(DUE, attempts=attempts))
    assert [peer for peer, _, _ in home.peers.asked] == ["elsewhere", "visited", "elsewhere"]


async def test_a_wrong_word_of_accounting_does_not_keep_a_session(home: Home) -> None:
    """The address stands in the registration; the identifier is what somebody has reported."""
    home.peers.answer = (DISCONNECT_NAK, _cause(403))
    assert await home.send(DUE) == [(7, DisconnectState.NAKED, 403)]
    named = [32 in {kind for kind, _ in attributes} for _, _, attributes in home.peers.asked]
    assert named == [True, False]


async def test_nothing_is_sent_after_its_time(home: Home) -> None:
    home.peers.held = asyncio.Event()
    assert await home.send(replace(DUE, remaining_s=0.05)) == []


async def test_a_request_for_a_new_registration(home: Home) -> None:
    home.peers.answer = (COA_ACK, ())
    assert await home.send(replace(DUE, kind=DisconnectKind.COA)) == [
        (7, DisconnectState.ACKED, None)
    ]
    assert home.peers.asked[0][1] == COA_REQUEST


def test_a_session_that_was_gone_before_a_request_for_new_keys_was_not_renewed() -> None:
    from aaa.radius.dynauth import DynamicAnswer

    again = replace(DUE, kind=DisconnectKind.COA, attempts=2)
    assert result_of(DynamicAnswer(False, 503), again) is DisconnectState.NAKED


async def test_a_result_is_kept_when_the_database_is_back_in_time(home: Home) -> None:
    home.box.due.append(DUE)
    await home.dynauth.take()
    home.box.fails = 1
    await home.dynauth.drain()
    assert home.box.finished == [(7, DisconnectState.ACKED, None)]


async def test_what_no_packet_holds_has_failed(home: Home) -> None:
    assert await home.send(replace(DUE, spis=())) == [(7, DisconnectState.FAILED, None)]
    assert not home.peers.asked


async def test_so_many_at_once_and_no_more(home: Home) -> None:
    home.peers.held = asyncio.Event()
    home.box.due += [replace(DUE, id=number) for number in range(AT_ONCE + 3)]
    assert await home.dynauth.take() == AT_ONCE
    assert await home.dynauth.take() == 0
    home.peers.held.set()
    await home.dynauth.drain()
    assert await home.dynauth.take() == 3
    await home.dynauth.drain()
    assert len(home.box.finished) == AT_ONCE + 3


async def test_a_realm_that_is_silent_keeps_no_other_waiting(home: Home) -> None:
    home.peers.connected.add("elsewhere")
    home.peers.held = asyncio.Event()
    home.box.due += [replace(DUE, id=number) for number in range(AT_ONCE_OF_REALM)]
    assert await home.dynauth.take() == AT_ONCE_OF_REALM
    home.box.due += [replace(DUE, id=1000), replace(DUE, id=1001, realm="other.example")]
    assert await home.dynauth.take() == 1
    assert home.box.asked_for[-1] == {"other.example"}
    home.peers.held.set()
    await home.dynauth.drain()
    assert await home.dynauth.take() == 1 and home.box.asked_for[-1] >= {"visited.example"}
    await home.dynauth.drain()


async def test_it_goes_on_when_the_database_is_back(home: Home) -> None:
    home.box.fails, home.box.due = 1, [DUE]
    running = asyncio.create_task(home.dynauth.run())
    try:
        async with asyncio.timeout(5):
            while not home.box.finished:  # noqa: ASYNC110 - another task's work
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
    assert home.box.finished == [(7, DisconnectState.ACKED, None)]
