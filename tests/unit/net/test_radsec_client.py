"""The client of RADIUS over TLS: pipelining, lost connections, failover, silence, deadlines."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from aaa.net.radsec_link import RETIRED_AT, Watchdog
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.radsec_upstream import ClientLimits
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    RADSEC_SECRET,
    VerifiedRequest,
    decode,
    encode_response,
    verify_request,
)
from aaa.radius.stream import PacketStream
from aaa.radius.tls_peers import TlsPeer
from kdc.errors import LocalError, Unavailable
from kdc.model import Secret
from tests.unit.net.radsec import KDC, Parties, accepted, answer, ask, name_of, until, user

QUICK = Watchdog(idle_s=0.2, owed_s=0.2, answer_s=0.2)


async def test_many_outstanding_on_few_connections_answered_in_any_order(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address)
    texts = [str(number) for number in range(600)]
    tasks = ask(client, *texts)
    await served.hears(600)
    by_connection: dict[object, set[int]] = {}
    for each in served.heard:
        by_connection.setdefault(each.connection, set()).add(each.request.identifier)
    assert sorted(map(len, by_connection.values())) == [90, 255, 255]
    assert all(0 not in identifiers for identifiers in by_connection.values())
    random.Random(1).shuffle(served.heard)
    for each in served.heard:
        answer(each)
    assert await asyncio.gather(*tasks) == texts


async def test_what_finds_no_identifier_waits_in_order(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address, limits=ClientLimits(connections=1, waiting=20))
    first = ask(client, "first")
    await served.hears(1)
    texts = [str(number) for number in range(274)]
    tasks = first + ask(client, *texts)
    texts.insert(0, "first")
    await served.hears(255)
    with pytest.raises(Unavailable):
        await client.exchange(1, user("one too many"))
    served.answering = True
    for each in served.heard[:255]:
        answer(each)
    assert await asyncio.gather(*tasks) == texts
    assert served.names == texts


async def test_a_killed_server_loses_nothing(parties: Parties) -> None:
    first, second = parties.serve(), parties.serve()
    first.answering = False
    counters = Counters()
    client = parties.client(first.address, second.address, counters=counters)
    texts = [str(number) for number in range(300)]
    tasks = ask(client, *texts)
    await first.hears(300)
    begun = time.monotonic()
    first.kill()
    assert await asyncio.gather(*tasks) == texts
    assert time.monotonic() - begun < 2
    assert (sorted(second.names), counters[names.RADSEC_CLIENT_RESENT]) == (sorted(texts), 300)


async def test_a_server_that_comes_back_is_found_again(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address)
    tasks = ask(client, "first", "second")
    await served.hears(2)
    served.kill()
    tasks += ask(client, "third")
    await asyncio.sleep(0.3)
    again = parties.serve(address=served.address)
    assert await asyncio.gather(*tasks) == ["first", "second", "third"]
    assert again.names == ["first", "second", "third"]


async def test_a_request_is_sent_twice_and_no_more(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address)
    (task,) = ask(client, "poison")
    for count in (1, 2):
        await served.hears(count)
        accepted(served.heard[-1]).abort()
    with pytest.raises(NoAnswer, match="two connections"):
        await task
    served.answering = True
    assert await asyncio.gather(*ask(client, "next")) == ["next"]
    assert served.names == ["poison", "poison", "next"]


async def test_the_first_server_is_gone_back_to(parties: Parties) -> None:
    first, second = parties.serve(), parties.serve()
    client = parties.client(first.address, second.address)
    assert await asyncio.gather(*ask(client, "a")) == ["a"]
    first.kill()
    assert await asyncio.gather(*ask(client, "b", "c")) == ["b", "c"]
    assert second.names == ["b", "c"]
    again = parties.serve(address=first.address)
    await until(lambda: again.server.connections == 1)
    await until(lambda: again.counters[names.STATUS_SERVER] == 1)
    await asyncio.sleep(0.05)
    assert await asyncio.gather(*ask(client, "d")) == ["d"]
    assert again.names == ["d"]


async def test_a_silent_server_is_asked_left_and_its_requests_sent_on(parties: Parties) -> None:
    first, second = parties.serve(), parties.serve()
    first.answering = False
    counters = Counters()
    client = parties.client(first.address, second.address, watchdog=QUICK, counters=counters)
    tasks = ask(client, "a")
    await first.hears(1)
    for connection in first.server._connections:  # as a host that is gone: nothing comes back
        connection.stop_reading()
    await until(lambda: second.server.connections == 1)  # made ready at the first suspicion
    assert await asyncio.gather(*tasks, *ask(client, "b")) == ["a", "b"]
    assert counters[names.RADSEC_CLIENT_SILENT] >= 1


async def test_a_slow_server_that_lives_is_kept(parties: Parties) -> None:
    served, second = parties.serve(), parties.serve()
    served.answering = False
    counters = Counters()
    client = parties.client(served.address, second.address, watchdog=QUICK, counters=counters)
    tasks = ask(client, "slow")
    await until(lambda: served.counters[names.STATUS_SERVER] >= 4)
    answer(served.heard[0])
    assert await asyncio.gather(*tasks) == ["slow"]
    assert (len(served.heard), counters[names.RADSEC_CLIENT_LOST]) == (1, 0)


async def test_an_idle_connection_is_watched_and_made_again(parties: Parties) -> None:
    served = parties.serve()
    counters = Counters()
    client = parties.client(served.address, watchdog=QUICK, counters=counters)
    await asyncio.gather(*ask(client, "a"))
    await until(lambda: served.counters[names.STATUS_SERVER] >= 3)
    assert counters[names.RADSEC_CLIENT_OPENED] == 1
    for connection in served.server._connections:
        connection.stop_reading()
    await until(lambda: counters[names.RADSEC_CLIENT_SILENT] == 1)
    await until(lambda: counters[names.RADSEC_CLIENT_OPENED] == 2)
    assert await asyncio.gather(*ask(client, "b")) == ["b"]


async def test_nobody_answers_and_the_deadline_is_kept(parties: Parties) -> None:
    listening = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, nobody else does
    silent: Address = listening.getsockname()
    counters = Counters()
    client = parties.client(silent, ("127.0.0.1", 1), counters=counters)
    begun = time.monotonic()
    tasks = [
        asyncio.create_task(client.exchange(1, user(str(number)), deadline_s=0.6))
        for number in range(50)
    ]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, NoAnswer) for result in results)
    assert 0.5 < time.monotonic() - begun < 1.2
    assert counters[names.CLIENT_NO_ANSWER] == 50
    listening.close()


async def test_attempts_are_spaced_out_more_and_more(parties: Parties) -> None:
    counters = Counters()
    limits = ClientLimits(backoff_s=0.05, backoff_maximum_s=0.4)
    client = parties.client(("127.0.0.1", 1), counters=counters, limits=limits)
    with pytest.raises(NoAnswer):
        await client.exchange(1, user("x"), deadline_s=0.5)
    assert 3 <= counters[names.RADSEC_CLIENT_FAILED] <= 7
    before = counters[names.RADSEC_CLIENT_FAILED]
    await asyncio.sleep(1)
    assert 2 <= counters[names.RADSEC_CLIENT_FAILED] - before <= 6  # one each 0.2 to 0.4 s


async def test_a_late_answer_is_no_other_requests_answer(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    counters = Counters()
    client = parties.client(served.address, counters=counters, limits=ClientLimits(connections=1))
    with pytest.raises(NoAnswer):
        await client.exchange(1, user("late"), deadline_s=0.1)
    cancelled = ask(client, "cancelled")[0]
    await served.hears(2)
    cancelled.cancel()
    tasks = ask(client, *map(str, range(253)))
    await served.hears(255)
    waiting = ask(client, "last")
    await asyncio.sleep(0.05)
    assert len(served.heard) == 255  # the two identifiers are not free
    served.answering = True
    for each in served.heard[:255]:
        answer(each)
    assert await asyncio.gather(*tasks, *waiting) == [*map(str, range(253)), "last"]
    assert counters[names.RADSEC_CLIENT_LOST] == 0


async def test_a_connection_with_too_many_identifiers_lost_is_replaced(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    counters = Counters()
    limits = ClientLimits(connections=1)
    client = parties.client(served.address, counters=counters, limits=limits)
    stays = ask(client, "stays")
    lost = [
        asyncio.create_task(client.exchange(1, user("lost"), deadline_s=0.3))
        for _ in range(RETIRED_AT)
    ]
    await asyncio.gather(*lost, return_exceptions=True)
    await served.hears(RETIRED_AT + 1)
    first = served.heard[0]
    served.answering = True
    assert await asyncio.gather(*ask(client, "next")) == ["next"]
    assert served.heard[-1].connection is not first.connection
    answer(first)  # who was on it already is still answered
    assert await asyncio.gather(*stays) == ["stays"]
    await until(lambda: served.server.connections == 1)


async def test_a_server_that_refuses_us_takes_no_requests(parties: Parties) -> None:
    """In TLS 1.3 the client's handshake is over before the server has looked at it."""
    first, second = parties.serve(peers=(_stranger(),)), parties.serve()
    client = parties.client(first.address, second.address)
    assert await asyncio.gather(*ask(client, "a")) == ["a"]
    assert (first.heard, second.names) == ([], ["a"])
    assert first.counters[names.RADSEC_UNKNOWN_PEER] >= 1


