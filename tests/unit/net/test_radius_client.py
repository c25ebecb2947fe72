"""The client side: identifiers, retransmission, cancellation, replies that do not verify."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from aaa.net.radius_client import RadiusClient, Server, _next_wait_s
from aaa.net.udp import Datagram, UdpEndpoint
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import decode, encode_response, verify_request
from kdc.errors import LocalError
from kdc.model import Secret

SECRET = Secret(b"sixteen octets!!")


class Peer:
    """A RADIUS server that notes what it hears and answers when `answering`."""

    def __init__(self) -> None:
        self.heard: list[Datagram] = []
        self.arrived = asyncio.Event()
        self.answering = True
        self.endpoint = UdpEndpoint.open(("127.0.0.1", 0), self._on_batch)

    def _on_batch(self, batch: list[Datagram]) -> None:
        self.heard += batch
        self.arrived.set()
        if self.answering:
            self.answer(batch)

    def answer(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            request = verify_request(decode(octets), SECRET)
            user = next(v for k, v in request.attributes if k == 1)
            self.endpoint.send_many([(encode_response(2, request, ((1, user),), SECRET), source)])

    async def hears(self, count: int) -> None:
        while len(self.heard) < count:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 5)

    def server(self, timeout_s: float = 5, retries: int = 0) -> Server:
        return Server(self.endpoint.address, timeout_s, retries)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    running = Peer()
    yield running
    running.endpoint.close()


@pytest.fixture
async def client() -> AsyncIterator[RadiusClient]:
    running = RadiusClient(Counters())
    yield running
    running.close()


async def test_more_than_256_outstanding_open_further_source_ports(
    client: RadiusClient, peer: Peer
) -> None:
    peer.answering = False
    users = [str(number).encode() for number in range(1000)]
    tasks = [
        asyncio.create_task(client.exchange(1, ((1, user),), SECRET, peer.server()))
        for user in users
    ]
    await peer.hears(1000)
    sources = [(source, octets[1]) for octets, source in peer.heard]
    assert len(set(sources)) == 1000
    assert len({source for source, _ in sources}) == 4
    peer.answer(list(reversed(peer.heard)))
    replies = await asyncio.gather(*tasks)
    assert [reply.attributes[1][1] for reply in replies] == users


async def test_retransmissions_are_the_same_octets_and_end(peer: Peer) -> None:
    counters = Counters()
    client = RadiusClient(counters)
    peer.answering = False
    server = peer.server(timeout_s=0.02, retries=3)
    with pytest.raises(NoAnswer) as given_up:
        await client.exchange(1, ((1, b"@v"),), SECRET, server, deadline_s=1.0)
    assert given_up.value.reply_code == 78
    await peer.hears(4)
    assert len({octets for octets, _ in peer.heard}) == 1
    assert len(peer.heard) == 4
    assert counters[names.CLIENT_RETRANSMITTED] == 3
    assert counters[names.CLIENT_NO_ANSWER] == 1
    client.close()


async def test_each_wait_is_about_twice_the_last_one_up_to_a_limit(
    client: RadiusClient, peer: Peer
) -> None:
    """RFC 5080 §2.2.1: RT = IRT, then 2*RTprev up to MRT, each with a tenth of it at random."""
    at: list[float] = []
    peer.endpoint._on_batch = lambda batch: at.append(time.monotonic())
    server = Server(peer.endpoint.address, 0.3, retries=5, maximum_timeout_s=0.9)
    with pytest.raises(NoAnswer):
        await client.exchange(1, ((1, b"@v"),), SECRET, server, deadline_s=3.2)
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(at) == 5  # after 0, 0.3, 0.9, 1.8 and 2.7 s
    assert waits == pytest.approx([0.3, 0.6, 0.9, 0.9], abs=0.25)


async def test_waits_differ_from_request_to_request_and_stay_within_a_tenth() -> None:
    waits = [_next_wait_s(1.0, 16.0) for _ in range(200)]
    assert 1.9 <= min(waits) < 1.95
    assert 2.05 < max(waits) <= 2.1
    capped = [_next_wait_s(12.0, 16.0) for _ in range(200)]
    assert 14.4 <= min(capped) < 15
    assert 17 < max(capped) <= 17.6


@pytest.mark.parametrize(
    ("deadline_s", "ends_s", "sends"), [(None, 1.6, 3), (2.0, 2.0, 3), (0.8, 0.8, 2)]
)
async def test_a_deadline_ends_it_whatever_is_left_to_send(
    client: RadiusClient, peer: Peer, deadline_s: float | None, ends_s: float, sends: int
) -> None:
    peer.answering = False
    server = peer.server(timeout_s=0.4, retries=3)
    started = time.monotonic()
    with pytest.raises(NoAnswer):
        await client.exchange(1, ((1, b"@v"),), SECRET, server, deadline_s=deadline_s)
    assert ends_s - 0.02 < time.monotonic() - started < ends_s + 1
    assert len(peer.heard) == sends


async def test_cancelling_frees_the_identifier_and_late_replies_are_ignored(peer: Peer) -> None:
    counters = Counters()
    client = RadiusClient(counters)
    peer.answering = False
    for _ in range(3):
        tasks = [
            asyncio.create_task(client.exchange(1, ((1, b"@v"),), SECRET, peer.server()))
            for _ in range(256)
        ]
        already = len(peer.heard)
        await peer.hears(already + 256)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len({source for _, source in peer.heard}) == 1
    late = peer.heard[-1]
    peer.answer([late])
    peer.answering = True
    reply = await client.exchange(1, ((1, b"@now"),), SECRET, peer.server())
    assert reply.attributes[1] == (1, b"@now")
    assert counters[names.CLIENT_UNEXPECTED] == 1
    client.close()


async def test_a_reply_from_elsewhere_is_ignored(peer: Peer) -> None:
    counters = Counters()
    client = RadiusClient(counters)
    peer.answering = False
    task = asyncio.create_task(client.exchange(1, ((1, b"@v"),), SECRET, peer.server()))
    await peer.hears(1)
    octets, source = peer.heard[0]
    forged = encode_response(3, verify_request(decode(octets), SECRET), (), SECRET)
    elsewhere = UdpEndpoint.open(("127.0.0.1", 0), lambda batch: None)
    elsewhere.send_many([(forged, (source[0], source[1]))])
    peer.endpoint.send_many([(b"short", source)])
    peer.answer(peer.heard)
    assert (await task).code == 2
    assert counters[names.CLIENT_UNEXPECTED] == 1
    assert counters[names.CLIENT_MALFORMED] == 1
    elsewhere.close()
    client.close()


async def test_closing_and_attributes_that_do_not_fit(peer: Peer, client: RadiusClient) -> None:
    with pytest.raises(LocalError):
        await client.exchange(1, ((1, bytes(254)),), SECRET, peer.server())
    peer.answering = False
    task = asyncio.create_task(client.exchange(1, ((1, b"@v"),), SECRET, peer.server()))
    await peer.hears(1)
    client.close()
    with pytest.raises(NoAnswer):
        await task
