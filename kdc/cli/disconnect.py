"""`kdc disconnect`: what foreign domains were told, and what they said."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdc.cli.dynamic_authorization import as_object, describe_result
from kdc.cli.session import ConfigOption, JsonOption, keyed, parse_nai
from kdc.store.disconnect_list import DisconnectFilter, SubscriberDisconnect, list_disconnects

app = typer.Typer(help="Requests to foreign domains.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group even with one command."""


@app.command("list")
def list_(
    config: ConfigOption,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="those not answered yet")
    ] = False,
    realm: Annotated[str | None, typer.Option(help="the realm that is told")] = None,
    subscriber: Annotated[str | None, typer.Option(metavar="NAI", help="whose")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many, the latest")] = None,
    as_json: JsonOption = False,
) -> None:
    """List requests to end or to renew a registration abroad, the latest first."""
    wanted = DisconnectFilter(
        unfinished,
        realm.lower() if realm is not None else None,
        parse_nai(subscriber) if subscriber is not None else None,
        limit,
    )
    with keyed(config) as (_, connection, _keyring):
        found = list_disconnects(connection, wanted)
        if as_json:
            for item in found:
                typer.echo(_as_json(item))
        else:
            _print(list(found))


def _print(found: list[SubscriberDisconnect]) -> None:
    table = Table("requested", "kind", "subscriber", "at", "SPIs", "result", "reason")
    for item in found:
        request = item.request
        table.add_row(
            request.requested_at.isoformat(" ", "seconds"),
            request.kind.value,
            item.subscriber or "",
            request.fa_nai,
            " ".join(map(str, request.spis)),
            describe_result(request),
            request.reason or "",
        )
    Console(highlight=False, markup=False).print(table)


def _as_json(item: SubscriberDisconnect) -> str:
    request = item.request
    told = {
        "subscriber": item.subscriber,
        **as_object(request),
        "reason": request.reason,
        "requested_at": request.requested_at,
        "attempts": request.attempts,
    }
    return json.dumps(told, default=str)
