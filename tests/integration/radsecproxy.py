"""Debian's radsecproxy, RADIUS over TLS of somebody else, as a process of one test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from aaa.demo.configurations import free_address
from tests.unit.net.authority import Authority, Issued

DEBUG: Final = 5  # everything that it can say
DEFAULT: Final = 2  # errors, warnings, and little else
needs_radsecproxy = pytest.mark.skipif(
    shutil.which("radsecproxy") is None,
    reason="RADSECPROXY IS MISSING: install radsecproxy, or TLS with others is NOT tested",
)


def free_port(kind: socket.SocketKind) -> int:
    """A loopback port that was free a moment ago."""
    return free_address(kind)[1]


@contextmanager
def radsecproxy(
    folder: Path, authority: Authority, issued: Issued, text: str, *, level: int = DEFAULT
) -> Iterator[Path]:
    """It runs with `text` beside its certificate.  What it says goes to the file that is given.

    A failure shows that file.
    """
    log = folder / "radsecproxy.log"
    configuration = folder / "radsecproxy.conf"
    configuration.write_text(
        f"""
        tls default {{
            CACertificateFile {authority.file}
            CertificateFile {issued.certificate_file}
            CertificateKeyFile {issued.key_file}
            TlsVersion TLS1_2:
        }}
        {text}
        """
    )
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["radsecproxy", "-f", "-d", str(level), "-c", str(configuration)],
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield log
        except BaseException as error:
            error.add_note(log.read_text()[-4000:])
            raise
        finally:
            process.kill()
