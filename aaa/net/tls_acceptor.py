"""Accepts TCP connections and bounds the TLS handshakes under way.

asyncio's own server takes in whatever comes and tells nobody until a handshake has succeeded, so
that connections which never say anything could fill the process.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from aaa.net.cycles import EndedConnections
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.counters import Counters

ACCEPTS_A_TURN: Final = 32
BACKLOG: Final = 256
OUT_OF_DESCRIPTORS_S: Final = 1.0  # asyncio's server waits as long

Handshake = Callable[[socket.socket], Coroutine[Any, Any, object]]


@dataclass(slots=True, eq=False)
class _UnderWay:
    accepted: socket.socket
    source: str
    task: asyncio.Task[None] | None = None
    begun: bool = False


class TlsAcceptor:
    """Runs `handshake` on each accepted socket, at most `maximum` of them at a time.

    When there are more, the oldest one of the source that has most of them is given up: a flood
    drowns itself, and whoever shakes hands at once is served.  `has_room` is asked first.
    """

    def __init__(
        self,
        handshake: Handshake,
        counters: Counters,
        *,
        maximum: int,
        has_room: Callable[[], bool],
        ended: EndedConnections,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handshake = handshake
        self._counters = counters
        self._maximum = maximum
        self._has_room = has_room
        self._ended = ended
        self._listening: list[socket.socket] = []
        self._under_way: dict[_UnderWay, None] = {}  # oldest first
        self._of_source: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._under_way)

    def listen(self, address: Address) -> Address:
        """Binds to a numeric `address`; port 0 takes a free one.  Raises `OSError`."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._listening.append(listening)
        self._loop.add_reader(listening, self._accept, listening)
        host, port = listening.getsockname()[:2]
        return host, port

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                accepted, source = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor or no memory: the kernel's queue waits, and so do we.
                self._loop.remove_reader(listening)
                self._loop.call_later(OUT_OF_DESCRIPTORS_S, self._listen_again, listening)
                return
            if not self._has_room():
                self._counters.add(names.RADSEC_NO_ROOM)
                accepted.close()
                continue
            accepted.setblocking(False)
            self._begin(_UnderWay(accepted, _source(source[0])))

    def _listen_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    def _begin(self, new: _UnderWay) -> None:
        if len(self._under_way) >= self._maximum:
            self._give_one_up()
        self._under_way[new] = None
        self._of_source[new.source] += 1
        new.task = self._loop.create_task(self._run(new))

    async def _run(self, new: _UnderWay) -> None:
        """What failed is let go at once: asyncio's frames are a cycle around a buffer of 256 kB.

        The collector comes late (aaa.serve.process), and a stranger can fail thousands of times.
        """
        new.begun = True
        try:
            await self._handshake(new.accepted)
        except OSError as error:  # an SSLError is one too, and so is a handshake that took too long
            self._counters.add(names.RADSEC_HANDSHAKE_FAILED)
            new.accepted.close()
            traceback.clear_frames(error.__traceback__)
            self._ended.add()
        except asyncio.CancelledError as error:
            traceback.clear_frames(error.__traceback__)
            self._ended.add()
            raise
        finally:
            self._forget(new)

    def _forget(self, ended: _UnderWay) -> None:
        if ended in self._under_way:
            del self._under_way[ended]
            self._of_source[ended.source] -= 1
            if not self._of_source[ended.source]:
                del self._of_source[ended.source]

    def _give_one_up(self) -> None:
        heaviest = self._of_source.most_common(1)[0][0]
        oldest = next(each for each in self._under_way if each.source == heaviest)
        self._counters.add(names.RADSEC_HANDSHAKE_EVICTED)
        self._cancel(oldest)

    def _cancel(self, given_up: _UnderWay) -> None:
        self._forget(given_up)
        if given_up.task is not None:
            given_up.task.cancel()
        if not given_up.begun:
            given_up.accepted.close()  # else it is the transport's, which cancelling closes

    def stop_listening(self) -> None:
        """No further connection; handshakes under way are given up."""
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        for each in list(self._under_way):
            self._cancel(each)


def _source(host: str) -> str:
    """Whose a handshake is: an IPv4 address, or the /64 that an IPv6 host chooses addresses in."""
    address = ip_address(host.partition("%")[0])
    if address.version == 4:
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.packed[:8].hex()
