"""`kdc audit`: what was issued and administered, whether that is still what is stored, and by whom.

What is shown has pseudonyms; `kdc audit who` resolves one, and is itself an act.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kdc.audit.check import Checker, Report
from kdc.audit.export import Export, write_lines
from kdc.audit.finding import Finding
from kdc.cli.session import ConfigOption, JsonOption
from kdc.config import load_kdc, read_secret_file
from kdc.crypto.checkpoint_key import KEY_OCTETS, create_checkpoint_key, public_key_of
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store import audit, migrate
from kdc.store.audit_stream import streamed
from kdc.store.database import Connection, administration, database

app = typer.Typer(
    help="The audit: what was issued, and what was administered.", no_args_is_help=True
)
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
_TOLD_EVERY: Final = 10_000

PublicKeyOption = Annotated[
    list[Path] | None,
    typer.Option("--public-key", help="of `kdc audit keygen`; repeat it for keys of before"),
]


@contextmanager
def _connected(config: Path) -> Iterator[Connection]:
    """Without the key-encryption key: an auditor has no use for it."""
    settings = load_kdc(config).database
    with database(settings) as conninfo, administration(conninfo) as connection:
        migrate.require_current(connection)
        yield connection


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="new; FILE.pub is written beside it")],
) -> None:
    """Make a key that signs checkpoints; keep it where the database's administrator is not."""
    key = create_checkpoint_key(os.urandom)
    public = file.with_name(f"{file.name}.pub")
    for path, octets, mode in (
        (file, key.reveal(), 0o600),
        (public, public_key_of(key), 0o644),
    ):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise LocalError(f"{path}: expected a new file: {error.strerror}") from None
        with os.fdopen(descriptor, "w") as opened_file:
            opened_file.write(octets.hex() + "\n")
    out.print(f"{file}: a new key; {public} is what `kdc audit verify --public-key` takes")


