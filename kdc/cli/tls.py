"""`kdc tls`: an authority of one's own, and certificates for the processes that speak TLS."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kdc.config import read_secret_file
from kdc.crypto.issuing import Credential, create_authority, issue_certificate
from kdc.errors import LocalError
from kdc.model import IpAddress

app = typer.Typer(help="Certificates of our own, for RADIUS over TLS.", no_args_is_help=True)
out = Console(highlight=False, markup=False, soft_wrap=True)
CERTIFICATE, KEY = "ca.pem", "ca.key"
FolderArgument = Annotated[Path, typer.Argument(file_okay=False, help="where the authority is")]


@app.command()
def authority(
    folder: FolderArgument,
    name: Annotated[str, typer.Option(help="what the authority calls itself")] = "Roamkey",
) -> None:
    """Create an authority: ca.pem for every process, ca.key to be kept apart."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    created = create_authority(name, now=datetime.now(UTC), entropy=os.urandom)
    _write(created, folder / CERTIFICATE, folder / KEY)


@app.command()
def issue(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="of the files: NAME.pem and NAME.key")],
    san: Annotated[list[str], typer.Option(help="a DNS name or an IP address; may be repeated")],
) -> None:
    """Issue a certificate for one process; peers know it by its --san alone."""
    try:
        key = read_secret_file(folder / KEY, minimum_octets=1)
        certificate = (folder / CERTIFICATE).read_bytes()
    except (OSError, ValueError) as error:
        raise LocalError(
            f"{folder}: expected ca.pem and ca.key of `kdc tls authority`: {error}"
        ) from None
    names = [_parse(text) for text in san]
    issued = issue_certificate(
        Credential(certificate, key), names, now=datetime.now(UTC), entropy=os.urandom
    )
    _write(issued, folder / f"{name}.pem", folder / f"{name}.key")


def _parse(text: str) -> str | IpAddress:
    try:
        return ip_address(text)
    except ValueError:
        return text.lower()


def _write(credential: Credential, certificate: Path, key: Path) -> None:
    """Both files new; the key is never readable by others."""
    for path in (certificate, key):
        if path.exists():  # before anything is written: a key must not come beside another's name
            raise LocalError(f"{path} exists: expected a name that is free")
    for path, octets, mode in (
        (key, credential.key.reveal(), 0o600),
        (certificate, credential.certificate, 0o644),
    ):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise LocalError(f"{path} exists: expected a name that is free") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
        out.print(str(path))
