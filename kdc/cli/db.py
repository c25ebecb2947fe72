"""`kdc db`: the schema."""

from __future__ import annotations

import json
import os

import typer
from rich.console import Console

from kdc.cli.session import ConfigOption, JsonOption, opened
from kdc.store import migrate

app = typer.Typer(help="The schema of the database.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)


@app.command()
def upgrade(config: ConfigOption) -> None:
    """Bring the schema to this release; safe to run again."""
    with opened(config) as (_, connection, roots):
        migrate.upgrade(connection, roots, entropy=os.urandom, progress=out.print)


@app.command()
def current(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Say where the database stands and what this release needs."""
    with opened(config) as (_, connection, _roots):
        found, needed = migrate.current_revision(connection), migrate.newest_revision()
    if as_json:
        out.print(json.dumps({"current": found, "needed": needed}))
    else:
        out.print(f"the schema is at {found or 'none'}; this release needs {needed}")


@app.command()
def check(config: ConfigOption) -> None:
    """Compare the database with the tables of this release; status 1 if they differ."""
    with opened(config) as (_, connection, _roots):
        migrate.require_current(connection)
        migrate.check(connection)
    out.print("the schema is the one of this release")


@app.command()
def sql(start: str = typer.Option("base", "--from", help="revision to start from")) -> None:
    """Print the statements of the upgrade, for a database administrator to read and run."""
    out.print(migrate.offline_sql(start))
