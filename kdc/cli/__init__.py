"""The command `kdc`: the database and its keys, subscribers, RADIUS clients, what is in force."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console

from kdc.cli import (
    accounting,
    audit,
    client,
    db,
    disconnect,
    kek,
    sa,
    subscriber,
    subscriber_import,
    subscriber_keys,
    tls,
    transport_key,
)
from kdc.cli.session import ConfigOption
from kdc.errors import LocalError, RoamkeyError

app = typer.Typer(
    name="kdc",
    help="The key distribution center: database, keys, subscribers, RADIUS clients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(db.app, name="db")
app.add_typer(kek.app, name="kek")
subscriber_import.add_commands(subscriber.app)
subscriber_keys.add_commands(subscriber.app)
app.command()(subscriber_keys.enrol)
app.add_typer(subscriber.app, name="subscriber")
app.add_typer(transport_key.app, name="transport-key")
app.add_typer(client.app, name="client")
app.add_typer(sa.app, name="sa")
app.add_typer(accounting.app, name="session")
app.add_typer(disconnect.app, name="disconnect")
app.add_typer(audit.app, name="audit")
app.add_typer(tls.app, name="tls")


@app.command()
def serve(config: ConfigOption) -> None:
    """Serve home agents in other processes, over TLS alone (kdc.toml)."""
    # The process is aaa's, which stands above kdc: found by its entry point, never imported.
    (process,) = entry_points(group="roamkey.processes", name="kdc")
    raise typer.Exit(process.load()(config))


def main() -> None:
    """Runs the command; what is wrong is one line on standard error and status 1."""
    try:
        _check_arguments()
        app()
    except RoamkeyError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(str(error))
        sys.exit(1)


def _check_arguments() -> None:
    """Raises `LocalError`: octets that are no text would only fail where they are stored."""
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        raise LocalError("expected arguments in UTF-8") from None
