"""`kdc client`: RADIUS clients, in force on every server within two seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from kdc.cli.session import ConfigOption, JsonOption, keyed
from kdc.config import Realm, read_secret_file
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.secret_quality import SecretQuality, explain, judge_secret
from kdc.store import radius_clients
from kdc.store.radius_clients import ClientEntry, ClientRow, IpNetwork

app = typer.Typer(help="RADIUS clients in the database.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
_GENERATED_OCTETS = 32

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="such as proxy.visited")]
SecretFileOption = Annotated[
    Path | None, typer.Option("--secret-file", help="holds the shared secret, mode 0600")
]
GenerateOption = Annotated[
    bool, typer.Option("--generate", help="draw the shared secret, and show it once")
]


@app.command()
def add(  # noqa: PLR0913, PLR0917 - one option each
    name: NameArgument,
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="such as 192.0.2.0/28")],
    config: ConfigOption,
    secret_file: SecretFileOption = None,
    generate: GenerateOption = False,
    realm: Annotated[list[str] | None, typer.Option(help="a realm it may speak for")] = None,
    message_authenticator: Annotated[
        bool, typer.Option(help="whether every request of it has to have one")
    ] = True,
    requests_per_second: Annotated[int | None, typer.Option(min=1, max=2**31 - 1)] = None,
    dynamic_authorization: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="where it takes Disconnect-Requests")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add an enabled client."""
    entry = ClientEntry(
        name,
        _network(network),
        tuple(map(_realm, realm or ())),
        message_authenticator,
        requests_per_second,
        dynamic_authorization,
    )
    secret = _secret(secret_file, generate=generate)
    with keyed(config) as (_, connection, keyring):
        radius_clients.add(connection, entry, secret, keyring, entropy=os.urandom)
    _print_done(name, "added", secret if generate else None, as_json=as_json)


@app.command()
def rotate(
    name: NameArgument,
    config: ConfigOption,
    secret_file: SecretFileOption = None,
    generate: GenerateOption = False,
    old_valid: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="seconds for which the old secret stays valid")
    ] = 3600,
    as_json: JsonOption = False,
) -> None:
    """Give a client a new secret; the old one stays valid for a while."""
    secret = _secret(secret_file, generate=generate)
    with keyed(config) as (_, connection, keyring):
        radius_clients.rotate(
            connection, name, secret, keyring, old_valid_s=old_valid, entropy=os.urandom
        )
    _print_done(name, "rotated", secret if generate else None, as_json=as_json)


def _network(given: str) -> IpNetwork:
    try:
        return ip_network(given)
    except ValueError:
        raise typer.BadParameter(
            "NETWORK: expected one such as 192.0.2.0/28, no bit set behind its length"
        ) from None


def _realm(given: str) -> str:
    try:
        realm: str = TypeAdapter(Realm).validate_python(given)
    except ValidationError:
        raise typer.BadParameter("--realm: expected a realm, such as visited.example") from None
    return realm


def _secret(file: Path | None, *, generate: bool) -> Secret:
    """A good secret, or one with a warning; a bad one is refused.  Raises `LocalError`.

    No option takes one under 16 octets: PROTOCOL section 9 forbids it, so that no server would
    hear a client that had one.
    """
    if (file is not None) == generate:
        raise typer.BadParameter("expected either --secret-file FILE or --generate")
    if file is None:
        return Secret(secrets.token_urlsafe(_GENERATED_OCTETS).encode())
    try:
        secret = read_secret_file(file, minimum_octets=1)
    except ValueError as error:
        raise LocalError(f"{file}: {error}") from None
    quality = judge_secret(secret)
    if quality in (SecretQuality.KNOWN, SecretQuality.SHORT):
        raise LocalError(f"{file}: {explain(quality)}; --generate draws a good one")
    if quality is not SecretQuality.GOOD:
        err.print(f"warning: {file}: {explain(quality)}")
    return secret


def _print_done(name: str, done: str, shown: Secret | None, *, as_json: bool) -> None:
    """The one place where a secret is shown: what the client is to be given."""
    secret = shown.reveal().decode() if shown is not None else None
    if as_json:
        typer.echo(json.dumps({"name": name, "done": done, "secret": secret}))
        return
    out.print(f"{name}: {done}")
    if secret is not None:
        out.print(f"shared secret of {name}: give it to the client, it is not shown again")
        out.print(f"  {secret}")


@app.command("list")
def list_(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List clients by name; never a secret."""
    with keyed(config) as (_, connection, _keyring):
        found = list(radius_clients.list_all(connection))
    if as_json:
        for item in found:
            typer.echo(_as_json(item))
        return
    table = Table("name", "network", "realms", "enabled", "old secret until")
    for item in found:
        until = item.old_secret_until
        table.add_row(
            item.name,
            item.network,
            " ".join(item.realms),
            "yes" if item.enabled else "no",
            until.isoformat(" ", "seconds") if until is not None else "",
        )
    Console(highlight=False, markup=False).print(table)


@app.command()
def show(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show one client; never a secret."""
    with keyed(config) as (_, connection, _keyring):
        item = radius_clients.load(connection, name)
    if as_json:
        typer.echo(_as_json(item))
        return
    for key, value in dataclasses.asdict(item).items():
        shown = " ".join(value) if isinstance(value, list) else value
        out.print(f"{key:<30} {shown if shown is not None else ''}")


def _as_json(item: ClientRow) -> str:
    return json.dumps(dataclasses.asdict(item), default=str)


@app.command()
def disable(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Drop what the client sends, from its next packet on."""
    with keyed(config) as (_, connection, _keyring):
        radius_clients.set_enabled(connection, name, enabled=False)
    _print_done(name, "disabled", None, as_json=as_json)


@app.command()
def enable(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Hear a disabled client again."""
    with keyed(config) as (_, connection, _keyring):
        radius_clients.set_enabled(connection, name, enabled=True)
    _print_done(name, "enabled", None, as_json=as_json)


@app.command()
def remove(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Forget a client and its secrets; what was accounted under its name stays."""
    with keyed(config) as (_, connection, _keyring):
        radius_clients.remove(connection, name)
    _print_done(name, "removed", None, as_json=as_json)
