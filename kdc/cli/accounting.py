"""`kdc session`: accounting, as it is stored."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdc.cli.session import ConfigOption, JsonOption, keyed, parse_nai
from kdc.store import accounting
from kdc.store.accounting import Session, SessionFilter

app = typer.Typer(help="Accounting sessions.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group even with one command."""


@app.command("list")
def list_(
    config: ConfigOption,
    active: Annotated[bool, typer.Option("--active", help="those that have not ended")] = False,
    realm: Annotated[str | None, typer.Option(help="the visited realm")] = None,
    subscriber: Annotated[str | None, typer.Option(metavar="NAI", help="whose")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many, the latest")] = None,
    as_json: JsonOption = False,
) -> None:
    """List sessions, the latest first."""
    wanted = SessionFilter(
        active,
        realm.lower() if realm is not None else None,
        parse_nai(subscriber) if subscriber is not None else None,
        limit,
    )
    with keyed(config) as (_, connection, _keyring):
        found = accounting.list_sessions(connection, wanted)
        if as_json:
            for item in found:
                typer.echo(json.dumps(dataclasses.asdict(item), default=str))
        else:
            _print_sessions(list(found))


def _print_sessions(found: list[Session]) -> None:
    table = Table("session", "status", "subscriber", "at", "started", "seconds", "in", "out")
    for item in found:
        table.add_row(
            item.session_id,
            item.status,
            item.subscriber or ("" if item.registered else "not ours"),
            item.fa_nai or item.nas_identifier or item.nas_address or "",
            item.started_at.isoformat(" ", "seconds") if item.started_at is not None else "",
            *(
                str(count) if count is not None else ""
                for count in (item.session_time_s, item.input_octets, item.output_octets)
            ),
        )
    # What a NAS has written is shown as it is, never as markup of a terminal.
    Console(highlight=False, markup=False).print(table)
