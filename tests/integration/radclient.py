"""radclient, a RADIUS client of somebody else: what we let it send, and what it says came back."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import pytest

from aaa.net.udp import Address
from aaa.radius.attributes import VENDOR_SPECIFIC
from aaa.radius.packet import Attribute

needs_radclient = pytest.mark.skipif(
    shutil.which("radclient") is None,
    reason="RADCLIENT IS MISSING: install freeradius-utils, or interoperability is NOT tested",
)
TIMEOUT_S: Final = 2
SIGNED: Final = "Message-Authenticator = 0x00"  # radclient computes it
_RECEIVED: Final = re.compile(r"^Received ([A-Za-z-]+) Id", re.MULTILINE)
_ATTRIBUTE: Final = re.compile(r"^\t([A-Za-z0-9-]+) = (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Heard:
    """What radclient said: the code that came (None: nothing), and its attributes as text."""

    output: str
    code: str | None
    attributes: tuple[tuple[str, str], ...]

    def octets(self, name: str) -> bytes:
        """All values of an attribute of type octets, joined in their order."""
        found = [value for key, value in self.attributes if key == name]
        assert all(value.startswith("0x") for value in found), found
        return bytes.fromhex("".join(value[2:] for value in found))

    def text(self, name: str) -> str:
        """The one value of an attribute, without quotes."""
        (found,) = (value for key, value in self.attributes if key == name)
        return found.strip('"')


@dataclass(frozen=True)
class Radclient:
    """It knows our dictionary, and has its files in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        ours = resources.files("aaa.radius") / "dictionary.roamkey"
        (self.folder / "dictionary.roamkey").write_text(ours.read_text())
        (self.folder / "dictionary").write_text(
            "$INCLUDE /usr/share/freeradius/dictionary\n$INCLUDE dictionary.roamkey\n"
        )

    def ask(
        self, address: Address, command: str, lines: Iterable[str], secret: bytes, *, tries: int = 2
    ) -> Heard:
        """One request of `command` (auth, acct, status, disconnect, coa) and what came."""
        secret_file = self.folder / "secret"
        secret_file.touch(mode=0o600)
        secret_file.write_bytes(secret + b"\n")
        done = subprocess.run(
            [
                "radclient", "-x", "-D", str(self.folder), "-r", str(tries), "-t", str(TIMEOUT_S),
                "-S", str(secret_file), f"{address[0]}:{address[1]}", command,
            ],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S * tries + 10,
        )  # fmt: skip
        received = _RECEIVED.search(done.stdout)
        if received is None:
            assert done.returncode != 0, done.stdout
            return Heard(done.stdout + done.stderr, None, ())
        found = _ATTRIBUTE.findall(done.stdout, received.end())
        return Heard(done.stdout, received[1], tuple(found))


def lines_of(attributes: Iterable[Attribute]) -> list[str]:
    """Attributes of our encoder as radclient reads them, octet for octet."""
    return [SIGNED, *(_line(kind, value) for kind, value in attributes)]


def _line(kind: int, value: bytes) -> str:
    if kind == VENDOR_SPECIFIC:
        vendor = int.from_bytes(value[:4], "big")
        assert value[5] == len(value) - 4
        return f"Attr-26.{vendor}.{value[4]} = 0x{value[6:].hex()}"
    return f"Attr-{kind} = 0x{value.hex()}"
