"""A non-blocking UDP socket that drains itself: one callback for all datagrams that were waiting.

asyncio's datagram transport makes one callback for each datagram, at 2.5 times the cost; nothing
here knows what the octets mean.  Bind to single addresses: an answer from the wildcard address
leaves by whatever the routing table says, not always from where the request went.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

DATAGRAMS_A_TURN: Final = 256
RECEIVE_BUFFER_OCTETS: Final = 4 * 1024 * 1024
MAXIMUM_DATAGRAM_OCTETS: Final = 4097  # one more than RADIUS allows, so that too long is seen
MAXIMUM_WAITING: Final = 4096  # datagrams kept while the kernel's buffer is full
_SO_RCVBUFFORCE: Final = 33  # Linux: beyond rmem_max, for a process with CAP_NET_ADMIN

Address = tuple[str, int]
Datagram = tuple[bytes, Address]


class UdpEndpoint:
    """One bound socket.  `on_batch` gets each drained list of at most 256 (octets, address).

    Addresses are (host, port) as numbers; the zone of a link-local IPv6 source is part of the host.
    """

    def __init__(self, bound: socket.socket, on_batch: Callable[[list[Datagram]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = bound
        self._on_batch = on_batch
        self._waiting: deque[Datagram] = deque()
        self._receiving = True
        self._closed = False
        self.dropped = 0  # not sent: no room, or refused by the kernel
        host, port = bound.getsockname()[:2]
        self.address: Address = (host, port)
        self._loop.add_reader(bound, self._drain)

    @classmethod
    def open(
        cls, address: Address, on_batch: Callable[[list[Datagram]], None], *, family: int = 0
    ) -> UdpEndpoint:
        """Binds to a numeric `address`; port 0 takes a free one.  Raises `OSError`."""
        if not family:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)
            with contextlib.suppress(OSError):
                bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_OCTETS)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return cls(bound, on_batch)

    def _drain(self) -> None:
        batch: list[Datagram] = []
        receive = self._socket.recvfrom
        for _ in range(DATAGRAMS_A_TURN):
            try:
                octets, source = receive(MAXIMUM_DATAGRAM_OCTETS)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error of an earlier datagram of ours; it is not the next one's
            batch.append((octets, (source[0], source[1])))
        if batch:
            self._on_batch(batch)

    def send_many(self, datagrams: Iterable[Datagram]) -> None:
        """Sends or queues them in order; drops and counts what finds no room."""
        if self._closed:
            return
        for datagram in datagrams:
            if self._waiting or not self._send(datagram):
                self._wait(datagram)

    def _send(self, datagram: Datagram) -> bool:
        """False if the kernel has no room; a datagram that it refuses is dropped and counted."""
        try:
            self._socket.sendto(datagram[0], datagram[1])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.dropped += 1
        return True

    def _wait(self, datagram: Datagram) -> None:
        if len(self._waiting) >= MAXIMUM_WAITING:
            self.dropped += 1
            return
        if not self._waiting:
            self._loop.add_writer(self._socket, self._flush)
        self._waiting.append(datagram)

    def _flush(self) -> None:
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self._socket)

    def stop_receiving(self) -> None:
        """No further batch; sending goes on.  What the kernel holds is lost at `close`."""
        if self._receiving:
            self._receiving = False
            self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Closes the socket; what still waits is sent if the kernel takes it at once."""
        if self._closed:
            return
        self.stop_receiving()
        if self._waiting:
            self._flush()
        if self._waiting:
            self.dropped += len(self._waiting)
            self._loop.remove_writer(self._socket)
        self._closed = True
        self._socket.close()
