"""`kdc sa`: security associations by SPI, never a key."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdc.cli.dynamic_authorization import (
    WAIT_S,
    NoWaitOption,
    ReasonOption,
    WaitOption,
    deadline_of,
    report,
)
from kdc.cli.session import ConfigOption, JsonOption, keyed, parse_nai
from kdc.model import SPI_MAXIMUM, SPI_MINIMUM
from kdc.store import associations, disconnects
from kdc.store.associations import AssociationRow
from kdc.store.disconnects import DisconnectKind

app = typer.Typer(help="Security associations.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)

SpiArgument = Annotated[int, typer.Argument(metavar="SPI", min=SPI_MINIMUM, max=SPI_MAXIMUM)]


@app.command("list")
def list_(
    config: ConfigOption,
    subscriber: Annotated[str | None, typer.Option(metavar="NAI", help="whose")] = None,
    realm: Annotated[str | None, typer.Option(help="the visited realm")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many, the latest")] = None,
    as_json: JsonOption = False,
) -> None:
    """List live associations, those of the latest registration first."""
    nai = parse_nai(subscriber) if subscriber is not None else None
    with keyed(config) as (_, connection, _keyring):
        found = associations.list_live(
            connection, subscriber=nai, realm=realm.lower() if realm else None, limit=limit
        )
        if as_json:
            for item in found:
                typer.echo(_as_json(item))
            return
        table = Table("SPI", "pair", "subscriber", "at", "expires")
        for item in found:
            table.add_row(
                str(item.spi),
                item.pair,
                item.nai or "",
                item.fa_nai,
                item.expires_at.isoformat(" ", "seconds"),
            )
    Console(highlight=False, markup=False).print(table)


@app.command()
def show(spi: SpiArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show one association, live or over."""
    with keyed(config) as (_, connection, _keyring):
        item = associations.load(connection, spi)
    if as_json:
        typer.echo(_as_json(item))
        return
    for key, value in dataclasses.asdict(item).items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        out.print(f"{key:<18} {shown if shown is not None else ''}")


def _as_json(item: AssociationRow) -> str:
    return json.dumps(dataclasses.asdict(item), default=str)


@app.command()
def revoke(  # noqa: PLR0913, PLR0917 - one option each
    spi: SpiArgument,
    config: ConfigOption,
    renew: Annotated[
        bool, typer.Option("--renew", help="ask for a new registration, and end nothing")
    ] = False,
    reason: ReasonOption = None,
    wait: WaitOption = WAIT_S,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """End the registration with this live SPI, and tell its foreign domain."""
    kind = DisconnectKind.COA if renew else DisconnectKind.DISCONNECT
    with keyed(config) as (_, connection, _keyring):
        ids = disconnects.request_for_spi(
            connection, spi, kind, reason=reason, not_after_s=deadline_of(wait)
        )
        if not as_json:
            out.print(f"{spi}: {'a renewal is asked for' if renew else 'ended'}")
        header = {"spi": spi, "ended": not renew}
        report(connection, ids, header, wait_s=None if no_wait else wait, as_json=as_json)
