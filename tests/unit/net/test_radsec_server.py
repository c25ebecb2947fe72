"""The server of RADIUS over TLS: who gets in, what closes a connection, what a flood can take."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from asyncio.sslproto import SSLProtocol

import pytest
from structlog.testing import capture_logs

from aaa.net.server_connection import ServerLimits
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import RADSEC_SECRET, encode_request, verify_response
from kdc.model import Secret
from tests.unit.net.radsec import (
    HOME_AGENT,
    KDC,
    Parties,
    Raw,
    answer,
    connect_and_ask,
    peer,
    request,
    until,
    user,
)

FLOOD = 6000  # 22 MB of answers: more than a kernel's two buffers of a connection ever hold


async def test_a_request_comes_with_the_entry_of_its_sender(parties: Parties) -> None:
    served = parties.serve(peers=(peer("other", "other.example"), HOME_AGENT))
    client = parties.client(served.address)
    response = await client.exchange(1, user("@home.example"))
    assert (response.code, response.attributes[1]) == (2, (1, b"@home.example"))
    assert [each.client for each in served.heard] == [HOME_AGENT]
    assert (await client.exchange(12, ())).code == 2
    assert len(served.heard) == 1
    assert served.counters[names.ACCEPTS] == 1


async def test_plain_octets_are_no_handshake(parties: Parties) -> None:
    served = parties.serve()
    for octets in (request(1), b"GET / HTTP/1.1\r\n\r\n", bytes(4096)):
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(octets)
        await _read_to_the_end(reader)
        writer.close()
    await until(lambda: served.counters[names.RADSEC_HANDSHAKE_FAILED] == 3)
    assert (await parties.client(served.address).exchange(1, user("x"))).code == 2


async def test_connections_that_end_let_go_of_their_buffers_without_the_collector(
    parties: Parties,
) -> None:
    """Each has 256 kB in asyncio; a flood ends thousands of them before the collector comes."""
    served = parties.serve()
    contexts = parties.client_contexts().client
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            reader, writer = await asyncio.open_connection(*served.address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await _read_to_the_end(reader)
            writer.close()
            raw = await Raw.connect(served.address, contexts)
            raw.send(b"\1\1\0\3" + bytes(40))  # a Length that no packet has
            await raw.is_closed()
            await raw.close()
        await until(lambda: served.counters[names.RADSEC_HANDSHAKE_FAILED] == 10)
        await until(lambda: served.server.connections == 0)
        del reader, writer, raw
        await asyncio.sleep(0.1)
        # Ours alone: what the test's own side leaves is a client's.
        left = [
            each for each in gc.get_objects() if isinstance(each, SSLProtocol) and each._server_side
        ]
        assert len(left) <= 1
    finally:
        gc.enable()


async def _read_to_the_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)


async def _half_open(address: Address, source: str, count: int) -> list[socket.socket]:
    opened = []
    for _ in range(count):
        plain = socket.socket()
        plain.setblocking(False)
        plain.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(plain, address)
        opened.append(plain)
    return opened


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
async def test_a_flood_of_half_open_connections_drowns_itself(
    parties: Parties, source: str
) -> None:
    served = parties.serve(limits=ServerLimits(handshakes=8, handshake_s=30))
    flood = await _half_open(served.address, source, 8)
    await until(lambda: len(served.server._acceptor) == 8)
    client = parties.client(served.address)
    assert (await client.exchange(1, user("first"))).code == 2
    flood += await _half_open(served.address, source, 100)
    await until(lambda: served.counters[names.RADSEC_HANDSHAKE_EVICTED] == 100)
    assert len(served.server._acceptor) == 8
    for number in range(5):  # the flood goes on, and so does who has been let in
        flood += await _half_open(served.address, source, 10)
        assert (await client.exchange(1, user(str(number)))).code == 2
    other = parties.client(served.address)
    assert (await other.exchange(1, user("second"))).code == 2
    for plain in flood:
        plain.close()
    await until(lambda: len(served.server._acceptor) == 0)


async def test_the_source_with_most_handshakes_pays_for_a_new_one(parties: Parties) -> None:
    served = parties.serve(limits=ServerLimits(handshakes=8, handshake_s=30))
    (slow,) = await _half_open(served.address, "127.0.0.9", 1)
    await until(lambda: len(served.server._acceptor) == 1)
    flood = await _half_open(served.address, "127.0.0.1", 50)
    await until(lambda: served.counters[names.RADSEC_HANDSHAKE_EVICTED] == 43)
    # The oldest of all has come through, since the flood has had more.
    context = parties.client_contexts().client
    reader, writer = await asyncio.open_connection(sock=slow, ssl=context, server_hostname=KDC)
    raw = Raw(reader, writer)
    raw.send(request(1))
    assert (await raw.packet()).code == 2
    await raw.close()
    for plain in flood:
        plain.close()


async def test_a_handshake_has_a_time_limit(parties: Parties) -> None:
    served = parties.serve(limits=ServerLimits(handshake_s=0.1))
    (plain,) = await _half_open(served.address, "127.0.0.1", 1)
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(plain, 1), 5) == b""
    plain.close()
    assert served.counters[names.RADSEC_HANDSHAKE_FAILED] == 1


async def test_connections_are_bounded_for_all_and_for_each_peer(parties: Parties) -> None:
    second = peer("second", "second.example")
    limits = ServerLimits(connections=3, connections_per_peer=2)
    served = parties.serve(peers=(HOME_AGENT, second), limits=limits)
    mine = parties.client_contexts().client
    other = parties.contexts(parties.authority.issue("second", ["second.example"])).client
    opened = [await connect_and_ask(served.address, mine) for _ in range(2)]
    third = await Raw.connect(served.address, mine)
    assert await third.is_closed()
    opened.append(await connect_and_ask(served.address, other))
    with pytest.raises(OSError):  # noqa: PT011 - closed before or in the handshake
        await Raw.connect(served.address, other)
    assert (served.server.connections, served.counters[names.RADSEC_NO_ROOM]) == (3, 2)
    for raw in (*opened, third):
        await raw.close()
    await until(lambda: served.server.connections == 0)


async def test_the_remains_of_lost_connections_do_not_lock_a_peer_out(parties: Parties) -> None:
    served = parties.serve(limits=ServerLimits(connections_per_peer=1, idle_s=0.8))
    context = parties.client_contexts().client
    silent = await connect_and_ask(served.address, context)
    await asyncio.sleep(0.25)
    fresh = await connect_and_ask(served.address, context)
    assert await silent.is_closed()
    await asyncio.sleep(0)
    assert served.server.connections == 1
    assert await fresh.is_closed()  # after its own time of silence
    assert served.counters[names.RADSEC_IDLE] == 2
    for raw in (silent, fresh):
        await raw.close()


def _length(octets: bytes, length: int) -> bytes:
    return octets[:2] + length.to_bytes(2, "big") + octets[4:]


_GOOD = request(2, "second")
CLOSING = {
    "Length 19": (_length(_GOOD, 19), names.MALFORMED),
    "Length 0": (_length(_GOOD, 0), names.MALFORMED),
    "Length 4097": (_length(_GOOD, 4097), names.MALFORMED),
    "an attribute of length 0": (_length(_GOOD + bytes([1, 0]), len(_GOOD) + 2), names.MALFORMED),
    "an attribute beyond the end": (
        _length(_GOOD + bytes([1, 9]), len(_GOOD) + 2),
        names.MALFORMED,
    ),
    "no Message-Authenticator": (bytes([1, 2, 0, 20]) + bytes(16), names.MALFORMED),
    "a wrong Message-Authenticator": (
        encode_request(1, 2, bytes(16), (), Secret(b"sixteen octets!!")),
        names.BAD_AUTHENTICATOR,
    ),
    "an unsigned Status-Server": (
        encode_request(12, 2, bytes(16), (), Secret(b"sixteen octets!!")),
        names.BAD_AUTHENTICATOR,
    ),
}


@pytest.mark.parametrize("kind", CLOSING)
async def test_a_bad_packet_closes_and_its_batch_is_not_worked_on(
    parties: Parties, kind: str
) -> None:
    bad, counter = CLOSING[kind]
    served = parties.serve()
    raw = await connect_and_ask(served.address, parties.client_contexts().client)
    raw.send(request(3), bad, request(4))
    assert await raw.is_closed()
    await raw.close()
    assert (len(served.heard), served.counters[counter]) == (1, 1)


async def test_a_code_that_is_not_answered_is_passed_over(parties: Parties) -> None:
    served = parties.serve()
    raw = await Raw.connect(served.address, parties.client_contexts().client)
    raw.send(bytes([4, 1, 0, 20]) + bytes(16), bytes([77, 1, 0, 20]) + bytes(16), request(9))
    assert (await raw.packet()).identifier == 9
    assert served.counters[names.UNSUPPORTED] == 2
    await raw.close()


async def test_packets_are_cut_wherever_the_stream_is(parties: Parties) -> None:
    served = parties.serve()
    raw = await Raw.connect(served.address, parties.client_contexts().client)
    octets = request(1, "a" * 200) + request(2, "b")
    for position in range(0, len(octets), 7):
        raw.send(octets[position : position + 7])
        await asyncio.sleep(0.001)
    assert [(await raw.packet()).identifier for _ in range(2)] == [1, 2]
    raw.send(*(request(number) for number in range(3, 103)))
    for number in range(3, 103):
        response = await raw.packet()
        assert response.identifier == number
        verify_response(response, bytes([number]) * 16, RADSEC_SECRET)
    assert len(served.batches) < 103
    await raw.close()


async def test_a_doubled_request_is_worked_on_once(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    raw = await Raw.connect(served.address, parties.client_contexts().client)
    raw.send(request(1), request(1), request(1))
    await until(lambda: served.counters[names.DUPLICATE_IN_PROGRESS] == 2)
    answer(served.heard[0])
    first = await raw.packet()
    raw.send(request(1))
    assert (await raw.packet()).octets == first.octets
    assert len(served.heard) == 1
    # Another request under the same identifier: the client has given the old one up.
    raw.send(encode_request(1, 1, bytes(16), user("newer"), RADSEC_SECRET))
    await served.hears(2)
    raw.send(encode_request(1, 1, b"newest 16 octets", user("newest"), RADSEC_SECRET))
    await served.hears(3)
    for transaction in served.heard[1:]:
        answer(transaction)
        answer(transaction)  # a second answer is none
    verify_response(await raw.packet(), b"newest 16 octets", RADSEC_SECRET)
    assert (served.counters[names.ABANDONED], served.server.in_flight) == (1, 0)
    await raw.close()


async def test_reading_stops_with_too_much_in_flight_and_goes_on_after(parties: Parties) -> None:
    served = parties.serve(limits=ServerLimits(in_flight=4))
    served.answering = False
    raw = await Raw.connect(served.address, parties.client_contexts().client)
    raw.send(*(request(number) for number in range(100)))
    await served.hears(4)
    await asyncio.sleep(0.05)
    assert len(served.heard) == 4
    answer(served.heard[0])
    await asyncio.sleep(0.05)
    assert len(served.heard) == 4  # half of them first
    served.heard[1].forget()
    await served.hears(6)
    await asyncio.sleep(0.05)
    assert (len(served.heard), served.server.in_flight) == (6, 4)
    served.answering = True
    for transaction in served.heard[2:]:
        answer(transaction)
    assert {(await raw.packet()).identifier for _ in range(99)} == set(range(100)) - {1}
    await raw.close()


async def test_who_does_not_read_is_not_read_from_and_then_closed(parties: Parties) -> None:
    served = parties.serve(limits=ServerLimits(stall_s=0.4))
    raw = await Raw.connect(served.address, parties.client_contexts().client)
    raw._writer.transport.pause_reading()  # type: ignore[attr-defined]
    big = tuple((1, bytes(253)) for _ in range(15))

    def flood() -> None:
        octets = b"".join(
            encode_request(1, number % 256, bytes([number % 256]) * 16, big, RADSEC_SECRET)
            for number in range(FLOOD)
        )
        raw.send(octets)

    served.answer = lambda transaction: transaction.respond(2, big)
    flood()
    await until(lambda: served.counters[names.RADSEC_STALLED] == 1, 15)
    await until(lambda: served.server.connections == 0)
    assert served.counters[names.REQUESTS] < FLOOD
    await raw.close()


async def test_what_is_in_flight_is_answered_before_the_end(parties: Parties) -> None:
    served = parties.serve()
    served.answering = False
    client = parties.client(served.address)
    task = asyncio.create_task(client.exchange(1, user("late")))
    await served.hears(1)
    served.server.stop_receiving()
    assert not await served.server.drain(0.05)
    with pytest.raises(NoAnswer):
        await parties.client(served.address).exchange(1, user("new"), deadline_s=0.2)
    asyncio.get_running_loop().call_later(0.05, answer, served.heard[0])
    assert await served.server.drain(5)
    await served.server.close()
    assert (await task).attributes[1] == (1, b"late")
    assert served.server.connections == 0


async def test_whoever_comes_again_and_again_has_one_line_of_the_log(parties: Parties) -> None:
    served = parties.serve()
    stranger = parties.contexts(parties.authority.issue("x", ["x.example"])).client
    with capture_logs() as logged:
        for _ in range(5):
            await (await connect_and_ask(served.address, parties.client_contexts().client)).close()
            refused = await Raw.connect(served.address, stranger)
            assert await refused.is_closed()
            await refused.close()
    assert served.counters[names.RADSEC_OPENED] == 5
    assert served.counters[names.RADSEC_UNKNOWN_PEER] == 5
    told = [(line["event"], line["source"], line["log_level"]) for line in logged]
    assert told == [("connected", HOME_AGENT.name, "info"), ("refused", "127.0.0.1", "warning")]
    assert logged[1]["names"] == ["x.example"]
