"""The command `aaa`: the processes of home and foreign domain, the mobile node, the demo."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aaa.config import (
    load_agent,
    load_any,
    load_foreign,
    load_home,
    load_home_agent,
    load_mobile_node,
)
from kdc.errors import RoamkeyError

app = typer.Typer(
    name="aaa",
    help="AAA for roaming: home and foreign server, foreign agent, mobile node.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
mobile_node = typer.Typer(help="One device.", no_args_is_help=True)
app.add_typer(mobile_node, name="mobile-node")
out = Console(highlight=False, markup=False, soft_wrap=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="a TOML file", dir_okay=False)]
AdvertisementOption = Annotated[
    Path | None,
    typer.Option(help="the file of an agent, where no ICMP is heard", dir_okay=False),
]
TraceOption = Annotated[
    bool, typer.Option("--trace", help="show each packet and decision; SIGUSR1 switches")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object")]


@app.command()
def home(config: ConfigOption, trace: TraceOption = False) -> None:
    """Serve a home domain: home AAA, home agent and KDC."""
    from aaa.serve.home import serve_home
    from aaa.serve.process import run

    settings = load_home(config)
    raise typer.Exit(run(lambda stop: serve_home(settings, stop=stop, trace=trace), settings.log))


@app.command(name="home-agent")
def home_agent(config: ConfigOption) -> None:
    """Serve as a home agent behind a home AAA; its KDC is asked over TLS."""
    from aaa.serve.home_agent import serve_home_agent
    from aaa.serve.process import run

    settings = load_home_agent(config)
    raise typer.Exit(run(lambda stop: serve_home_agent(settings, stop=stop), settings.log))


@app.command()
def foreign(config: ConfigOption, trace: TraceOption = False) -> None:
    """Serve a foreign domain: a RADIUS proxy toward the homes."""
    from aaa.serve.foreign import serve_foreign
    from aaa.serve.process import run

    settings = load_foreign(config)
    raise typer.Exit(
        run(lambda stop: serve_foreign(settings, stop=stop, trace=trace), settings.log)
    )


@app.command()
def agent(config: ConfigOption) -> None:
    """Serve as a foreign agent: mobile nodes on one side, RADIUS on the other."""
    from aaa.serve.agent import serve_agent
    from aaa.serve.process import run

    settings = load_agent(config)
    raise typer.Exit(run(lambda stop: serve_agent(settings, stop=stop), settings.log))


@mobile_node.command()
def register(
    config: ConfigOption,
    advertisement: AdvertisementOption = None,
    show_keys: Annotated[bool, typer.Option(help="print the keys themselves")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register once and print what was agreed; status 1 if it was denied."""
    _answer(config, None, advertisement, show_keys=show_keys, as_json=as_json)


@mobile_node.command()
def deregister(
    config: ConfigOption, advertisement: AdvertisementOption = None, as_json: JsonOption = False
) -> None:
    """End the registration and all its associations."""
    _answer(config, 0, advertisement, show_keys=False, as_json=as_json)


def _answer(
    config: Path,
    lifetime_s: int | None,
    advertisement: Path | None,
    *,
    show_keys: bool,
    as_json: bool,
) -> None:
    from aaa.serve.mobile_node import describe
    from aaa.serve.mobile_node import register as register_node
    from aaa.serve.process import configure_log

    settings = load_mobile_node(config)
    configure_log(settings.log)  # standard output is for the answer alone
    answer = asyncio.run(
        register_node(settings, lifetime_s=lifetime_s, advertisement=advertisement)
    )
    content = describe(answer, show_keys=show_keys)
    if as_json:
        typer.echo(json.dumps(content))
    else:
        _print(content)
    if content["code"]:
        raise typer.Exit(1)


def _print(content: dict[str, Any], indent: str = "") -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            out.print(f"{indent}{key}")
            _print(value, indent + "  ")
        else:
            out.print(f"{indent}{key:<16} {value}")


@app.command()
def check(config: ConfigOption) -> None:
    """Read a configuration as its process would, and say what was understood."""
    from aaa.cli.settings import describe_settings

    name, settings = load_any(config)
    command = "kdc serve" if name == "kdc" else f"aaa {name.replace('_', '-')}"
    out.print(f"# {config}: a configuration of `{command}`")
    for line in describe_settings(settings):
        out.print(line)


@app.command()
def status(
    server: Annotated[str, typer.Argument(help="HOST:PORT")],
    secret_file: Annotated[Path, typer.Option(help="the shared secret", dir_okay=False)],
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60)] = 3.0,
) -> None:
    """Ask a RADIUS server whether it is alive (Status-Server); status 1 if it is not."""
    from aaa.net.mobile_ip import resolve
    from aaa.serve.process import split_address
    from aaa.serve.radius_probe import answers_status
    from kdc.config import read_secret_file

    try:
        secret = read_secret_file(secret_file).reveal()
    except ValueError as error:
        raise typer.BadParameter(f"{secret_file}: {error}") from None
    address = resolve(*split_address(server))
    if not asyncio.run(answers_status(address, secret, timeout_s=timeout_s)):
        out.print(f"{server}: no authentic answer within {timeout_s} s")
        raise typer.Exit(1)
    out.print(f"{server}: alive")


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(help="keep everything in this folder", file_okay=False)
    ] = None,
) -> None:
    """Show the whole cycle on this machine; status 0 only if every check held."""
    from aaa.demo import run_demo

    raise typer.Exit(asyncio.run(run_demo(keep=keep)))


def main() -> None:
    """Runs the command; what is wrong is one line on standard error and status 1."""
    try:
        app()
    except RoamkeyError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(str(error))
        sys.exit(1)
