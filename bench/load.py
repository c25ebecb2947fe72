"""The load generator: precomputed RADIUS requests over UDP, a fixed number outstanding.

It sends every request once: one without a right answer in time is an error.  What the requests say
and what a right answer is comes from the caller; answers are checked after the last one, so that
checking them takes no processor time from the server while it is measured.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

IDENTIFIERS: Final = 256  # RFC 2865 §3: one octet
_MAXIMUM_SOCKETS: Final = 64
_BUFFER_OCTETS: Final = 4 * 2**20
_SWEEP_S: Final = 0.1

Check = Callable[[int, bytes], None]
"""Takes a request's index and its answer; raises any exception whose name will be counted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round of requests saw."""

    requests: int
    accepted: int  # with a right answer
    elapsed_s: float  # from the first request sent to the last answer received
    latencies_s: tuple[float, ...]  # of all answered requests, sorted
    errors: dict[str, int] = field(default_factory=dict)  # by kind: "lost", or what a check raised
    generator_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Right answers in a second."""
        return self.accepted / self.elapsed_s if self.elapsed_s else 0.0

    def percentile_s(self, percent: float) -> float:
        """The latency that `percent` of the answered requests did not exceed (nearest rank)."""
        if not self.latencies_s:
            return float("nan")
        rank = -(-len(self.latencies_s) * percent // 100)
        return self.latencies_s[max(0, int(rank) - 1)]


def identifier_of(index: int) -> int:
    """The RADIUS identifier that request number `index` of a round must carry."""
    return index % IDENTIFIERS


class _Round:
    """One round under way: who is outstanding, and what came back."""

    def __init__(self, target: tuple[str, int], datagrams: Sequence[bytes]) -> None:
        self._datagrams = datagrams
        # As many sockets as give each request an identifier of its own, as long as they last.
        count = min(_MAXIMUM_SOCKETS, -(-len(datagrams) // IDENTIFIERS))
        self._sockets = [_open_socket(target) for _ in range(count)]
        self._numbers = {s.fileno(): number for number, s in enumerate(self._sockets)}
        self._poll = select.epoll()
        for descriptor in self._numbers:
            self._poll.register(descriptor, select.EPOLLIN)
        self.pending: dict[int, int] = {}  # socket and identifier -> index, in order of sending
        self.sent_at = [0.0] * len(datagrams)
        self.latency_s: list[float] = [0.0] * len(datagrams)
        self.answers: list[bytes | None] = [None] * len(datagrams)
        self.next_index = 0
        self.last_answer_at = 0.0

    def close(self) -> None:
        self._poll.close()
        for one in self._sockets:
            one.close()

    def send_up_to(self, outstanding: int) -> None:
        """Sends until `outstanding` requests are under way or all have been sent."""
        total, pending = len(self._datagrams), self.pending
        while len(pending) < outstanding and self.next_index < total:
            index = self.next_index
            number = (index // IDENTIFIERS) % len(self._sockets)
            key = number * IDENTIFIERS + index % IDENTIFIERS
            if key in pending:  # the identifier's last user is still waited for
                return
            pending[key] = index
            self.next_index += 1
            self.sent_at[index] = time.perf_counter()
            self._sockets[number].send(self._datagrams[index])

    def receive(self, wait_s: float) -> None:
        """Takes what has arrived, waiting at most `wait_s` for the first."""
        for descriptor, _ in self._poll.poll(wait_s):
            number = self._numbers[descriptor]
            receive = self._sockets[number].recv
            while True:
                try:
                    octets = receive(4096)
                except BlockingIOError:
                    break
                now = time.perf_counter()
                if len(octets) < 20:
                    continue
                index = self.pending.pop(number * IDENTIFIERS + octets[1], None)
                if index is None:
                    continue  # one given up already, or a second answer
                self.answers[index] = octets
                self.latency_s[index] = now - self.sent_at[index]
                self.last_answer_at = now
                if not self.pending:
                    break

    def give_up_before(self, moment: float) -> None:
        """Those sent before `moment` are lost."""
        for key, index in list(self.pending.items()):
            if self.sent_at[index] >= moment:
                break
            del self.pending[key]

    @property
    def finished(self) -> bool:
        return self.next_index == len(self._datagrams) and not self.pending


def drive(
    target: tuple[str, int],
    datagrams: Sequence[bytes],
    check: Check,
    *,
    outstanding: int,
    patience_s: float = 3.0,
    deadline_s: float = 60.0,
) -> Outcome:
    """Sends all `datagrams` to `target`, keeping `outstanding` under way, and checks the answers.

    Datagram number n carries `identifier_of(n)`.  A request not answered within `patience_s` is
    lost; after `deadline_s` seconds all that is left is lost.  Raises `ConnectionRefusedError`
    when nobody listens at `target`.
    """
    work = _Round(target, datagrams)
    gc.collect()
    gc.disable()  # a collection would be seen as latency of the server
    try:
        started, cpu_started = time.perf_counter(), time.process_time()
        next_sweep = started + _SWEEP_S
        while not work.finished:
            work.send_up_to(outstanding)
            work.receive(_SWEEP_S)
            now = time.perf_counter()
            if now >= next_sweep:
                work.give_up_before(now - patience_s)
                next_sweep = now + _SWEEP_S
                if now - started > deadline_s:
                    break
        cpu_s = time.process_time() - cpu_started
    finally:
        gc.enable()
        work.close()
    return _judge(work, check, started, cpu_s)


def _judge(work: _Round, check: Check, started: float, cpu_s: float) -> Outcome:
    errors: Counter[str] = Counter()
    accepted, latencies = 0, []
    for index, octets in enumerate(work.answers):
        if octets is None:
            errors["lost"] += 1
            continue
        latencies.append(work.latency_s[index])
        try:
            check(index, octets)
        except Exception as error:  # noqa: BLE001 - any failed check is a count
            errors[type(error).__name__] += 1
        else:
            accepted += 1
    elapsed_s = max(work.last_answer_at - started, 0.0)
    return Outcome(
        len(work.answers), accepted, elapsed_s, tuple(sorted(latencies)), dict(errors), cpu_s
    )


def _open_socket(target: tuple[str, int]) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
    one.connect(target)
    return one
