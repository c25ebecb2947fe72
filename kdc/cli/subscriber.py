"""`kdc subscriber`: who may roam, and the secret that each one shares with us."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
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
from kdc.config import KdcSettings
from kdc.model import Enrolment, HomeAddressKind, Nai
from kdc.store import disconnects, subscribers
from kdc.store.subscribers import Subscriber, Subscription

app = typer.Typer(help="Subscribers and their KEY0 records.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)


NaiArgument = Annotated[str, typer.Argument(metavar="NAI", help="such as alice@home.example")]


@app.command()
def add(  # noqa: PLR0913, PLR0917 - one option each
    nai: NaiArgument,
    config: ConfigOption,
    kind: Annotated[HomeAddressKind, typer.Option("--home-address-kind")] = HomeAddressKind.HIDDEN,
    home_address: Annotated[str | None, typer.Option(help="an IPv4 address")] = None,
    roam: Annotated[list[str] | None, typer.Option(help="a realm it may visit")] = None,
    static_spi: Annotated[bool, typer.Option(help="one SPI that is never spent")] = False,
    home_agent: Annotated[str | None, typer.Option(help="where there are several")] = None,
    home_agent_nai: Annotated[str | None, typer.Option(help="of one not configured")] = None,
    count: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="a test population: NAME000001@REALM ...")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Provision a subscriber and print its enrolment: once, and never again."""
    name = parse_nai(nai)
    with keyed(config) as (settings, connection, keyring):
        agent = _home_agent(settings, home_agent, home_agent_nai)
        names = [name]
        if count > 1:
            names = [
                Nai.parse(f"{name.user}{number:06d}@{name.realm}") for number in range(1, count + 1)
            ]
        batch = [
            Subscription(
                one, *agent, kind, _address(home_address, index),
                tuple(realm.lower() for realm in roam) if roam else None, static_spi,
            )
            for index, one in enumerate(names)
        ]  # fmt: skip
        enrolments = subscribers.add(connection, batch, keyring, entropy=os.urandom)
        with Progress(console=Console(stderr=True), disable=count < 5000) as progress:
            task = progress.add_task("adding subscribers", total=count)
            for enrolment in enrolments:
                print_enrolment(enrolment, as_json=as_json)
                progress.advance(task)


def _home_agent(
    settings: KdcSettings, address: str | None, nai: str | None
) -> tuple[IPv4Address, Nai]:
    """The one that is named, or the only one that is configured."""
    known = {item.address: item.nai for item in settings.identities()}
    try:
        wanted = IPv4Address(address) if address is not None else None
    except ValueError:
        raise typer.BadParameter("--home-agent: expected an IPv4 address") from None
    if wanted is None:
        if len(known) != 1:
            listed = ", ".join(map(str, known))
            raise typer.BadParameter(f"expected --home-agent, one of {listed}")
        (wanted,) = known
    if nai is not None:
        return wanted, parse_nai(nai)
    if wanted not in known:
        raise typer.BadParameter(f"expected --home-agent-nai beside {wanted}, which is not ours")
    return wanted, known[wanted]


def _address(given: str | None, index: int) -> IPv4Address | None:
    """The one given, counted up in a population; none where one is chosen for the subscriber."""
    if given is None:
        return None
    try:
        return IPv4Address(given) + index
    except ValueError:
        raise typer.BadParameter("--home-address: expected an IPv4 address") from None


def enrolment_object(enrolment: Enrolment) -> dict[str, object]:
    """The one place where KEY0 is shown: what the device is to be given."""
    return {
        "nai": str(enrolment.nai),
        "key0": enrolment.key0.reveal().hex(),
        "spis": list(enrolment.spis),
        "home_agent": str(enrolment.home_agent),
        "home_agent_nai": str(enrolment.home_agent_nai),
        "realm": enrolment.realm,
    }


def print_enrolment(enrolment: Enrolment, *, as_json: bool) -> None:
    """For a person, or as a line that `aaa mobile-node` reads."""
    content = enrolment_object(enrolment)
    if as_json:
        typer.echo(json.dumps(content))
        return
    out.print(f"enrolment of {enrolment.nai}: give it to the device, it is not shown again")
    for key, value in content.items():
        out.print(f"  {key:<15} {' '.join(map(str, value)) if isinstance(value, list) else value}")


def _print_subscribers(found: Sequence[Subscriber]) -> None:
    table = Table("NAI", "status", "home address", "SPIs left", "registered until", "at")
    for item in found:
        until = item.registered_until.isoformat(" ", "seconds") if item.registered_until else ""
        table.add_row(
            item.nai,
            item.status,
            item.home_address or item.home_address_kind,
            "static" if item.static_spi else str(item.unspent_spis),
            until,
            item.current_fa or "",
        )
    Console().print(table)


def _as_json(item: Subscriber) -> str:
    return json.dumps(dataclasses.asdict(item), default=str)


@app.command("list")
def list_(
    config: ConfigOption,
    limit: Annotated[int | None, typer.Option(help="at most so many")] = None,
    as_json: JsonOption = False,
) -> None:
    """List subscribers by name."""
    with keyed(config) as (_, connection, _keyring):
        found = subscribers.list_all(connection, limit=limit)
        if as_json:
            for item in found:
                typer.echo(_as_json(item))
        else:
            _print_subscribers(list(found))


@app.command()
def show(nai: NaiArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show one subscriber; never a key."""
    with keyed(config) as (_, connection, _keyring):
        item = subscribers.load(connection, parse_nai(nai))
    if as_json:
        typer.echo(_as_json(item))
    else:
        for key, value in dataclasses.asdict(item).items():
            out.print(f"{key:<18} {value if value is not None else ''}")


@app.command()
def suspend(
    nai: NaiArgument,
    config: ConfigOption,
    reason: ReasonOption = None,
    wait: WaitOption = WAIT_S,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Refuse the subscriber from the next request on, and end what is registered."""
    wait_s = None if no_wait else wait
    _end(nai, config, subscribers.SUSPENDED, reason=reason, wait_s=wait_s, as_json=as_json)


@app.command()
def revoke(
    nai: NaiArgument,
    config: ConfigOption,
    reason: ReasonOption = None,
    wait: WaitOption = WAIT_S,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Refuse the subscriber for good, and end what is registered."""
    wait_s = None if no_wait else wait
    _end(nai, config, subscribers.REVOKED, reason=reason, wait_s=wait_s, as_json=as_json)


def _end(
    nai: str,
    config: Path,
    status: str,
    *,
    reason: str | None,
    wait_s: float | None,
    as_json: bool,
) -> None:
    name = parse_nai(nai)
    with keyed(config) as (_, connection, _keyring):
        ids = disconnects.request_for_subscriber(
            connection, name, status, reason=reason, not_after_s=deadline_of(wait_s or 0)
        )
        if not as_json:
            out.print(f"{nai}: {status}")
        header = {"nai": nai, "status": status}
        report(connection, ids, header, wait_s=wait_s, as_json=as_json)


@app.command()
def resume(nai: NaiArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Let a suspended subscriber register again; who is revoked stays so."""
    with keyed(config) as (_, connection, _keyring):
        subscribers.set_status(connection, parse_nai(nai), subscribers.ACTIVE)
    if as_json:
        typer.echo(json.dumps({"nai": nai, "status": subscribers.ACTIVE}))
    else:
        out.print(f"{nai}: {subscribers.ACTIVE}")
