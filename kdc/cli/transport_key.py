"""`kdc transport-key`: named keys that wrap KEY0s on their way between systems."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from kdc.cli.session import ConfigOption, JsonOption, keyed
from kdc.config import read_secret_file
from kdc.crypto.transport import TRANSPORT_KEY_OCTETS
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store import transport_keys

app = typer.Typer(help="Keys that wrap KEY0s on their way between systems.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def add(
    name: NameArgument,
    config: ConfigOption,
    file: Annotated[Path, typer.Option("--file", help="64 hex digits, chmod 600")],
) -> None:
    """Keep a transport key, sealed, under a name of its own."""
    key = _read(file)
    with keyed(config) as (_, connection, keyring):
        transport_keys.add(connection, name, key, keyring, entropy=os.urandom)
    typer.echo(f"{name}: added")


def _read(file: Path) -> Secret:
    expected = f"{file}: expected {2 * TRANSPORT_KEY_OCTETS} hex digits"
    try:
        digits = read_secret_file(file, minimum_octets=2 * TRANSPORT_KEY_OCTETS)
    except ValueError as error:
        raise LocalError(f"{file}: {error}") from None
    try:
        return Secret(bytes.fromhex(digits.reveal().decode("ascii")))
    except ValueError:
        raise LocalError(expected) from None


@app.command("list")
def list_(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List names; never a key."""
    with keyed(config) as (_, connection, _keyring):
        found = transport_keys.list_all(connection)
    for name, created_at in found:
        when = created_at.isoformat(" ", "seconds")
        typer.echo(json.dumps({"name": name, "created_at": when}) if as_json else f"{name}  {when}")


@app.command()
def remove(name: NameArgument, config: ConfigOption) -> None:
    """Forget a transport key; what it has wrapped stays wrapped."""
    with keyed(config) as (_, connection, _keyring):
        transport_keys.remove(connection, name)
    typer.echo(f"{name}: removed")
