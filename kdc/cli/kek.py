"""`kdc kek`: the versions of the key-encryption key, the data keys under them, and their root.

The order of a change: add, activate, rewrap, purge (docs/decisions/0010-root-in-a-token.md).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kdc.cli.session import ConfigOption, JsonOption, opened
from kdc.config import load_kdc
from kdc.crypto.kek import KEK_OCTETS
from kdc.errors import LocalError
from kdc.store import keks, migrate, reseal
from kdc.store.database import Connection
from kdc.store.keks import Pace
from kdc.store.keyring import Keyring
from kdc.store.roots import Roots

app = typer.Typer(help="The keys that everything at rest is sealed with.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="say what would be done")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="as `kdc kek list` shows it")]


@app.command()
def create(file: Path) -> None:
    """Make FILE with a fresh key, readable by its owner alone; an existing file stays."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LocalError(f"{file}: expected a new file: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file_opened:
        file_opened.write(secrets.token_hex(KEK_OCTETS) + "\n")
        file_opened.flush()
        os.fsync(file_opened.fileno())
    out.print(
        f"{file}: a new key-encryption key. Without it the database cannot be read: keep a copy,"
        " and not beside the database's."
    )


@app.command()
def create_in_token(config: ConfigOption) -> None:
    """Make the root key that [database.pkcs11] names, inside the token; it never leaves it."""
    settings = load_kdc(config).database.pkcs11
    if settings is None:
        raise LocalError(f"{config}: expected [database.pkcs11] with module, token, key, pin_file")
    from kdc.store.pkcs11_root import Pkcs11Root

    root = Pkcs11Root(settings)
    root.create_key()
    out.print(f"{root.name}: a new root key. Without it the database cannot be read.")


@contextmanager
def _current(config: Path) -> Iterator[tuple[Connection, Roots]]:
    with opened(config) as (_, connection, roots):
        migrate.require_current(connection)
        yield connection, roots


@app.command("list")
def list_all(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show every version, its state, and whether the root opens it."""
    with _current(config) as (connection, roots):
        rows = list(keks.list_all(connection, roots))
    if as_json:
        for row in rows:
            values = {name: getattr(row, name) for name in row.__slots__}
            out.print(json.dumps(values, default=str))
        return
    table = Table("version", "state", "root", "opens", "data keys", "since", box=None)
    for row in rows:
        opens = "" if row.opens is None else "yes" if row.opens else "NO"
        since = row.changed_at.isoformat(" ", "seconds")
        table.add_row(str(row.version), row.state, row.root, opens, str(row.data_keys), since)
    out.print(table)


@app.command()
def add(config: ConfigOption) -> None:
    """Make a fresh version, wrapped by the configured root; it wraps nothing yet."""
    with _current(config) as (connection, roots):
        version = keks.add(connection, roots, entropy=os.urandom)
    out.print(
        f"key-encryption key {version}: pending. In {keks.SETTLING_S:.0f} s every running server"
        f" has it: then `kdc kek activate {version}`"
    )


@app.command()
def activate(version: VersionArgument, config: ConfigOption) -> None:
    """Wrap new data keys under VERSION from now on; the one before retires."""
    with _current(config) as (connection, roots):
        keks.activate(connection, roots, version)
    out.print(f"key-encryption key {version}: active. `kdc kek rewrap` moves what is there to it")


@app.command()
def rewrap(
    config: ConfigOption,
    rows: Annotated[
        bool, typer.Option("--rows", help="rows to the current data keys, too")
    ] = False,
    per_second: Annotated[float, typer.Option(min=0.1, help="data keys or rows at most")] = 5000.0,
    dry_run: DryRunOption = False,
) -> None:
    """Wrap all data keys under the active version; safe to stop and run again, and under load."""
    pace = Pace(per_second, dry_run)
    with _current(config) as (connection, roots):
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("data keys", total=None)
            for step in keks.rewrap(connection, roots, entropy=os.urandom, pace=pace):
                bar.update(task, total=step.wanted, completed=step.moved)
        out.print(f"data keys: {step.moved} of {step.wanted} rewrapped")
        if rows:
            _reseal(connection, migrate.load_keyring(connection, roots), pace)


def _reseal(connection: Connection, keyring: Keyring, pace: Pace) -> None:
    unreadable = 0
    for purpose in reseal.ROTATED:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(purpose, total=None)
            steps = reseal.reseal(connection, keyring, purpose, entropy=os.urandom, pace=pace)
            for step in steps:
                bar.update(task, total=step.wanted, completed=step.done)
        left = f", {step.changed} changed meanwhile: run it again" if step.changed else ""
        out.print(f"rows of '{purpose}': {step.done} of {step.wanted} sealed anew{left}")
        unreadable += step.unreadable
    if unreadable:
        raise LocalError(f"{unreadable} rows do not open: they are as they were, and unreadable")


@app.command()
def rotate_data_keys(config: ConfigOption) -> None:
    """Seal with fresh data keys from now on; `kdc kek rewrap --rows` moves what is there."""
    with _current(config) as (connection, roots):
        keyring = migrate.load_keyring(connection, roots)
        reseal.rotate(connection, keyring, reseal.ROTATED, entropy=os.urandom)
    out.print(f"fresh data keys: {', '.join(reseal.ROTATED)}")


@app.command()
def purge(version: VersionArgument, config: ConfigOption, dry_run: DryRunOption = False) -> None:
    """Erase VERSION for good; refused while anything needs it."""
    with _current(config) as (connection, _):
        keks.purge(connection, version, dry_run=dry_run)
    out.print(f"key-encryption key {version}: {'nothing needs it' if dry_run else 'purged'}")


@app.command()
def purge_data_keys(config: ConfigOption, dry_run: DryRunOption = False) -> None:
    """Destroy replaced data keys, and with them what they sealed; refused while rows need them."""
    with _current(config) as (connection, _):
        destroyed = reseal.destroy_replaced(connection, dry_run=dry_run)
    said = "nothing needs" if dry_run else "destroyed"
    out.print(f"{said}: {', '.join(f'{k} ({p})' for k, p in destroyed) or 'no data key'}")
