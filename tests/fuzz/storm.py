"""A storm of mutated RADIUS packets against real processes: `python -m tests.fuzz.storm --seed N`.

It starts `aaa home` on a PostgreSQL of its own, by UDP and by TLS, `aaa foreign` and `aaa agent`
before it and `kdc serve` beside it, sends to each of their RADIUS ports, and in between demands
what a server owes: that a good request is granted, Status-Server answered, memory flat, no
traceback in a log, and a counter for each packet.  Exit status 1 where one is missing.  The same
seed makes the same changes to packets of tests/vectors; those of the live registrations among them
hold fresh keys and times, so that a packet that broke something is kept as it was (`--keep`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from aaa.radius.packet import Packet
from tests.conftest import running_postgres, temporary_folder
from tests.fuzz.radius_mutation import storm_packet
from tests.fuzz.storm_figures import (
    Counters,
    Figures,
    GrowingLog,
    Unanswered,
    count_forwarded,
    last_counters,
)
from tests.fuzz.storm_link import Link, UdpLink, Watch
from tests.fuzz.storm_targets import LIVE, GoodPackets, Target, keep_packets, start, targets_of
from tests.integration.domains import Domains

FRESH_EVERY_S: Final = 2.0  # a request is good for seven seconds: the mutated ones stay near one
CHECKS: Final = 20  # good registrations at each target during the storm
WARM_UP: Final = 0.1  # of the storm: caches, duplicates and pools have filled by then
SUBSCRIBERS: Final = 600  # of mutated requests, again and again


@dataclass(slots=True)
class Front:
    """A target under storm."""

    target: Target
    link: Link
    watch: Watch
    log: GrowingLog
    bases: list[Packet]
    mutated: int = 0
    warm_kb: int = 0
    recent: deque[tuple[int, bytes]] = field(
        default_factory=lambda: deque(maxlen=2 * UdpLink.burst)
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and from which seed."""

    packets: int
    seed: int
    seconds: float | None = None
    keep: Path | None = None