def _stranger() -> TlsPeer:
    return TlsPeer("stranger", frozenset({"stranger.example"}))


class Misbehaving(asyncio.Protocol):
    """A server with the right certificate and wrong answers to Access-Requests."""

    def __init__(self, served: BadServer) -> None:
        self._served = served
        self._stream = PacketStream()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._served.connections += 1

    def data_received(self, data: bytes) -> None:
        self._stream.feed(data)
        for octets in self._stream.take(1000):
            request = verify_request(decode(octets), RADSEC_SECRET)
            if request.code == 12:
                self._transport.write(encode_response(2, request, (), RADSEC_SECRET))
            else:
                self._transport.write(self._served.reply(request))


class BadServer:
    def __init__(self, reply: Callable[[VerifiedRequest], bytes]) -> None:
        self.reply = reply
        self.connections = 0


def _another_signature(request: VerifiedRequest) -> bytes:
    return encode_response(2, request, user("forged"), Secret(b"sixteen octets!!"))


def _bad_length(request: VerifiedRequest) -> bytes:
    return b"\x02" + bytes([request.identifier]) + b"\x00\x13" + bytes(40)


def _unsigned(request: VerifiedRequest) -> bytes:
    return b"\x02" + bytes([request.identifier]) + b"\x00\x14" + bytes(16)


