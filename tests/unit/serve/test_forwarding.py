"""What a proxy has under way: who may have how much of it, and what comes of no room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from aaa.exchange import Peer
from aaa.proxying import Attributes, Forward, Route
from aaa.radius.counters import Counters
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    PROXY_STATE,
    RESPONSES_TO,
    VerifiedResponse,
)
from aaa.radius.pools import HealthPolicy, Pool, Strategy
from aaa.serve.foreign_accounting import AccountingProxy
from aaa.serve.forwarding import MAXIMUM_UNDER_WAY, Forwarder
from aaa.serve.pools import TimedPool, open_pools
from kdc.errors import Unavailable
from tests.unit.serve.transactions import Asked, asked

STATE = b"proxy's"
FORWARD = Forward("homes", ((1, b"@home.example"), (PROXY_STATE, STATE)), (STATE,))
UNWATCHED = HealthPolicy(status_server=False)


@dataclass
class Home:
    """A server that answers once it is let, or has no room."""

    held: asyncio.Event = field(default_factory=asyncio.Event)
    full: bool = False
    asked: int = 0

    async def exchange(
        self, code: int, attributes: Attributes, *, deadline_s: float | None = None
    ) -> VerifiedResponse:
        if self.full:
            raise Unavailable("too many requests outstanding")
        self.asked += 1
        await self.held.wait()
        states = tuple(each for each in attributes if each[0] == PROXY_STATE)
        return VerifiedResponse(min(RESPONSES_TO[code]), 1, bytes(16), states, b"", 0)


@asynccontextmanager
async def _forwarder(
    strategy: Strategy = Strategy.FAILOVER, **homes: Home
) -> AsyncIterator[tuple[Forwarder, Counters]]:
    counters = Counters()
    names = tuple(name.replace("_", "/") for name in homes)
    hops = {name: (home, UNWATCHED) for name, home in zip(names, homes.values(), strict=True)}
    forwarder = Forwarder(
        open_pools(hops, [TimedPool(Pool("homes", names, strategy))], counters), counters, "foreign"
    )
    try:
        yield forwarder, counters
    finally:
        for home in homes.values():
            home.held.set()
        await forwarder.drain()
        forwarder.close()


def _requests(count: int, client: str, code: int = ACCESS_REQUEST) -> list[Asked]:
    return [asked(client, code, ((1, b"@home.example"),)) for _ in range(count)]


async def test_a_client_that_nobody_answers_leaves_the_way_to_the_others() -> None:
    home = Home()
    async with _forwarder(home=home) as (forwarder, counters):
        flood, others = _requests(MAXIMUM_UNDER_WAY + 5, "one"), _requests(5, "two")
        for each in (*flood, *others):
            forwarder.start(each, FORWARD)
        assert [each.answers for each in flood if each.answers] == [[(ACCESS_REJECT, ())]] * 5
        assert counters["foreign.shed"] == 5
        home.held.set()
        await forwarder.drain()
        assert [each.answers for each in others] == [[(ACCESS_ACCEPT, ())]] * 5
        (again,) = _requests(1, "one")
        forwarder.start(again, FORWARD)
        await forwarder.drain()
        assert again.answers == [(ACCESS_ACCEPT, ())]


@pytest.mark.parametrize(
    ("code", "answers", "forgotten"),
    [(ACCESS_REQUEST, [(ACCESS_REJECT, ())], 0), (ACCOUNTING_REQUEST, [], 1)],
)
async def test_where_no_server_has_room_it_is_refused_at_once(
    code: int, answers: list[tuple[int, Attributes]], forgotten: int
) -> None:
    async with _forwarder(home=Home(full=True)) as (forwarder, counters):
        (request,) = _requests(1, "one", code)
        forwarder.start(request, FORWARD)
        await forwarder.drain()
        assert (request.answers, request.forgotten) == (answers, forgotten)
        assert counters["foreign.shed"] == 1 and counters["foreign.no_answer"] == 0


def _accounting(forwarder: Forwarder) -> AccountingProxy:
    return AccountingProxy(
        {"hub": Peer("hub", frozenset())},
        lambda _realm: Route("homes", ("hub", "home")),
        (),
        forwarder,
        realm="visited.example",
        vendor_id=32473,
    )


def _report(user: bytes) -> Asked:
    attributes = ((1, user + b"@home.example"), (32, b"nas"), (40, (1).to_bytes(4, "big")))
    return asked("hub", ACCOUNTING_REQUEST, attributes)


async def test_accounting_never_goes_back_to_the_proxy_that_it_came_from() -> None:
    hub, home = Home(), Home()
    hub.held.set()
    home.held.set()
    async with _forwarder(hub_accounting=hub, home_accounting=home) as (forwarder, _):
        proxy, report = _accounting(forwarder), _report(b"m")
        proxy.on_requests([report])
        await proxy.drain()
        assert (hub.asked, home.asked) == (0, 1)
        assert report.answers == [(ACCOUNTING_RESPONSE, ())]


async def test_accounting_is_balanced_by_its_user() -> None:
    one, two = Home(), Home()
    one.held.set()
    two.held.set()
    async with _forwarder(Strategy.CONSISTENT_HASH, one=one, two=two) as (forwarder, _):
        proxy = _accounting(forwarder)
        proxy.on_requests([_report(b"m%d" % number) for number in range(60)])
        await proxy.drain()
        assert one.asked and two.asked
        one.asked = two.asked = 0
        proxy.on_requests([_report(b"m") for _ in range(20)])
        await proxy.drain()
        assert {one.asked, two.asked} == {0, 20}
