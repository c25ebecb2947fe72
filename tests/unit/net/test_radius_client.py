"""The client side: identifiers, retransmission, cancellation, replies that do not verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aaa.net.radius_client import RadiusClient, Server
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
    users = [str(number).encode() for number in range(600)]
    tasks = [
        asyncio.create_task(client.exchange(1, ((1, user),), SECRET, peer.server()))
        for user in users
    ]
    await peer.hears(600)
    sources = [(source, octets[1]) for octets, source in peer.heard]
    assert len(set(sources)) == 600
    assert len({source for source, _ in sources}) == 3
    peer.answer(list(reversed(peer.heard)))
    replies = await asyncio.gather(*tasks)
    assert [reply.attributes[1][1] for reply in replies] == users


async def test_retransmissions_are_the_same_octets_and_end(peer: Peer) -> None:
    counters = Counters()
    client = RadiusClient(counters)
    peer.answering = False
    with pytest.raises(NoAnswer) as given_up:
        await client.exchange(1, ((1, b"@v"),), SECRET, peer.server(timeout_s=0.02, retries=3))
    assert given_up.value.reply_code == 78
    await peer.hears(4)
    assert len({octets for octets, _ in peer.heard}) == 1
    assert len(peer.heard) == 4
    assert counters[names.CLIENT_RETRANSMITTED] == 3
    assert counters[names.CLIENT_NO_ANSWER] == 1
    client.close()


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
