"""The running pools: requests to servers that live, probes to all of them, failover in time.

Who is believed to live, and the order of a pool, are aaa.radius.pools'; sockets and signatures are
the exchangers'.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Protocol

import structlog

from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import STATUS_SERVER, Attributes, VerifiedResponse
from aaa.radius.pools import Event, HealthPolicy, Pool, ServerHealth, State, plan
from kdc.errors import LocalError, RemoteError, Unavailable
from kdc.model import Secret

DEADLINE_S: Final = 2.5  # shorter than the 3 s after which our own foreign agent asks again
_HASH_OCTETS: Final = 16
SERVER_STATE: Final = "server"  # one counter for each server and state: server.NAME.dead
_JITTER: Final = 0.1  # RFC 5080 §2.2.1, RFC 3539 §3.4.1: not all at once

log = structlog.get_logger("aaa.pools")


class Exchanger(Protocol):
    """One server, by UDP or TLS."""

    async def exchange(
        self, code: int, attributes: Attributes, *, deadline_s: float | None = None
    ) -> VerifiedResponse:
        """Raises `NoAnswer`, `Unavailable` and `LocalError`."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a named server is, and the secret that is shared with it."""

    server: Server
    secret: Secret


class UdpExchanger:
    """A server by UDP; the client may be shared with others."""

    def __init__(self, client: RadiusClient, hop: NextHop) -> None:
        self._client, self._hop = client, hop
        # RFC 5997 §4.1: a Status-Server is not retransmitted; the next one is a new packet.
        self._once = Server(hop.server.address, hop.server.timeout_s, retries=0)

    async def exchange(
        self, code: int, attributes: Attributes, *, deadline_s: float | None = None
    ) -> VerifiedResponse:
        """Raises as `RadiusClient.exchange` does."""
        server = self._once if code == STATUS_SERVER else self._hop.server
        return await self._client.exchange(
            code, attributes, self._hop.secret, server, deadline_s=deadline_s
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that pools may name: how it is reached, and how it is watched."""

    exchanger: Exchanger
    policy: HealthPolicy = field(default_factory=HealthPolicy)


@dataclass(frozen=True, slots=True)
class TimedPool:
    """A pool, and how long a request to it may take, however many servers are tried."""

    pool: Pool
    deadline_s: float = DEADLINE_S


class Pools:
    """`pools` of `upstreams`, by name; a server in several pools is watched and judged once.

    `on_close` closes what the exchangers share.  Raises `LocalError` for two pools of one name.
    Keys are hashed with a secret of this process: who chooses the octets of requests cannot choose
    whom they load.  So two processes may send one key to two servers.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        pools: Iterable[TimedPool],
        counters: Counters,
        *,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._hash_key = secrets.token_bytes(_HASH_OCTETS)
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, TimedPool] = {}
        for each in pools:
            if self._pools.setdefault(each.pool.name, each) is not each:
                raise LocalError(f"expected one pool with the name {each.pool.name}")
        self._watches = {name: _Watch(name, each, counters) for name, each in upstreams.items()}
        self.servers = {name: watch.health for name, watch in self._watches.items()}
        self._on_close = on_close

    async def exchange(
        self,
        pool: str,
        code: int,
        attributes: Attributes,
        *,
        key: bytes = b"",
        avoid: frozenset[str] = frozenset(),
    ) -> VerifiedResponse:
        """The authentic response of the first server of the pool that gives one, whatever it says.

        When a server's share of the time has passed, the next one is asked as well: a late answer
        is still taken.  `avoid` names servers that must not be asked, `key` decides in a pool by
        consistent hash.  Raises `NoAnswer` when the pool's deadline has passed, `Unavailable` where
        nobody could be asked, and `LocalError` for attributes that do not fit.
        """
        key = blake2b(key, key=self._hash_key, digest_size=_HASH_OCTETS).digest()
        timed = self._pools[pool]
        ends_at = self._loop.time() + timed.deadline_s
        race = _Race()
        try:
            while (left_s := ends_at - self._loop.time()) > 0:
                names = self._plan(timed.pool, key, avoid, race.asked)
                if names:
                    race.ask(self._watches[names[0]], code, attributes, left_s)
                elif not race.is_on:
                    break
                share_s = left_s / len(names) if len(names) > 1 else None
                response = await race.first(share_s)
                if response is not None:
                    return response
            race.on_late()
        finally:
            race.end()
        raise race.failure

    def _plan(
        self, pool: Pool, key: bytes, avoid: frozenset[str], asked: set[str]
    ) -> tuple[str, ...]:
        """Who is left to ask; of the dead only the first one, and only if nobody was asked."""
        names = plan(pool, self.servers, key=key, avoid=avoid.union(asked))
        if asked and names and self.servers[names[0]].state is State.DEAD:
            return ()
        return names

    def close(self) -> None:
        """Ends all probes; what is under way ends as the exchangers see to it."""
        for watch in self._watches.values():
            watch.close()
        self._on_close()


Hop = tuple[NextHop | Exchanger, HealthPolicy]


