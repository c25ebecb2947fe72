"""`kdc subscriber import`: many subscribers out of a file, and what became of each line."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from kdc.cli.session import ConfigOption, JsonOption, keyed
from kdc.cli.subscriber import out
from kdc.config import KdcSettings
from kdc.crypto.transport import unwrap_key
from kdc.errors import LocalError
from kdc.store import importing, transport_keys
from kdc.store.database import Connection
from kdc.store.importing import Counts, Target
from kdc.store.keyring import Keyring
from kdc.store.resumable_file import ResumableFile
from kdc.store.subscriber_files import CSV, JSON_LINES, RowRules, SubscriberFile

Item = TypeVar("Item")
_AHEAD: Final = 2  # chunks read while the database works
_FORMATS: Final = {".csv": CSV, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".json": JSON_LINES}
FormatOption = Annotated[
    str | None, typer.Option("--format", help="csv or jsonl, where FILE does not end so")
]
TransportKeyOption = Annotated[
    str | None, typer.Option("--transport-key", metavar="NAME", help="what wraps the keys")
]


def import_(  # noqa: PLR0913, PLR0917 - one option each
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    config: ConfigOption,
    form: FormatOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell, and change nothing")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="change what differs, but never a key or a status")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="from the first line, though it was begun before")
    ] = False,
    transport_key: TransportKeyOption = None,
    keys_in_clear: Annotated[
        bool, typer.Option("--keys-in-clear", help="take keys that are not wrapped")
    ] = False,
    enrolments: Annotated[
        Path | None, typer.Option(help="where new keys go  [FILE.enrolments]")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="where lines go that were not taken  [FILE.report]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Provision the subscribers in FILE; after a kill the same command goes on where it was."""
    chosen = _format(file, form)
    written = enrolments or file.with_name(file.name + ".enrolments")
    told = report or file.with_name(file.name + ".report")
    if file.resolve() in (written.resolve(), told.resolve()):
        raise typer.BadParameter("expected --enrolments and --report to be other files than FILE")
    options = json.dumps(
        {
            "format": chosen,
            "update": update,
            "transport_key": transport_key,
            "keys_in_clear": keys_in_clear,
            "enrolments": str(written.resolve()),
            "report": str(told.resolve()),
        }
    )
    with keyed(config) as (settings, connection, keyring), file.open("rb") as opened:
        rules = _rules(settings, connection, keyring, transport_key, keys_in_clear=keys_in_clear)
        source = SubscriberFile(opened, chosen, rules)
        if dry_run:
            counts = _dry_run(connection, keyring, source, told, update=update)
        else:
            with ResumableFile(written) as keys, ResumableFile(told) as rejected:
                target = Target(keyring, keys, rejected, update, os.urandom)
                counts = _run(connection, opened, source, target, (options, restart))
    _tell(counts, told, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """`kdc subscriber` is one group in several files."""
    app.command("import")(import_)


def _format(file: Path, given: str | None) -> str:
    form = given or _FORMATS.get(file.suffix.lower(), "")
    if form not in (CSV, JSON_LINES):
        raise typer.BadParameter(f"expected --format {CSV} or {JSON_LINES}")
    return form


def _rules(
    settings: KdcSettings,
    connection: Connection,
    keyring: Keyring,
    transport_key: str | None,
    *,
    keys_in_clear: bool,
) -> RowRules:
    agents = {item.address: item.nai for item in settings.identities()}
    if transport_key is None:
        return RowRules(agents, keys_in_clear)
    key = transport_keys.load(connection, transport_key, keyring)
    connection.rollback()
    return RowRules(agents, keys_in_clear, functools.partial(unwrap_key, transport_key=key))


def _run(
    connection: Connection,
    file: BufferedReader,
    source: SubscriberFile,
    target: Target,
    begun_with: tuple[str, bool],
) -> Counts:
    options, restart = begun_with
    progress = importing.begin(
        connection,
        _digest(file),
        options,
        restart=restart,
        enrolments_octets=target.enrolments.octets,
    )
    target.enrolments.cut(progress.enrolments_octets)
    target.report.cut(progress.report_octets)
    lines = source.lines(octet=progress.next_octet, number=progress.next_line)
    with _bar(file, progress.next_octet) as (bar, task):
        for chunk in _ahead(importing.chunks(lines)):
            progress = importing.apply(connection, progress, chunk, target)
            bar.update(task, completed=progress.next_octet)
    importing.finish(connection, progress)
    return progress.counts


def _dry_run(
    connection: Connection, keyring: Keyring, source: SubscriberFile, told: Path, *, update: bool
) -> Counts:
    """Reads the database and writes the report; nothing is locked meanwhile."""
    counts = Counts()
    with ResumableFile(told) as rejected:
        rejected.cut(0)
        for chunk in _ahead(importing.chunks(source.lines())):
            judged = importing.judge(connection, chunk, keyring, update=update)
            connection.rollback()
            rejected.append(importing.report(judged))
            counts = counts.plus(judged.counts)
    return counts


def _digest(file: BufferedReader) -> bytes:
    """What tells whether it is the file that an unfinished import was begun with."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def _bar(file: BufferedReader, completed: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    total = os.fstat(file.fileno()).st_size
    console = Console(stderr=True)
    disabled = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=disabled) as bar:
        yield bar, bar.add_task("importing", total=total, completed=completed)


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, read and judged by a thread while the database works; none of them None."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        ready = deque(reader.submit(next, items, None) for _ in range(_AHEAD))
        while (item := ready.popleft().result()) is not None:
            ready.append(reader.submit(next, items, None))
            yield item


def _tell(counts: Counts, report: Path, *, as_json: bool) -> None:
    found = {name: getattr(counts, name) for name in Counts.__dataclass_fields__}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        out.print(", ".join(f"{count} {name}" for name, count in found.items()))
    if counts.bad or counts.differing:
        raise LocalError(f"some lines were not taken: {report} names each with its reason")
