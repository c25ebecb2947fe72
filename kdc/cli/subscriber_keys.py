"""`kdc subscriber rotate|delete|export|enrolment-code`, and `kdc enrol` with such a code."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from typing import Annotated

import typer

from kdc.cli.session import ConfigOption, JsonOption, keyed, parse_nai
from kdc.cli.subscriber import NaiArgument, enrolment_object, out, print_enrolment
from kdc.errors import LocalError
from kdc.store import disconnects, enrolment_codes, exporting, rotation, subscribers, transport_keys
from kdc.store.subscriber_files import CSV, JSON_LINES, csv_values

CodeValidOption = Annotated[
    int, typer.Option("--valid", min=1, max=30 * 86400, help="how long a code is good, seconds")
]


def rotate(
    nai: NaiArgument,
    config: ConfigOption,
    grace: Annotated[
        int, typer.Option(min=0, max=365 * 86400, help="how long the old one stays valid, seconds")
    ] = rotation.GRACE_S,
    enrolment_code: Annotated[
        bool, typer.Option("--enrolment-code", help="print a code for the device, not the key")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new KEY0; the old one is valid until the new one is used or its time is over."""
    name = parse_nai(nai)
    with keyed(config) as (_, connection, keyring):
        enrolment = rotation.rotate(connection, name, keyring, grace_s=grace, entropy=os.urandom)
        if not enrolment_code:
            print_enrolment(enrolment, as_json=as_json)
            return
        code = enrolment_codes.issue(
            connection, name, keyring, valid_s=enrolment_codes.VALID_S, entropy=os.urandom
        )
    _print_code(nai, code, as_json=as_json)


def delete(
    nai: NaiArgument,
    config: ConfigOption,
    yes: Annotated[bool, typer.Option("--yes", help="revoke it first, where it is not")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a revoked subscriber and its keys; registrations stay, without a name."""
    name = parse_nai(nai)
    with keyed(config) as (_, connection, _keyring):
        if yes:
            disconnects.request_for_subscriber(connection, name, subscribers.REVOKED)
        rotation.delete(connection, name)
    typer.echo(json.dumps({"nai": nai, "status": "deleted"}) if as_json else f"{nai}: deleted")


def export(
    config: ConfigOption,
    form: Annotated[str, typer.Option("--format", help="csv or jsonl")] = JSON_LINES,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="each KEY0 under --transport-key")
    ] = False,
    transport_key: Annotated[str | None, typer.Option(metavar="NAME")] = None,
) -> None:
    """Print all subscribers as an import takes them; keys only wrapped, and on demand."""
    if form not in (CSV, JSON_LINES):
        raise typer.BadParameter(f"expected --format {CSV} or {JSON_LINES}")
    if with_keys != (transport_key is not None):
        raise typer.BadParameter("expected --with-keys and --transport-key NAME together")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    with keyed(config) as (_, connection, keyring):
        rows = exporting.export(connection)
        if transport_key is not None:
            key = transport_keys.load(connection, transport_key, keyring)
            rows = exporting.export_with_keys(connection, keyring, key, name=transport_key)
        for number, fields in enumerate(rows):
            if form == JSON_LINES:
                typer.echo(json.dumps(fields))
                continue
            if number == 0:
                writer.writerow(fields)
            writer.writerow(csv_values(fields))


def enrolment_code(
    nai: NaiArgument,
    config: ConfigOption,
    valid: CodeValidOption = enrolment_codes.VALID_S,
    as_json: JsonOption = False,
) -> None:
    """Print a code, once, with which the device fetches its newest KEY0, once."""
    with keyed(config) as (_, connection, keyring):
        code = enrolment_codes.issue(
            connection, parse_nai(nai), keyring, valid_s=valid, entropy=os.urandom
        )
    _print_code(nai, code, as_json=as_json)


def _print_code(nai: str, code: str, *, as_json: bool) -> None:
    text = f"enrolment code of {nai}, good for one use and not shown again: {code}"
    typer.echo(json.dumps({"nai": nai, "code": code}) if as_json else text)


def list_codes(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List what became of enrolment codes; uses after the first are security events."""
    with keyed(config) as (_, connection, _keyring):
        found = enrolment_codes.list_all(connection)
    for item in found:
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(item), default=str))
            continue
        used = f"used {item.used_at:%F %T}" if item.used_at else f"until {item.expires_at:%F %T}"
        out.print(f"{item.nai}  {used}  refused {item.refused}")


def enrol(config: ConfigOption) -> None:
    """Use up an enrolment code, read from standard input, and print the enrolment as JSON."""
    # Not an argument: arguments are for all users of a machine to see.
    terminal = sys.stdin.isatty()
    code = typer.prompt("enrolment code", hide_input=True) if terminal else sys.stdin.readline(256)
    if not code.strip():
        raise LocalError("expected an enrolment code on standard input")
    with keyed(config) as (_, connection, keyring):
        enrolment = enrolment_codes.redeem(connection, code, keyring)
    typer.echo(json.dumps(enrolment_object(enrolment)))


def add_commands(app: typer.Typer) -> None:
    """`kdc subscriber` is one group in several files."""
    app.command()(rotate)
    app.command()(delete)
    app.command()(export)
    app.command("enrolment-code")(enrolment_code)
    app.command("enrolment-codes")(list_codes)