def open_pools(
    hops: Mapping[str, Hop],
    pools: Iterable[TimedPool],
    counters: Counters,
    observer: Observer = UNOBSERVED,
) -> Pools:
    """Pools of servers by UDP, all over source sockets of their own, and of servers over TLS."""
    client = RadiusClient(counters, observer=observer)
    upstreams = {
        name: Upstream(UdpExchanger(client, hop) if isinstance(hop, NextHop) else hop, policy)
        for name, (hop, policy) in hops.items()
    }
    return Pools(upstreams, pools, counters, on_close=client.close)


class _Race:
    """One request, and the servers that have been asked so far."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[asyncio.Task[VerifiedResponse], tuple[_Watch, float]] = {}
        self.asked: set[str] = set()
        self.failure: RemoteError = Unavailable("no server that may be asked")

    @property
    def is_on(self) -> bool:
        """Whether somebody may still answer."""
        return bool(self._under_way)

    def ask(self, watch: _Watch, code: int, attributes: Attributes, within_s: float) -> None:
        self.asked.add(watch.name)
        task = self._loop.create_task(watch.exchange(code, attributes, within_s))
        task.add_done_callback(_look_at)
        self._under_way[task] = (watch, self._loop.time())

    async def first(self, within_s: float | None) -> VerifiedResponse | None:
        """The first response; None where somebody has failed or the time has passed.

        Raises what is no fault of a server's.
        """
        done, _ = await asyncio.wait(
            self._under_way, timeout=within_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            del self._under_way[task]
            error = task.exception()
            if error is None:
                return task.result()
            if isinstance(error, NoAnswer):
                self.failure = error
            elif not isinstance(error, Unavailable):
                raise error
        if not done:
            self.on_late()
        return None

    def on_late(self) -> None:
        """Those who have not answered have had their time; they are still listened to."""
        for watch, sent_at in self._under_way.values():
            self.failure = NoAnswer("no server of the pool has answered in time")
            watch.observe(Event.UNANSWERED, sent_at)

    def end(self) -> None:
        """Nobody waits any more."""
        for task in self._under_way:
            task.cancel()


def _look_at(task: asyncio.Task[VerifiedResponse]) -> None:
    """So that a failure beside a response, or after a cancellation, is not reported as lost."""
    if not task.cancelled():
        task.exception()


class _Watch:
    """One server: its health, the probes it gets, and what is told of it."""

    def __init__(self, name: str, upstream: Upstream, counters: Counters) -> None:
        self.name = name
        self.health = ServerHealth(name, upstream.policy)
        self._loop = asyncio.get_running_loop()
        self._exchanger, self._policy = upstream.exchanger, upstream.policy
        self._counters = counters
        self._probed_at = self._loop.time()  # the first probe is one interval away
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closed = False
        self._arm()

    async def exchange(
        self, code: int, attributes: Attributes, deadline_s: float
    ) -> VerifiedResponse:
        """Raises as the exchanger does; what came of it is taken in."""
        sent_at = self._loop.time()
        self.health.on_sent()
        try:
            response = await self._exchanger.exchange(code, attributes, deadline_s=deadline_s)
        except NoAnswer:
            self.observe(Event.UNANSWERED, sent_at)
            raise
        self.observe(Event.ANSWERED, sent_at)
        return response

    def observe(self, event: Event, sent_at: float) -> None:
        """Takes in an event, and tells of a change: one line, and one counter."""
        if self._closed:
            return
        change = self.health.observe(event, sent_at=sent_at, now=self._loop.time())
        if change is None:
            return
        self._counters.add(f"{SERVER_STATE}.{change.server}.{change.now.value}")
        level = log.info if change.now is State.ALIVE else log.warning
        level(
            "server",
            server=change.server,
            was=change.was.value,
            now=change.now.value,
            why=change.why.value,
        )
        if not self._policy.status_server:
            self._probed_at = self._loop.time()
        if self._probe is None:
            self._arm()

    def _arm(self) -> None:
        """The next probe: so long after the last one, or at once where that has passed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        after_s = self.health.probe_after_s
        if after_s is None or self._closed:
            return
        jitter = 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311 - only to spread the probes
        self._timer = self._loop.call_at(self._probed_at + after_s * jitter, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        self._probed_at = self._loop.time()
        if self._policy.status_server:
            self._probe = self._loop.create_task(self._ask())
            return
        self.observe(Event.PROBE_DUE, self._probed_at)
        self._arm()

    async def _ask(self) -> None:
        """One Status-Server."""
        sent_at = self._probed_at
        try:
            await self._exchanger.exchange(
                STATUS_SERVER, (), deadline_s=self._policy.probe_timeout_s
            )
        except NoAnswer:
            self.observe(Event.STATUS_UNANSWERED, sent_at)
        except Unavailable:
            pass  # it was not asked: no source port or no identifier is left
        else:
            self.observe(Event.STATUS_ANSWERED, sent_at)
        finally:
            self._probe = None
            self._arm()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()