@app.command()
def checkpoint(
    config: ConfigOption,
    key: Annotated[Path, typer.Option("--key", help="of `kdc audit keygen`, mode 0600")],
    public_key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify all chains, and sign how far they have come."""
    secret = _read_key(key)
    keys = [public_key_of(secret), *(_read_public_key(path) for path in public_key or ())]
    with _connected(config) as connection:
        with _telling() as tell, streamed(connection) as found:
            checker = Checker(found.kinds, found.checkpoints, keys, progress=tell)
            report = checker.run(found.groups)
        if report.finding is not None:
            _print_report(report, {}, as_json=as_json)
            raise typer.Exit(1)
        made = audit.add_checkpoint(connection, report.heads, secret)
    if as_json:
        typer.echo(json.dumps({"number": made.number, "hash": made.hash.hex()}))
    else:
        out.print(f"checkpoint {made.number}: {made.hash.hex()}")


def _read_key(file: Path) -> Secret:
    """Raises `LocalError`."""
    try:
        octets = bytes.fromhex(read_secret_file(file, minimum_octets=1).reveal().decode("ascii"))
    except ValueError as error:
        reason = str(error) if "expected" in str(error) else "expected 64 hex digits"
        raise LocalError(f"{file}: {reason}; `kdc audit keygen` makes such a file") from None
    if len(octets) != KEY_OCTETS:
        raise LocalError(f"{file}: expected 64 hex digits; `kdc audit keygen` makes such a file")
    return Secret(octets)


def _read_public_key(file: Path) -> bytes:
    """Raises `LocalError`."""
    try:
        octets = bytes.fromhex(file.read_text("ascii").strip())
    except (OSError, ValueError):
        octets = b""
    if len(octets) != KEY_OCTETS:
        raise LocalError(f"{file}: expected the FILE.pub that `kdc audit keygen` has written")
    return octets


@app.command()
def verify(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="home.toml or kdc.toml", dir_okay=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="of `kdc audit export`, instead of a database")
    ] = None,
    public_key: PublicKeyOption = None,
    covered_since: Annotated[
        datetime | None,
        typer.Option(help="UTC; registrations since then without an entry are a fault"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify all chains; names the first entry that was edited, removed, inserted or moved."""
    if (config is None) == (file is None):
        raise typer.BadParameter("expected either --config or --file")
    keys = [_read_public_key(path) for path in public_key or ()]
    not_covered: dict[str, Any] = {}
    late = False
    with ExitStack() as stack:
        tell = stack.enter_context(_telling())
        if file is not None:
            export = Export(stack.enter_context(_opened_file(file)))
            checker = Checker(export.kinds, export.checkpoints, keys, progress=tell)
            report = checker.run(export.groups)
        else:
            assert config is not None
            found = stack.enter_context(streamed(stack.enter_context(_connected(config))))
            checker = Checker(found.kinds, found.checkpoints, keys, progress=tell)
            report = checker.run(found.groups)
            last = found.last_not_covered
            not_covered = {
                "not_covered": found.not_covered,
                "last_not_covered": last.astimezone(UTC).isoformat() if last else None,
            }
            late = (
                last is not None
                and covered_since is not None
                and last >= covered_since.replace(tzinfo=UTC)
            )
    _print_report(report, not_covered, as_json=as_json)
    if late:
        err.print("registrations without an entry are there since --covered-since")
    if report.finding is not None or late:
        raise typer.Exit(1)


@contextmanager
def _opened_file(file: Path) -> Iterator[Iterator[str]]:
    try:
        opened_file = file.open(encoding="utf-8")
    except OSError as error:
        raise LocalError(f"{file}: expected a file that we can read: {error.strerror}") from None
    with opened_file:
        yield iter(opened_file)


@contextmanager
def _telling() -> Iterator[Callable[[int], None]]:
    """How far it is, on standard error where somebody watches."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("verifying")
        told = 0

        def tell(items: int) -> None:
            nonlocal told
            if items - told >= _TOLD_EVERY:
                told = items
                progress.update(task, description=f"{items:,} items verified")

        yield tell


def _print_report(report: Report, not_covered: dict[str, Any], *, as_json: bool) -> None:
    finding = report.finding
    if as_json:
        told: dict[str, Any] = dataclasses.asdict(report)
        del told["heads"]
        if finding is not None:
            told["finding"]["at"] = _time(finding)
        typer.echo(json.dumps({"sound": finding is None, **told, **not_covered}))
        return
    out.print(
        f"{report.items} items in {report.entries} entries of {report.chains} chains,"
        f" {report.checkpoints} checkpoints"
    )
    if report.checkpoints and not report.signatures_verified:
        out.print("checkpoints: signatures not verified, expected --public-key")
    if report.expired:
        out.print(f"{report.expired} entries whose items are gone as an act of retention says")
    if not_covered.get("not_covered"):
        out.print(
            f"{not_covered['not_covered']} registrations without an entry, as a release before the"
            f" audit writes them; the last at {not_covered['last_not_covered']}"
        )
    if finding is None:
        out.print("sound")
    else:
        out.print(_finding_line(finding))


def _finding_line(finding: Finding) -> str:
    place = [f"number {finding.sequence}"]
    if finding.writer is not None:
        place = [f"writer {finding.writer}", f"sequence {finding.sequence}"]
    if finding.position is not None:
        place.append(f"position {finding.position}")
    if finding.at_us is not None:
        place.append(f"time {_time(finding)}")
    text = f": {finding.text}" if finding.text else ""
    return f"NOT SOUND: {finding.what} {finding.fault.value} ({', '.join(place)}){text}"


def _time(finding: Finding) -> str | None:
    if finding.at_us is None:
        return None
    return datetime.fromtimestamp(finding.at_us / 1_000_000, UTC).isoformat()


@app.command()
def export(config: ConfigOption) -> None:
    """Write all of it as JSON Lines to standard output, for `kdc audit verify --file`."""
    with _connected(config) as connection, streamed(connection) as found:
        for line in write_lines(found.kinds, found.checkpoints, found.groups):
            typer.echo(line)


@app.command()
def tail(
    config: ConfigOption,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="so many items")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the last items, the latest at the end."""
    with _connected(config) as connection:
        lines = audit.tail(connection, limit=limit)
    for line in lines:
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(line), default=str))
        else:
            place = f"{line.writer}/{line.sequence}/{line.position}"
            told = f"{line.actor} {line.what} {line.subject} {line.details}"
            # What others have written is shown as text, never as a terminal's commands.
            shown = "".join(c if c.isprintable() else "\ufffd" for c in told)
            out.print(f"{line.at.isoformat(' ', 'seconds')} {place} {shown}")


@app.command()
def who(
    pseudonym: Annotated[str, typer.Argument(help="subscriber:UUID or record:NUMBER")],
    config: ConfigOption,
    as_json: JsonOption = False,
) -> None:
    """Say whom a pseudonym is; that it was asked, and by whom, is recorded first."""
    with _connected(config) as connection:
        person = audit.who(connection, pseudonym)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(person)))
        return
    for key, value in dataclasses.asdict(person).items():
        out.print(f"{key:<14} {value}")
