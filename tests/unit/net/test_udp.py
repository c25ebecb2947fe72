"""The socket: bounded batches, full buffers, closing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aaa.net import udp
from aaa.net.udp import DATAGRAMS_A_TURN, Datagram, UdpEndpoint


def _into(heard: asyncio.Queue[bytes]) -> Callable[[list[Datagram]], None]:
    def put(batch: list[Datagram]) -> None:
        for octets, _ in batch:
            heard.put_nowait(octets)

    return put


async def test_one_callback_for_what_is_waiting_and_never_more_than_a_turn() -> None:
    batches: list[list[Datagram]] = []
    everything = asyncio.Event()

    def on_batch(batch: list[Datagram]) -> None:
        batches.append(batch)
        if sum(map(len, batches)) == 600:
            everything.set()

    receiver = UdpEndpoint.open(("127.0.0.1", 0), on_batch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        for number in range(600):
            sender.sendto(number.to_bytes(2, "big"), receiver.address)
        await asyncio.wait_for(everything.wait(), 5)
        source = sender.getsockname()
    assert [len(batch) for batch in batches] == [DATAGRAMS_A_TURN, DATAGRAMS_A_TURN, 88]
    flat = [datagram for batch in batches for datagram in batch]
    assert flat == [(n.to_bytes(2, "big"), source) for n in range(600)]
    receiver.close()


class _FullSocket:
    """A kernel that has no room until it is given some."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.full = True

    def sendto(self, octets: bytes, address: tuple[str, int]) -> int:
        if self.full:
            raise BlockingIOError
        return self._real.sendto(octets, address)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


async def test_a_full_buffer_queues_in_order_and_drops_beyond_the_bound() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    receiver = UdpEndpoint.open(("127.0.0.1", 0), _into(heard))
    sender = UdpEndpoint.open(("127.0.0.1", 0), lambda batch: None)
    full = _FullSocket(sender._socket)
    sender._socket = full  # type: ignore[assignment]
    count = udp.MAXIMUM_WAITING + 5
    sender.send_many((number.to_bytes(2, "big"), receiver.address) for number in range(count))
    assert sender.dropped == 5
    full.full = False
    for number in range(udp.MAXIMUM_WAITING):
        assert await asyncio.wait_for(heard.get(), 5) == number.to_bytes(2, "big")
    sender.send_many([(b"last", receiver.address)])
    assert await asyncio.wait_for(heard.get(), 5) == b"last"
    sender.close()
    receiver.close()


async def test_what_the_kernel_refuses_is_counted_and_the_rest_is_sent() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    receiver = UdpEndpoint.open(("127.0.0.1", 0), _into(heard))
    sender = UdpEndpoint.open(("127.0.0.1", 0), lambda batch: None)
    sender.send_many([(bytes(70_000), receiver.address), (b"small", receiver.address)])
    assert await asyncio.wait_for(heard.get(), 5) == b"small"
    assert sender.dropped == 1
    sender.close()
    sender.close()
    sender.send_many([(b"after", receiver.address)])
    receiver.stop_receiving()
    receiver.stop_receiving()
    receiver.close()
