"""A pool does not ask by which transport its servers are reached."""

from __future__ import annotations

import asyncio

from aaa.radius.counters import Counters
from aaa.radius.packet import ACCESS_REQUEST
from aaa.radius.pools import HealthPolicy, Pool, State
from aaa.serve.pools import Exchanger, Pools, TimedPool, Upstream
from tests.unit.net.radsec import Parties, until, user

WATCHED = HealthPolicy(probe_timeout_s=0.5)


async def test_servers_over_tls_fail_over_and_revive(parties: Parties) -> None:
    served = {"one": parties.serve(), "two": parties.serve()}
    clients: dict[str, Exchanger] = {n: parties.client(s.address) for n, s in served.items()}
    upstreams = {name: Upstream(client, WATCHED) for name, client in clients.items()}
    counters = Counters()
    pools = Pools(upstreams, [TimedPool(Pool("p", ("one", "two")), 4.0)], counters)
    try:
        await pools.exchange("p", ACCESS_REQUEST, user("first"))
        assert (served["one"].names, served["two"].names) == (["first"], [])
        served["one"].kill()
        for text in ("second", "third"):
            await pools.exchange("p", ACCESS_REQUEST, user(text))
        assert served["two"].names == ["second", "third"]
        await until(lambda: pools.servers["one"].state is State.DEAD, 10)
        again = parties.serve(address=served["one"].address)
        await until(lambda: pools.servers["one"].state is State.ALIVE, 20)
        await pools.exchange("p", ACCESS_REQUEST, user("fourth"))
        assert again.names == ["fourth"]
        assert counters["server.one.alive"] == 1
    finally:
        pools.close()
        await asyncio.sleep(0)
