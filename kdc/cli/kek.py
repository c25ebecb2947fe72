"""`kdc kek`: the key-encryption key, a file that is backed up apart from the database."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import typer
from rich.console import Console

from kdc.crypto.kek import KEK_OCTETS
from kdc.errors import LocalError

app = typer.Typer(help="The key-encryption key.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group even with one command."""


@app.command()
def create(file: Path) -> None:
    """Make FILE with a fresh key, readable by its owner alone; an existing file stays."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LocalError(f"{file}: expected a new file: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(KEK_OCTETS) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    Console(highlight=False, markup=False, soft_wrap=True).print(
        f"{file}: a new key-encryption key. Without it the database cannot be read: keep a copy,"
        " and not beside the database's."
    )
