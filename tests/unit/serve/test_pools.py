"""Running pools over real sockets: failover in time, probes, death and coming back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest
from structlog.testing import capture_logs

from aaa.net.radius_client import Server
from aaa.net.transactions import Transaction
from aaa.net.udp import Address, UdpEndpoint
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import CLIENT_RETRANSMITTED, STATUS_SERVER, Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_REQUEST, VerifiedResponse
from aaa.radius.pools import HealthPolicy, Pool, State, Strategy, rank
from aaa.serve.pools import NextHop, Pools, TimedPool, open_pools
from aaa.serve.radius_server import RadiusServer
from kdc.errors import LocalError, Unavailable
from kdc.model import Secret
from tests.unit.serve.outlet import until

SECRET = Secret(b"sixteen octets!!")
WATCHED = HealthPolicy(probe_timeout_s=0.4)  # asked when suspect, else after half a minute
UNWATCHED = HealthPolicy(status_server=False, probe_timeout_s=0.2, revive_after_s=0.5)
DEADLINE_S = 1.5


@dataclass
class Home:
    """One of our RADIUS servers on loopback, that can be killed and started at its address."""

    name: str
    code: int = ACCESS_ACCEPT
    delay_s: float = 0.0  # of an answer
    counters: Counters = field(default_factory=Counters)
    served: list[bytes] = field(default_factory=list)  # User-Names, as they came
    address: Address = ("127.0.0.1", 0)
    silent: bool = False  # to requests; Status-Server is answered
    server: RadiusServer | None = None

    def start(self) -> None:
        clients = ClientTable([Client("proxy", ip_network("127.0.0.0/8"), (SECRET,))])
        self.server = RadiusServer(clients, self.counters, self._on_requests)
        self.address = self.server.listen(self.address).address

    def kill(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            user = next(v for k, v in transaction.request.attributes if k == 1)
            self.served.append(user)
            if not self.silent:
                asyncio.get_running_loop().call_later(self.delay_s, self._answer, transaction, user)

    def _answer(self, transaction: Transaction, user: bytes) -> None:
        transaction.respond(self.code, ((1, user), (18, self.name.encode())))


@dataclass
class World:
    homes: dict[str, Home]
    pools: Pools
    counters: Counters

    async def ask(
        self, user: bytes = b"@home.example", key: bytes = b"", avoid: str = ""
    ) -> VerifiedResponse:
        return await self.pools.exchange(
            "homes",
            ACCESS_REQUEST,
            ((1, user), (33, b"proxy's")),
            key=key,
            avoid=frozenset(avoid.split()),
        )

    async def served_by(self, **request: bytes) -> str:
        response = await self.ask(**request)  # type: ignore[arg-type]
        return next(v for k, v in response.attributes if k == 18).decode()

    async def sees(self, name: str, *states: State) -> None:
        await until(lambda: self.pools.servers[name].state in states)


@asynccontextmanager
async def world(
    *homes: Home,
    policy: HealthPolicy = WATCHED,
    strategy: Strategy = Strategy.FAILOVER,
    deadline_s: float = DEADLINE_S,
    timeout_s: float = 0.4,
) -> AsyncIterator[World]:
    for home in homes:
        home.start()
    hops = {h.name: (NextHop(Server(h.address, timeout_s, 2), SECRET), policy) for h in homes}
    counters = Counters()
    pool = TimedPool(Pool("homes", tuple(hops), strategy), deadline_s)
    pools = open_pools(hops, [pool], counters)
    try:
        yield World({home.name: home for home in homes}, pools, counters)
    finally:
        pools.close()
        for home in homes:
            home.kill()
        await asyncio.sleep(0)  # probes that were cancelled


async def test_the_first_one_serves_and_the_others_are_only_probed() -> None:
    often = HealthPolicy(probe_interval_s=0.5)
    async with world(Home("one"), Home("two"), policy=often) as it:
        assert {await it.served_by() for _ in range(20)} == {"one"}
        await until(lambda: it.homes["two"].counters[STATUS_SERVER] > 1)
        assert not it.homes["two"].served
        assert it.counters.snapshot().get("server.two.suspect") is None


async def test_killed_the_next_one_takes_over_and_none_is_lost() -> None:
    """Whether one is waited for is seen where it was, not by the clock of a busy machine."""
    async with world(Home("one"), Home("two"), deadline_s=12) as it:
        assert await it.served_by() == "one"
        it.homes["one"].kill()
        users = [str(number).encode() for number in range(200)]
        answers = await asyncio.gather(*(it.ask(user=user) for user in users))
        assert [a.attributes[1] for a in answers] == [(1, user) for user in users]
        await it.sees("one", State.DEAD)
        heard: list[bytes] = []
        grave = UdpEndpoint.open(
            it.homes["one"].address, lambda batch: heard.extend(octets for octets, _ in batch)
        )
        try:
            assert {await it.served_by() for _ in range(20)} == {"two"}
        finally:
            grave.close()
        assert ACCESS_REQUEST not in {octets[0] for octets in heard}


async def test_it_is_revived_without_a_restart_and_told_once_for_each_change() -> None:
    with capture_logs() as logged:
        async with world(Home("one"), Home("two")) as it:
            one = it.homes["one"]
            one.kill()
            assert await it.served_by() == "two"
            await it.sees("one", State.DEAD)
            one.start()
            await it.sees("one", State.REVIVING)
            assert await it.served_by() == "two"
            assert not one.served  # not before it has answered three times
            await it.sees("one", State.ALIVE)
            assert one.counters[STATUS_SERVER] >= 3
            assert await it.served_by() == "one"
    told = [(line["was"], line["now"]) for line in logged if line["event"] == "server"]
    assert told == [
        ("alive", "suspect"), ("suspect", "dead"), ("dead", "reviving"), ("reviving", "alive")
    ]  # fmt: skip
    assert all(line["server"] == "one" for line in logged if line["event"] == "server")
    counted = {k: v for k, v in it.counters.snapshot().items() if k.startswith("server.")}
    assert counted == {f"server.one.{state.value}": 1 for state in State}


async def test_one_that_rejects_everything_stays_alive() -> None:
    async with world(Home("one", ACCESS_REJECT), Home("two")) as it:
        for _ in range(50):
            assert (await it.ask()).code == ACCESS_REJECT
        assert it.pools.servers["one"].state is State.ALIVE
        assert not it.homes["two"].served
        assert "server.one.suspect" not in it.counters.snapshot()


async def test_one_behind_which_a_realm_is_silent_is_never_dead() -> None:
    async with world(Home("one", silent=True), Home("two", silent=True)) as it:
        for _ in range(3):
            with pytest.raises(NoAnswer):
                await it.ask()
        await it.sees("one", State.ALIVE)
        assert "server.one.dead" not in it.counters.snapshot()


async def test_an_answer_that_is_late_is_taken_while_the_next_one_is_asked() -> None:
    slow = Home("one", delay_s=2.5)  # its share is the half of 4 s
    async with world(slow, Home("two", silent=True), deadline_s=4) as it:
        assert await it.served_by() == "one"
        assert it.homes["two"].served  # had been asked
        await it.sees("one", State.ALIVE)


async def test_the_last_chance_is_taken_where_all_are_dead() -> None:
    never = HealthPolicy(status_server=False, probe_timeout_s=0.1, revive_after_s=60)
    async with world(Home("one"), Home("two"), policy=never, deadline_s=0.5) as it:
        for home in it.homes.values():
            home.kill()
        while {each.state for each in it.pools.servers.values()} != {State.DEAD}:
            with pytest.raises(NoAnswer):
                await it.ask()
        for home in it.homes.values():
            home.start()
        assert await it.served_by() == "one"
        assert it.pools.servers["one"].state is State.REVIVING
        assert not it.homes["two"].served


async def test_dead_and_alone_it_fails_by_the_deadline() -> None:
    async with world(Home("one")) as it:
        it.homes["one"].kill()
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(NoAnswer):
                await it.ask()
            assert DEADLINE_S - 0.05 < time.monotonic() - started < DEADLINE_S + 1
        assert it.counters[CLIENT_RETRANSMITTED] >= 2


async def test_without_status_server_a_request_on_trial_revives() -> None:
    async with world(Home("one"), Home("two"), policy=UNWATCHED) as it:
        one = it.homes["one"]
        one.kill()
        while "server.one.dead" not in it.counters.snapshot():
            assert await it.served_by() == "two"  # each request, those on trial as well
            await asyncio.sleep(0.02)
        one.start()
        await it.sees("one", State.REVIVING)
        assert await it.served_by() == "one"
        assert it.pools.servers["one"].state is State.ALIVE
        assert one.counters[STATUS_SERVER] == it.homes["two"].counters[STATUS_SERVER] == 0


async def test_equal_keys_go_to_one_server_and_move_only_when_it_dies() -> None:
    names = ("one", "two", "three")
    keys = [bytes((number,)) for number in range(60)]
    async with world(*map(Home, names), strategy=Strategy.CONSISTENT_HASH) as it:
        before = [await it.served_by(key=key) for key in keys]
        assert before == [await it.served_by(key=key) for key in keys]
        assert set(before) == set(names)
        # Not as anybody could compute it beforehand, to load one of them.
        assert before != [rank(names, key)[0] for key in keys]
        it.homes["two"].kill()
        await it.served_by(key=keys[before.index("two")])
        await it.sees("two", State.DEAD)
        after = [await it.served_by(key=key) for key in keys]
        assert "two" not in after
        assert all(new == old for old, new in zip(before, after, strict=True) if old != "two")


async def test_whom_it_came_from_is_not_asked() -> None:
    async with world(Home("one"), Home("two")) as it:
        response = await it.ask(avoid="one")
        assert (18, b"two") in response.attributes
        with pytest.raises(Unavailable):
            await it.ask(avoid="one two")
        assert not it.homes["one"].served


async def test_a_thousand_outstanding() -> None:
    async with world(Home("one", delay_s=0.6), deadline_s=8, timeout_s=4) as it:
        users = [str(number).encode() for number in range(1000)]
        answers = await asyncio.gather(*(it.ask(user=user) for user in users))
        assert [a.attributes[1] for a in answers] == [(1, user) for user in users]
        assert sorted(it.homes["one"].served) == sorted(users)  # each of them once
        assert it.counters[CLIENT_RETRANSMITTED] == 0


async def test_what_does_not_fit_is_no_fault_of_a_server() -> None:
    async with world(Home("one"), Home("two")) as it:
        with pytest.raises(LocalError):
            await it.ask(user=bytes(254))
        assert it.pools.servers["one"].state is State.ALIVE
        assert await it.served_by() == "one"


async def test_cancelled_or_closed_nothing_is_believed_of_a_server() -> None:
    async with world(Home("one", silent=True), Home("two", silent=True)) as it:
        task = asyncio.create_task(it.ask())
        await until(lambda: bool(it.homes["one"].served))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        closed = asyncio.create_task(it.ask())
        await until(lambda: len(it.homes["one"].served) > 1)
        it.pools.close()
        with pytest.raises(NoAnswer):
            await closed
        assert {each.state for each in it.pools.servers.values()} == {State.ALIVE}


async def test_two_pools_of_one_name() -> None:
    twice = [TimedPool(Pool("homes", ())), TimedPool(Pool("homes", ()))]
    with pytest.raises(LocalError, match="expected one pool with the name homes"):
        open_pools({}, twice, Counters())
