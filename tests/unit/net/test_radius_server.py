"""Who gets how much of a RADIUS server over UDP, and what is told of it; real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from aaa.net.observing import OLD_SECRET, OVER_LIMIT, UNSIGNED, Hop
from aaa.net.transactions import Transaction
from aaa.net.udp import Datagram, UdpEndpoint
from aaa.radius import counters as names
from aaa.radius.admission import RateLimit, RateLimits
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.duplicates import DuplicateTable
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    STATUS_SERVER,
    Packet,
    decode,
    encode_request,
    verify_response,
)
from aaa.serve.door import LIMITED, Door
from aaa.serve.radius_probe import answers_status
from aaa.serve.radius_server import RadiusServer
from aaa.serve.reject_delay import (
    DELAYED,
    MAXIMUM_DELAYED_OF_CLIENT,
    NOT_DELAYED,
)
from kdc.model import Secret

NEW, OLD = Secret(b"the newer secret of two"), Secret(b"the older secret of two")
DELAY_S = 0.3


@dataclass
class Told:
    """All that an observer is told."""

    on: bool = True
    packets: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    drops: list[tuple[str, str]] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        self.packets.append(f"{what} {octets[0]} {hop.name}")

    def decided(self, client: str, request: Packet, decision: str) -> None:
        self.decisions.append(f"{client} {request.identifier} {decision}")

    def dropped(self, hop: Hop, octets: bytes, why: str) -> None:
        self.drops.append((hop.name or hop.address[0], why))

    def noticed(self, what: str, client: str) -> None:
        self.notices.append((what, client))


class Stage:
    """A server whose every request is in `taken`, before a door; a client at 127.0.0.1."""

    def __init__(self, *, delay_s: float = 0.0, rate: RateLimit | None = None) -> None:
        self.now = 1000.0
        self.told, self.counters = Told(), Counters()
        self.taken: list[Transaction] = []
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        network = ipaddress.ip_network
        clients = ClientTable(
            [
                Client("hub", network("127.0.0.1/32"), (NEW, OLD)),
                Client("old", network("127.0.0.2/32"), (NEW,), require_message_authenticator=False),
            ]
        )
        self.door = Door(
            self.counters,
            limits=RateLimits({"hub": rate} if rate else {}),
            reject_delay_s=delay_s,
            observer=self.told,
            monotonic=lambda: self.now,
        )
        self.server = RadiusServer(
            clients,
            self.counters,
            lambda batch: self.taken.extend(self.door.admit(batch)),
            observer=self.told,
            monotonic=lambda: self.now,
        )
        self.address = self.server.listen(("127.0.0.1", 0)).address
        self.ends: list[UdpEndpoint] = []
        self.client = self.end("127.0.0.1")

    def end(self, host: str) -> UdpEndpoint:
        end = UdpEndpoint.open((host, 0), self._on_batch)
        self.ends.append(end)
        return end

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, _ in batch:
            self.heard.put_nowait(octets)

    async def send(self, *packets: bytes, end: UdpEndpoint | None = None) -> None:
        (end or self.client).send_many([(octets, self.address) for octets in packets])
        # The server has them when it answers what comes behind them.
        await self.status()

    async def status(self) -> None:
        secret = NEW.reveal()
        assert await answers_status(self.address, secret, timeout_s=5, source="127.0.0.1")

    async def hear(self) -> bytes:
        return await asyncio.wait_for(self.heard.get(), 5)


def request(
    identifier: int, *, code: int = ACCESS_REQUEST, secret: Secret = NEW, filler: int = 1
) -> bytes:
    authenticator = bytes([filler]) * 16
    return encode_request(code, identifier, authenticator, ((1, b"@home.example"),), secret)


@contextlib.asynccontextmanager
async def _stage(**given: object) -> AsyncIterator[Stage]:
    stage = Stage(**given)  # type: ignore[arg-type]
    try:
        yield stage
    finally:
        stage.door.close()
        stage.server.close()
        for end in stage.ends:
            end.close()


async def test_over_the_limit_is_dropped_counted_and_judged_anew() -> None:
    async with _stage(rate=RateLimit(1, 2)) as stage:
        await stage.send(*(request(number) for number in range(5)))
        assert [each.request.identifier for each in stage.taken] == [0, 1]
        assert stage.counters[LIMITED] == 3
        assert stage.told.notices == [(OVER_LIMIT, "hub")] * 3
        assert stage.heard.empty()
        stage.now += 1.0
        await stage.send(request(4))  # the retransmission of one that was dropped
        assert [each.request.identifier for each in stage.taken] == [0, 1, 4]
        assert stage.server.duplicates.in_progress == 3


async def test_forged_requests_and_retransmissions_spend_nothing() -> None:
    async with _stage(rate=RateLimit(1, 2)) as stage:
        forged = [request(n, secret=Secret(b"sixteen or more octets")) for n in range(50)]
        await stage.send(*forged, b"", b"\x01\x02", request(9)[:-1])
        assert stage.counters[names.BAD_AUTHENTICATOR] == 50
        assert stage.counters[names.MALFORMED] == 3
        await stage.send(request(1), *[request(1)] * 20)
        assert stage.counters[names.DUPLICATE_IN_PROGRESS] == 20
        await stage.send(request(2))
        assert [each.request.identifier for each in stage.taken] == [1, 2]
        assert stage.counters[LIMITED] == 0


async def test_status_server_is_answered_over_the_limit_and_with_a_full_table() -> None:
    async with _stage(rate=RateLimit(1, 1)) as stage:
        stage.server.duplicates = DuplicateTable(maximum_entries=1)
        await stage.send(*(request(number) for number in range(9)))  # each `send` asks for status
        assert stage.counters[names.OVERLOAD] + stage.counters[LIMITED] == 8
        answers = []
        for _ in range(2):
            stage.client.send_many([(request(77, code=STATUS_SERVER), stage.address)])
            answers.append(await stage.hear())
        assert answers[0] == answers[1], "the same question has the same answer"
        assert len(stage.server.duplicates) == 1


async def test_what_is_dropped_is_told_with_who_and_why() -> None:
    async with _stage() as stage:
        stranger = stage.end("127.0.0.9")
        await stage.send(b"anything", end=stranger)
        await stage.send(b"anything")
        await stage.send(request(1, secret=Secret(b"sixteen or more octets")))
        await stage.send(request(1, code=ACCOUNTING_REQUEST))
        assert stage.told.drops == [
            ("127.0.0.9", names.UNKNOWN_CLIENT),
            ("hub", names.MALFORMED),
            ("hub", names.BAD_AUTHENTICATOR),
            ("hub", names.UNSUPPORTED),
        ]
        assert not stage.taken


async def test_both_secrets_of_a_rotation_and_the_answer_under_the_one_that_was_used() -> None:
    async with _stage() as stage:
        await stage.send(request(1), request(2, secret=OLD))
        assert stage.told.notices == [(OLD_SECRET, "hub")]
        for transaction, secret in zip(stage.taken, (NEW, OLD), strict=True):
            transaction.respond(ACCESS_ACCEPT, ())
            answer = decode(await stage.hear())
            verify_response(answer, transaction.request.authenticator, secret)


def _unsigned(identifier: int, *, proxied: bool = False) -> bytes:
    body = b"\x01\x03@" + (b"\x21\x03s" if proxied else b"")
    return bytes((1, identifier, 0, 20 + len(body))) + bytes(16) + body


async def test_the_exception_of_message_authenticator_is_told_and_proxy_state_has_none() -> None:
    async with _stage() as stage:
        old = stage.end("127.0.0.2")
        await stage.send(_unsigned(1), _unsigned(2), _unsigned(3, proxied=True), end=old)
        await stage.send(_unsigned(1))
        assert [each.request.identifier for each in stage.taken] == [1, 2]
        assert stage.told.notices == [(UNSIGNED, "old")] * 2
        assert stage.told.drops == [
            ("old", names.BAD_AUTHENTICATOR),
            ("hub", names.MALFORMED),
        ]


async def test_a_refusal_waits_in_progress_and_is_then_an_answer_like_any_other() -> None:
    async with _stage(delay_s=DELAY_S) as stage:
        await stage.send(request(1))
        started = time.monotonic()
        stage.door.reject(stage.taken[0], ())
        await stage.send(request(1), request(1))
        assert stage.heard.empty()
        assert stage.counters[names.DUPLICATE_IN_PROGRESS] == 2
        answer = await stage.hear()
        assert time.monotonic() - started >= DELAY_S * 0.95
        assert answer[0] == ACCESS_REJECT
        await stage.send(request(1))
        assert await stage.hear() == answer
        assert stage.counters[names.DUPLICATE_ANSWERED] == 1
        assert (stage.counters[DELAYED], stage.counters[names.REJECTS]) == (1, 1)
        await asyncio.sleep(DELAY_S)
        assert stage.heard.empty()


async def test_each_refusal_waits_its_own_time_and_other_answers_do_not_wait() -> None:
    async with _stage(delay_s=DELAY_S) as stage:
        await stage.send(*(request(number) for number in range(3)))
        first, second, third = stage.taken
        stage.door.reject(first, ())
        third.respond(ACCESS_ACCEPT, ())
        assert (await stage.hear())[0:2] == bytes((ACCESS_ACCEPT, 2))
        await asyncio.sleep(DELAY_S / 2)
        stage.door.reject(second, ())
        assert (await stage.hear())[0:2] == bytes((ACCESS_REJECT, 0))
        assert stage.heard.empty()
        assert (await stage.hear())[0:2] == bytes((ACCESS_REJECT, 1))


async def test_more_refusals_of_a_client_than_are_held_back_leave_at_once() -> None:
    async with _stage(delay_s=60.0) as stage:
        await stage.send(*(request(n) for n in range(MAXIMUM_DELAYED_OF_CLIENT + 5)))
        for transaction in stage.taken:
            stage.door.reject(transaction, ())
        at_once = [(await stage.hear())[1] for _ in range(5)]
        assert at_once == [MAXIMUM_DELAYED_OF_CLIENT + n for n in range(5)]
        assert stage.counters[NOT_DELAYED] == 5
        stage.door.close()  # at the end of the process
        rest = [(await stage.hear())[1] for _ in range(MAXIMUM_DELAYED_OF_CLIENT)]
        assert rest == list(range(MAXIMUM_DELAYED_OF_CLIENT))


async def test_after_the_end_nothing_waits() -> None:
    async with _stage(delay_s=60.0) as stage:
        await stage.send(request(1))
        stage.door.close()
        stage.door.reject(stage.taken[0], ())
        assert (await stage.hear())[0] == ACCESS_REJECT


async def test_a_client_that_has_moved_on_gets_no_refusal_of_its_old_request() -> None:
    async with _stage(delay_s=DELAY_S) as stage:
        await stage.send(request(1))
        stage.door.reject(stage.taken[0], ())
        await stage.send(request(1, filler=2))
        await asyncio.sleep(DELAY_S * 1.5)
        assert stage.heard.empty()
        assert stage.counters[names.ABANDONED] == 1
        assert stage.server.duplicates.in_progress == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
async def test_a_refusal_that_does_not_fit_says_less(delay_s: float) -> None:
    """A request full of Proxy-States leaves no room for an Error-Cause; no batch breaks by it."""
    async with _stage(delay_s=delay_s) as stage:
        # 4,096 less 20, 18 and what one more attribute would take.
        states = (*((33, b"s" * 253) for _ in range(15)), (33, b"s" * 228))
        full = encode_request(ACCESS_REQUEST, 1, bytes(16), states, NEW)
        assert len(full) > 4096 - 6
        await stage.send(full)
        stage.door.reject(stage.taken[0], ((101, (502).to_bytes(4, "big")),))
        answer = decode(await stage.hear())
        assert answer.code == ACCESS_REJECT
        assert {kind for kind, _ in answer.attributes} == {80, 33}


async def test_the_trace_has_each_packet_and_nothing_while_it_is_off() -> None:
    async with _stage() as stage:
        stage.client.send_many([(request(1), stage.address)] * 2)
        await stage.status()
        stage.taken[0].respond(ACCESS_ACCEPT, ())
        await stage.hear()
        stage.client.send_many([(request(1), stage.address)])
        await stage.hear()
        assert [line for line in stage.told.packets if " 12 " not in line] == [
            "received 1 hub",
            "received again, in progress: dropped 1 hub",
            "sent 2 hub",  # to Status-Server
            "sent 2 hub",
            "received again, answered before 1 hub",
            "sent again 2 hub",
        ]
        stage.told.on, stage.told.packets = False, []
        await stage.send(request(2))
        assert stage.told.packets == [] == stage.told.decisions
