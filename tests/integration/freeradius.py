"""Debian's FreeRADIUS as a hop of ours: a small raddb in a folder of the test, and its process.

It proxies what is for home.example and answers Status-Server; nothing else on the machine is
touched.  How it is tuned for a comparison of speed is bench.freeradius' affair.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

import pytest

from aaa.demo.configurations import free_address
from aaa.net.udp import Address
from aaa.serve.radius_probe import answers_status

START_TIMEOUT_S: Final = 30.0
_PATH: Final = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
BINARY: Final = shutil.which("freeradius", path=_PATH) or shutil.which("radiusd", path=_PATH)
needs_freeradius = pytest.mark.skipif(
    BINARY is None,
    reason="FREERADIUS IS MISSING: install freeradius, or roaming through it is NOT tested",
)

# @names@ are replaced: FreeRADIUS has braces of its own.
_CONFIGURATION: Final = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = @folder@
raddbdir = @folder@
run_dir = @folder@
name = hub
pidfile = @folder@/hub.pid
max_request_time = 30
cleanup_delay = 5
max_requests = 16384
hostname_lookups = no
log {
    destination = files
    file = @folder@/radius.log
    auth = no
}
security {
    allow_core_dumps = no
    max_attributes = 200
    reject_delay = 0
    status_server = yes
}
thread pool {
    start_servers = 4
    max_servers = 4
    min_spare_servers = 1
    max_spare_servers = 4
    max_requests_per_server = 0
}
modules {
    always ok {
        rcode = ok
    }
    realm suffix {
        format = suffix
        delimiter = "@"
    }
}
client before {
    ipaddr = 127.0.0.1
    secret = "@secret@"
    require_message_authenticator = yes
}
proxy_requests = yes
proxy server {
    default_fallback = no
}
@home_servers@
home_server_pool behind {
    type = fail-over
@pool@
}
realm home.example {
    auth_pool = behind
    @acct_pool@
    nostrip
}
server default {
    listen {
        type = auth
        ipaddr = @host@
        port = @port@
    }
    listen {
        type = acct
        ipaddr = @host@
        port = @acct_port@
    }
    preacct {
        suffix
    }
    accounting {
        ok
        update reply {
            &Message-Authenticator := 0x00
        }
    }
    authorize {
        suffix
        Autz-Type Status-Server {
            ok
            update reply {
                &Message-Authenticator := 0x00
            }
        }
    }
    pre-proxy {
@operator@
    }
    post-auth {
        update reply {
            &Message-Authenticator := 0x00
        }
    }
}
"""

_OPERATOR: Final = """
        update proxy-request {
            &Operator-Name := "1@realm@"
        }
"""

_ACCOUNTING: Final = """
home_server_pool accounted {
    type = fail-over
@pool@
}
"""

_HOME_SERVER: Final = """
home_server @name@ {
    type = @type@
    ipaddr = @host@
    port = @port@
    secret = "@secret@"
    response_window = 4
    zombie_period = 10
    status_check = status-server
    check_interval = 6
    check_timeout = 2
    num_answers_to_alive = 3
    max_outstanding = 65536
}
"""


@dataclass(frozen=True)
class NextHop:
    """Where FreeRADIUS sends what is for home.example, and accounting, if not answered here."""

    address: Address
    secret: str
    accounting: Address | None = None


@dataclass
class FreeRadius:
    """One server; of `behind` the first that lives is asked.

    `operator` is the realm that its policy names in Operator-Name, whatever came; None leaves it.
    """

    folder: Path
    secret: str
    behind: Sequence[NextHop]
    operator: str | None = None
    debug: bool = False  # its log then shows each packet, as `radiusd -xx` does
    address: Address = field(default_factory=free_address)
    accounting: Address = field(default_factory=free_address)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        ours = resources.files("aaa.radius") / "dictionary.roamkey"
        (self.folder / "dictionary.roamkey").write_text(ours.read_text())
        (self.folder / "dictionary").write_text("$INCLUDE dictionary.roamkey\n")
        configuration = self.folder / "hub.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())

    def _configuration(self) -> str:
        asked = [(hop.address, hop.secret) for hop in self.behind]
        told = [(hop.accounting, hop.secret) for hop in self.behind if hop.accounting is not None]
        servers, pool = _servers("auth", asked)
        accounted, acct_pool = _servers("acct", told)
        if told:
            accounted += _replaced(_ACCOUNTING, pool=acct_pool)
        operator = "" if self.operator is None else _replaced(_OPERATOR, realm=self.operator)
        return _replaced(
            _CONFIGURATION,
            folder=self.folder,
            secret=self.secret,
            host=self.address[0],
            port=self.address[1],
            acct_port=self.accounting[1],
            home_servers=servers + accounted,
            pool=pool,
            acct_pool="acct_pool = accounted" if told else "",
            operator=operator,
        )

    def start(self) -> None:
        """Runs it in the foreground; what it says goes to files of its folder."""
        assert BINARY is not None and self.process is None
        options = ["-xx", "-l", "stdout"] if self.debug else []
        with (self.folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "-f", "-d", str(self.folder), "-n", "hub", *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    async def wait(self) -> None:
        """Until it answers Status-Server."""
        assert self.process is not None
        until = time.monotonic() + START_TIMEOUT_S
        while not await answers_status(self.address, self.secret.encode(), timeout_s=0.2):
            assert self.process.poll() is None and time.monotonic() < until, self.log()
            await asyncio.sleep(0.05)  # nothing listens yet: a refusal comes at once

    def log(self) -> str:
        """All that it has said."""
        files = (self.folder / name for name in ("output.log", "radius.log"))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def kill(self) -> None:
        """As a crash: at once, and nothing is answered any more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _servers(kind: str, hops: Sequence[tuple[Address, str]]) -> tuple[str, str]:
    """A home_server for each, and the lines by which a pool names them."""
    names = [f"{kind}{number}" for number in range(len(hops))]
    servers = [
        _replaced(_HOME_SERVER, name=name, type=kind, host=host, port=port, secret=secret)
        for name, ((host, port), secret) in zip(names, hops, strict=True)
    ]
    return "".join(servers), "\n".join(f"home_server = {name}" for name in names)


def _replaced(text: str, **values: object) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text
