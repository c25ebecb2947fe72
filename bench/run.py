"""The side-by-side benchmark: alternating rounds of ours and of FreeRADIUS on one PostgreSQL.

Every round's answers are checked and its rows counted; a figure for wrong answers is no figure.
How a table and the JSON look is bench.report's affair.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aaa.roles.mobile_node_terms import MnTerms
from bench import freeradius, postgres, registrations, report, roamkey
from bench.load import Check, Outcome, drive
from bench.process import BenchError, Server
from bench.report import FREERADIUS, OURS, Measured

OUTSTANDING: Final = (64, 1)
ALONE_SHARE: Final = 5  # one outstanding: a fifth of the requests, as it takes so much longer
DEFAULT_THREADS: Final = "4,8,16,32,64"
_WORKERS: Final = 2
_LEAD_S: Final = 2.0  # requests are built for this much later: computing and sending take time
_WARM_UP: Final = 500
_TUNING_PASSES: Final = 2

# What our nodes offer: pair 1 with forward secrecy, as a node does by default, or nothing.
OFFERS: Final = {"default": MnTerms(), "nothing": MnTerms(plans={})}

Build = Callable[[int, int], tuple[list[bytes], Check]]
"""Datagrams for `count` subscribers from number `first` on, and the check of their answers."""


@dataclass(frozen=True, slots=True)
class Side:
    """One running server under load."""

    name: str
    address: tuple[str, int]
    server: Server
    build: Build


@dataclass(slots=True)
class Bench:
    """The run: what was asked for, what both sides share, and what its end has to prove."""

    rounds: int
    requests: int
    database: postgres.Postgres
    offer: str  # a key of OFFERS
    accepted: dict[str, int] = field(default_factory=lambda: {OURS: 0, FREERADIUS: 0})

    def measure(self, side: Side, first: int, count: int, outstanding: int) -> Measured:
        """One round: `count` subscribers from number `first` on, one request of each."""
        datagrams, check = side.build(first, count)
        server_before, database_before = side.server.cpu_s(), self.database.server.cpu_s()
        outcome: Outcome = drive(side.address, datagrams, check, outstanding=outstanding)
        server_s = side.server.cpu_s() - server_before
        database_s = self.database.server.cpu_s() - database_before
        side.server.check_running()
        self.accepted[side.name] += outcome.accepted
        return Measured.of(side.name, outstanding, outcome, server_s, database_s)

    @property
    def population(self) -> int:
        """One subscriber for each request of our side: none registers twice."""
        return _WARM_UP + self.rounds * sum(map(self.count_at, OUTSTANDING))

    def count_at(self, outstanding: int) -> int:
        """How many requests a round has."""
        return self.requests if outstanding > 1 else max(1, self.requests // ALONE_SHARE)


def tune(
    bench: Bench, folder: Path, sizes: tuple[int, ...]
) -> tuple[int, dict[int, list[Measured]]]:
    """FreeRADIUS's best number of threads at the highest load, and what each number did."""
    tried: dict[int, list[Measured]] = {size: [] for size in sizes}
    count = max(1, bench.requests // 2)
    outstanding = max(OUTSTANDING)
    for number in range(_TUNING_PASSES if len(sizes) > 1 else 0):
        for size in sizes:
            with freeradius_side(folder / f"tune-{number}-{size}", bench, size) as side:
                bench.measure(side, 0, min(_WARM_UP, count), outstanding)
                tried[size].append(bench.measure(side, 0, count, outstanding))
    # The better of its passes: a disturbance makes a pass slower, nothing makes one faster.
    best = max(sizes, key=lambda size: max((m.per_s for m in tried[size]), default=0.0))
    return best, tried


@contextmanager
def freeradius_side(folder: Path, bench: Bench, threads: int) -> Iterator[Side]:
    """FreeRADIUS with so many threads."""
    with freeradius.running(folder, bench.database, threads) as running:

        def build(first: int, count: int) -> tuple[list[bytes], Check]:
            return freeradius.build_requests(running, range(first, first + count))

        yield Side(FREERADIUS, running.address, running.server, build)


@contextmanager
def roamkey_side(folder: Path, bench: Bench) -> Iterator[Side]:
    """Our home process with its population."""
    home = roamkey.prepare(folder, bench.database, bench.population)
    bench.database.settle(roamkey.DATABASE)
    # Spawned, not forked: the workers shall hold nothing of ours open.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:

        def build(first: int, count: int) -> tuple[list[bytes], Check]:
            load = registrations.precompute(
                home.enrolments[first : first + count],
                now=time.time() + _LEAD_S,
                secret=home.secret,
                terms=OFFERS[bench.offer],
                pool=pool,
                workers=_WORKERS,
            )
            return load.datagrams, load.check

        with roamkey.running(folder, home) as server:
            yield Side(OURS, home.address, server, build)


def run(bench: Bench, folder: Path, only: str | None, sizes: tuple[int, ...]) -> report.Report:
    """Everything, in order: populations, FreeRADIUS's tuning, warm-up, alternating rounds."""
    result = report.Report(bench.rounds, bench.requests, bench.database.settings())
    with ExitStack() as stack:
        sides: list[Side] = []
        if only != FREERADIUS:
            sides.append(stack.enter_context(roamkey_side(folder / "ours", bench)))
        if only != OURS:
            freeradius.prepare(bench.database, bench.population)
            bench.database.settle(freeradius.DATABASE)
            result.threads, result.tuning = tune(bench, folder, sizes)
            result.freeradius = freeradius.version()
            peer = freeradius_side(folder / "freeradius", bench, result.threads)
            sides.append(stack.enter_context(peer))
        for side in sides:
            bench.measure(side, 0, _WARM_UP, max(OUTSTANDING))
        bench.database.settle()
        first = _WARM_UP
        for _ in range(bench.rounds):
            for outstanding in OUTSTANDING:
                count = bench.count_at(outstanding)
                for side in sides:
                    measured = bench.measure(side, first, count, outstanding)
                    result.measured.append(measured)
                    report.show_round(measured)
                first += count
        prove(bench, [side.name for side in sides])
    return result


def prove(bench: Bench, names: list[str]) -> None:
    """Every request that was accepted has its rows; raises `BenchError`."""
    if FREERADIUS in names:
        expected = freeradius.ROWS_EACH * bench.accepted[FREERADIUS]
        if (found := freeradius.count_rows(bench.database)) != expected:
            raise BenchError(f"FreeRADIUS: {found} rows where {expected} were acknowledged")
    if OURS in names:
        registered, associations = roamkey.count_rows(bench.database)
        if (registered, associations) != (bench.accepted[OURS], 3 * bench.accepted[OURS]):
            raise BenchError(
                f"ours: {registered} registrations and {associations} associations"
                f" where {bench.accepted[OURS]} were acknowledged"
            )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--requests", type=_positive, default=3000, help="a round at 64")
    parser.add_argument("--only", choices=(OURS, FREERADIUS))
    parser.add_argument(
        "--threads", default=DEFAULT_THREADS, help="numbers of FreeRADIUS's threads to try"
    )
    parser.add_argument(
        "--offer", choices=tuple(OFFERS), default="default", help="what our nodes offer"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sizes = tuple(_positive(size) for size in arguments.threads.split(","))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if os.geteuid() == 0:
                folder.chmod(0o711)  # the unprivileged servers must enter it
            with postgres.running(folder) as database:
                bench = Bench(arguments.rounds, arguments.requests, database, arguments.offer)
                result = run(bench, folder, arguments.only, sizes)
    except (BenchError, ConnectionRefusedError) as error:
        raise SystemExit(f"bench: {error}") from None
    report.show(result)
    if arguments.json is not None:
        report.write_json(result, arguments.json)
    if any(measured.errors for measured in result.measured):
        raise SystemExit("bench: there were errors; the figures above are not to be used")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


if __name__ == "__main__":
    main()