def _half_signed(request: VerifiedRequest) -> bytes:
    """As an answer to Status-Server may be: a Response Authenticator and nothing else."""
    header = bytes([2, request.identifier, 0, 20])
    return header + hashlib.md5(header + request.authenticator + b"radsec").digest()


@pytest.mark.parametrize("reply", [_another_signature, _bad_length, _unsigned, _half_signed])
async def test_a_bad_response_closes_and_the_request_goes_elsewhere(
    parties: Parties, reply: Callable[[VerifiedRequest], bytes]
) -> None:
    bad = BadServer(reply)
    contexts = parties.contexts(parties.authority.issue("kdc", [KDC]))
    listening = await asyncio.get_running_loop().create_server(
        lambda: Misbehaving(bad), "127.0.0.1", 0, ssl=contexts.server
    )
    right = parties.serve()
    client = parties.client(listening.sockets[0].getsockname()[:2], right.address)
    assert await asyncio.gather(*ask(client, "a")) == ["a"]
    assert right.names == ["a"]
    assert bad.connections >= 1
    await client.close()
    listening.close()
    await listening.wait_closed()


async def test_unawaited_and_unknown_packets_change_nothing(parties: Parties) -> None:
    served = parties.serve()
    served.answer = _answer_with_noise
    counters = Counters()
    client = parties.client(served.address, counters=counters)
    assert await asyncio.gather(*ask(client, "a", "b")) == ["a", "b"]
    assert (counters[names.CLIENT_UNEXPECTED], counters[names.UNSUPPORTED]) == (2, 2)
    assert counters[names.RADSEC_CLIENT_LOST] == 0


def _answer_with_noise(transaction: RadsecTransaction) -> None:
    octets = transaction.request.octets
    unawaited = encode_response(2, transaction.request, (), RADSEC_SECRET)
    accepted(transaction).send(unawaited[:1] + b"\xf0" + unawaited[2:])
    accepted(transaction).send(b"\x28" + octets[1:2] + b"\x00\x14" + bytes(16))
    answer(transaction)


async def test_attributes_that_do_not_fit_and_closing(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address)
    with pytest.raises(LocalError):
        await client.exchange(1, ((1, bytes(254)),))
    with pytest.raises(LocalError):
        parties.client()
    (task,) = ask(client, "open")
    await served.hears(1)
    await client.close()
    with pytest.raises(NoAnswer):
        await task
    with pytest.raises(NoAnswer):
        await client.exchange(1, user("x"))
    await until(lambda: served.server.connections == 0)


async def test_tls_1_2_carries_it_too(parties: Parties) -> None:
    contexts = parties.contexts(parties.authority.issue("kdc", [KDC]))
    contexts.server.maximum_version = ssl.TLSVersion.TLSv1_2
    served = parties.serve(contexts=contexts)
    assert await asyncio.gather(*ask(parties.client(served.address), "a")) == ["a"]
    assert name_of(served.heard[0]) == "a"