class Storm:
    """One run; `domains` is configured and nothing of it runs."""

    def __init__(self, domains: Domains, plan: Plan) -> None:
        self._domains, self._plan = domains, plan
        self._fronts: list[Front] = []
        self._started = 0.0
        self.number = 0  # of the packet that was sent last

    def run(self) -> list[Figures]:
        """Raises `Unanswered`; the packets that came before it are then kept."""
        try:
            self._prepare()
            self._send_all()
            figures = self._stop()
            for one in figures:
                one.judge()
        except Unanswered as error:
            raise Unanswered(f"{error}; {self._keep()}") from None
        finally:
            for front in self._fronts:
                front.link.close()
        return figures

    def _prepare(self) -> None:
        targets = targets_of(self._domains)
        # One at each check, at the start and at the end.
        self._good = GoodPackets(
            self._domains, once=len(targets) * (CHECKS + 2), mutated=SUBSCRIBERS
        )
        start(self._domains, targets)
        for target in targets:
            watch = Watch(self._domains.processes[target.process].pid, target.address)
            bases = list(self._good.bases(target))
            log = GrowingLog(self._domains.folder / f"{target.process}.log")
            self._fronts.append(Front(target, target.link(), watch, log, bases))

    def _send_all(self) -> None:
        self._started = fresh_at = time.monotonic()
        checked = 0
        while self.number < self._plan.packets and self._progress() < 1:
            for front in self._fronts:
                self.burst(front)
            if time.monotonic() >= fresh_at + FRESH_EVERY_S:
                fresh_at = time.monotonic()
                self._freshen()
            if self._progress() >= WARM_UP and not self._fronts[0].warm_kb:
                for front in self._fronts:
                    front.warm_kb = front.watch.resident_kb()
            if self._progress() * CHECKS >= checked:
                checked += 1
                self._check_all()
        self._check_all()

    def _progress(self) -> float:
        done = self.number / self._plan.packets
        if self._plan.seconds is None:
            return done
        return max(done, (time.monotonic() - self._started) / self._plan.seconds)

    def burst(self, front: Front) -> None:
        """As many mutated packets as the server has room for, and a Status-Server behind them."""
        try:
            for _ in range(min(front.link.burst, self._plan.packets - self.number)):
                self._send_one(front)
            front.link.settle()
            front.log.check()
        except Unanswered as error:
            raise Unanswered(f"{front.target.process}: {error}") from None

    def _send_one(self, front: Front) -> None:
        self.number += 1
        # Each packet has its own source of chance: seed and number alone make it again.
        rng = Random(self._plan.seed << 32 | self.number)
        target = front.target
        packet = storm_packet(rng, front.bases, target.codes, target.secret.reveal())
        front.recent.append((self.number, packet))
        front.link.send(self.number, packet)
        front.mutated += 1

    def _freshen(self) -> None:
        for front in self._fronts:
            live, _ = self._good.live(front.target)
            front.bases[-LIVE:] = [live] * LIVE

    def _check_all(self) -> None:
        """A good registration is granted, Status-Server answered, and the process alive."""
        for front in self._fronts:
            name = front.target.process
            packet, judge = self._good.unused(front.target)
            try:
                judge(front.link.ask(packet.octets))
                front.link.settle()
            except (ValueError, KeyError, Unanswered) as error:
                raise Unanswered(f"{name}: a good registration: {error}") from None
            if self._domains.processes[name].poll() is not None:
                raise Unanswered(f"{name} has ended")

    def _keep(self) -> str:
        """Writes what was sent last to each target, where a folder is given for it."""
        plan, where = self._plan, f"seed {self._plan.seed}, packet {self.number}"
        if plan.keep is None:
            return where
        for front in self._fronts:
            keep_packets(plan.keep, plan.seed, front.target.process, list(front.recent))
        return f"{where}, and those before it in {plan.keep}"

    def _stop(self) -> list[Figures]:
        """Stops all, what forwards before what it forwards to, and reads the counters."""
        processes: dict[str, list[Front]] = {}
        for front in self._fronts:
            processes.setdefault(front.target.process, []).append(front)
        told: dict[str, Counters] = {}
        passed_on: dict[str, int] = {}  # by each process, and not yet seen at another
        figures = []
        for name, fronts in reversed(processes.items()):
            growth_kb = fronts[0].watch.resident_kb() - fronts[0].warm_kb
            dropped = sum(front.watch.dropped() for front in fronts)
            told[name] = self._end(name)
            passed_on[name] = count_forwarded(told[name])
            before = [f.target for f in self._fronts if f.target.forwards_to == name]
            apart = [target for target in before if target.forwarded_by is not None]
            one = Figures(
                process=name,
                mutated=sum(front.mutated for front in fronts),
                sent=sum(front.link.sent for front in fronts),
                answered=sum(front.link.answered for front in fronts),
                forwarded=0 if apart else sum(passed_on[p] for p in {t.process for t in before}),
                dropped=dropped,
                growth_kb=growth_kb,
                counters=told[name],
                is_proxy=any(front.target.forwards_to is not None for front in fronts),
                stream=any(front.target.tls is not None for front in fronts),
            )
            for target in apart:
                one = one.forwarded_of(told[target.process].get(target.forwarded_by or "", 0))
                passed_on[target.process] -= one.forwarded
            figures.append(one)
        return figures[::-1]

    def _end(self, name: str) -> Counters:
        status = self._domains.stop(name)
        if status:
            raise Unanswered(f"{name} ended with status {status}")
        try:
            return last_counters(self._domains.log(name))
        except Unanswered as error:
            raise Unanswered(f"{name}: {error}") from None


@contextmanager
def own_domains() -> Iterator[Domains]:
    """Two domains on a PostgreSQL of their own, gone at the end."""
    with (
        temporary_folder() as folder,
        temporary_folder() as configurations,
        running_postgres(folder) as postgres,
        postgres.fresh_database() as name,
    ):
        domains = Domains(configurations, postgres, name)
        domains.configure()
        try:
            yield domains
        finally:
            domains.kill_all()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.storm", description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop then, however many have been sent")
    parser.add_argument("--keep", type=Path, help="a folder for the packets before a failure")
    given = parser.parse_args()
    plan = Plan(given.packets, given.seed, given.seconds, given.keep)
    started = time.monotonic()
    with own_domains() as domains:
        try:
            figures = Storm(domains, plan).run()
        except Unanswered as error:
            sys.stderr.write(f"storm failed: {error}\n")
            return 1
    tested = sum(one.tested for one in figures)
    sys.stdout.write(
        f"storm of seed {plan.seed}: {tested} mutated packets tested in"
        f" {time.monotonic() - started:.0f} s; {'; '.join(map(str, figures))}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
