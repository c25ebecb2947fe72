"""What a run of the benchmark found: figures of each round, medians, a table and JSON.

Nothing is measured here.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.table import Table

from bench.load import Outcome

OURS: Final = "roamkey"
FREERADIUS: Final = "freeradius"
# A pipe has no width of its own; the tables need this much.
_WIDTH: Final = 160
_out = Console(highlight=False, width=max(_WIDTH, Console().width))


@dataclass(frozen=True, slots=True)
class Measured:
    """One round.  Processor times are of one accepted request, the generator's not among them."""

    side: str
    outstanding: int
    requests: int
    accepted: int
    errors: dict[str, int]
    per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    database_cpu_us: float
    generator_cpu_us: float

    @classmethod
    def of(
        cls, side: str, outstanding: int, outcome: Outcome, server_s: float, database_s: float
    ) -> Self:
        each_us = 1e6 / max(1, outcome.accepted)
        return cls(
            side,
            outstanding,
            outcome.requests,
            outcome.accepted,
            outcome.errors,
            outcome.per_s,
            outcome.percentile_s(50) * 1e3,
            outcome.percentile_s(99) * 1e3,
            server_s * each_us,
            database_s * each_us,
            outcome.generator_cpu_s * each_us,
        )


@dataclass(slots=True)
class Report:
    """A whole run."""

    rounds: int
    requests: int
    postgresql: dict[str, str]
    freeradius: str | None = None
    threads: int | None = None  # FreeRADIUS's, the best of those tried
    tuning: dict[int, list[Measured]] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)


_COLUMNS: Final[tuple[tuple[str, Callable[[Measured], float], str], ...]] = (
    ("requests/s", lambda m: m.per_s, "{:.0f}"),
    ("p50 ms", lambda m: m.p50_ms, "{:.2f}"),
    ("p99 ms", lambda m: m.p99_ms, "{:.2f}"),
    ("server us", lambda m: m.server_cpu_us, "{:.0f}"),
    ("PostgreSQL us", lambda m: m.database_cpu_us, "{:.0f}"),
    ("generator us", lambda m: m.generator_cpu_us, "{:.0f}"),
)


def show_round(measured: Measured) -> None:
    """One line while the run goes on."""
    _out.print(
        f"{measured.side:<11}{measured.outstanding:>3} outstanding "
        f"{measured.per_s:>7.0f}/s  p50 {measured.p50_ms:.2f} ms  p99 {measured.p99_ms:.2f} ms"
        + (f"  errors {measured.errors}" if measured.errors else "")
    )


def show(report: Report) -> None:
    """The tables: FreeRADIUS's tuning, then the medians with lowest and highest round."""
    if any(report.tuning.values()):
        table = Table("threads = connections", "requests/s, each pass", "errors", title="tuning")
        for size, passes in report.tuning.items():
            chosen = " (chosen)" if size == report.threads else ""
            rates = ", ".join(f"{m.per_s:.0f}" for m in passes)
            table.add_row(
                f"{size}{chosen}", rates, str(sum(sum(m.errors.values()) for m in passes))
            )
        _out.print(table)
    table = Table("", "outstanding", *(name for name, _, _ in _COLUMNS), "errors")
    table.title = (
        f"medians of {report.rounds} rounds (lowest - highest); us: processor time of one request"
    )
    for (side, outstanding), rounds in _grouped(report).items():
        cells = [_cell([value(m) for m in rounds], form) for _, value, form in _COLUMNS]
        errors = sum(sum(m.errors.values()) for m in rounds)
        table.add_row(side, str(outstanding), *cells, str(errors))
    _out.print(table)


def write_json(report: Report, file: Path) -> None:
    """The whole report, its medians and the machine, as one JSON object."""
    medians = [
        {
            "side": side,
            "outstanding": outstanding,
            **{name: statistics.median(value(m) for m in rounds) for name, value, _ in _COLUMNS},
        }
        for (side, outstanding), rounds in _grouped(report).items()
    ]
    machine = {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    content = {"machine": machine, "medians": medians, **asdict(report)}
    file.write_text(json.dumps(content, indent=2) + "\n")


def _grouped(report: Report) -> dict[tuple[str, int], list[Measured]]:
    groups: dict[tuple[str, int], list[Measured]] = {}
    for measured in report.measured:
        groups.setdefault((measured.side, measured.outstanding), []).append(measured)
    return dict(sorted(groups.items(), key=lambda item: (-item[0][1], item[0][0] != OURS)))


def _cell(values: list[float], form: str) -> str:
    median, low, high = (
        form.format(value) for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({low}-{high})"
