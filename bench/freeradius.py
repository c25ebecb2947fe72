"""The peer: Debian's FreeRADIUS 3.2 doing one SELECT and one four-row INSERT for each request.

It gets the tuning that a careful operator would give it: a thread for every database connection,
all of them started beforehand, no module that the site does not use, no log of single requests,
and duplicates remembered as long as ours are.  How many threads is tried out by bench.run.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REQUEST,
    decode,
    encode_request,
    verify_response,
)
from bench.load import identifier_of
from bench.postgres import Postgres
from bench.process import LOOPBACK, BenchError, Server, find_free_port
from kdc.model import Secret

DATABASE: Final = "freeradius"
ROWS_EACH: Final = 4
_REALM: Final = "home.example"
_SYSTEM_USER: Final = "freerad"
_BINARY_FOLDERS: Final = ("/usr/sbin", "/usr/bin")
_LIBRARIES: Final = Path("/usr/lib/freeradius")
_DICTIONARIES: Final = Path("/usr/share/freeradius")
_USER_NAME, _NAS_IP_ADDRESS, _NAS_IDENTIFIER = 1, 4, 32  # RFC 2865 §5
_SESSION_TIMEOUT, _CLASS = 27, 25

# A subscriber's row has a name and a sealed key; an association's has no index but its key: less
# than a key distribution center needs, so the comparison leans to FreeRADIUS.  The multiplier is
# odd, so the SPIs are distinct and, as ours are, spread over the whole index.
_SCHEMA: Final = """
CREATE TABLE subscriber (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_name text NOT NULL UNIQUE,
    sealed_key bytea NOT NULL
);
CREATE SEQUENCE spi CACHE 32;
CREATE FUNCTION draw_spi() RETURNS bigint LANGUAGE sql VOLATILE
    RETURN (nextval('spi') * 2654435761) % 4294967296;
CREATE TABLE association (
    spi bigint PRIMARY KEY DEFAULT draw_spi(),
    subscriber bigint NOT NULL,
    pair smallint NOT NULL,
    key_name bytea NOT NULL,
    nas inet NOT NULL,
    lifetime_s integer NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
"""

_VALUES: Final = (
    "(%{control:Tmp-Integer-0}, {pair}, '%{randstr:hhhhhhhhhhhhhhhh}', '%{NAS-IP-Address}', 1800)"
)

_CONFIGURATION: Final = """
prefix = /usr
libdir = @libraries@
logdir = @folder@
raddbdir = @folder@
run_dir = @folder@
name = freeradius
pidfile = @folder@/freeradius.pid
max_request_time = 30
cleanup_delay = 5
max_requests = 131072
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
proxy_requests = no
thread pool {
    start_servers = @threads@
    max_servers = @threads@
    min_spare_servers = @threads@
    max_spare_servers = @threads@
    max_requests_per_server = 0
    max_queue_size = 65536
    auto_limit_acct = no
}
modules {
    always ok {
        rcode = ok
    }
    always reject {
        rcode = reject
    }
    expr {
    }
    sql {
        dialect = "postgresql"
        driver = "rlm_sql_postgresql"
        radius_db = "@conninfo@"
        sql_user_name = "%{User-Name}"
        query_timeout = 5
        read_clients = no
        pool {
            start = @threads@
            min = @threads@
            max = @threads@
            spare = 0
            uses = 0
            lifetime = 0
            idle_timeout = 0
            retry_delay = 30
        }
    }
}
client bench {
    ipaddr = 127.0.0.1
    secret = "@secret@"
    require_message_authenticator = yes
    limit {
        max_connections = 0
    }
}
server default {
    listen {
        type = auth
        ipaddr = @address@
        port = @port@
        recv_buff = 4194304
    }
    authorize {
        update control {
            &Tmp-Integer-0 := "%{sql:SELECT id FROM subscriber WHERE user_name = '%{User-Name}'}"
        }
        if (!&control:Tmp-Integer-0) {
            reject
        }
        update control {
            &Tmp-Integer-1 := "%{sql:@insert@}"
        }
        if (&control:Tmp-Integer-1 != 4) {
            reject
        }
        update control {
            &Auth-Type := Accept
        }
        update reply {
            &Message-Authenticator := 0x00
            &User-Name := "%{User-Name}"
            &Class := "%{control:Tmp-Integer-0}"
            &Session-Timeout := 1800
        }
        Autz-Type Status-Server {
            ok
            update reply {
                &Message-Authenticator := 0x00
            }
        }
    }
    authenticate {
    }
    post-auth {
    }
}
"""


@dataclass(frozen=True, slots=True)
class FreeRadius:
    """A running server and what a client of it must know."""

    address: tuple[str, int]
    secret: Secret
    server: Server
    threads: int


def version() -> str:
    """What the binary calls itself."""
    output = subprocess.run([_find_binary(), "-v"], capture_output=True, text=True, check=True)
    return output.stdout.splitlines()[0].partition(",")[0].removeprefix("radiusd: ")


def prepare(postgres: Postgres, subscribers: int) -> None:
    """The database with a population of `subscribers`."""
    postgres.create_database(DATABASE)
    with psycopg.connect(postgres.conninfo(DATABASE)) as connection:
        connection.execute(_SCHEMA)
        with connection.cursor().copy("COPY subscriber (user_name, sealed_key) FROM STDIN") as copy:
            for number in range(subscribers):
                copy.write_row((_user_name(number), os.urandom(60)))


def count_rows(postgres: Postgres) -> int:
    """How many associations have been committed."""
    with psycopg.connect(postgres.conninfo(DATABASE)) as connection:
        row = connection.execute("SELECT count(*) FROM association").fetchone()
    return int(row[0]) if row else 0


@contextmanager
def running(folder: Path, postgres: Postgres, threads: int) -> Iterator[FreeRadius]:
    """The server with `threads` threads and database connections, answering.

    As root it runs as the system's user `freerad`.  Raises `BenchError` where it does not start.
    """
    folder.mkdir()
    secret = Secret(secrets.token_hex(16).encode())
    address = (LOOPBACK, find_free_port())
    # What holds other @names@ itself comes last.
    values = {
        "libraries": _LIBRARIES,
        "folder": folder,
        "threads": threads,
        "conninfo": postgres.conninfo(DATABASE),
        "secret": secret.reveal().decode(),
        "address": address[0],
        "port": address[1],
        "insert": _insert_statement(),
    }
    text = _CONFIGURATION
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    configuration = folder / "freeradius.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(text)
    if os.geteuid() == 0:
        for path in (folder, configuration):
            shutil.chown(path, _SYSTEM_USER, _SYSTEM_USER)
    command = [_find_binary(), "-f", "-d", str(folder), "-n", "freeradius", "-D", _DICTIONARIES]
    log_file = folder / "output.log"
    with Server([str(word) for word in command], log_file=log_file, user=_SYSTEM_USER) as server:
        server.wait_for_status_server(address, secret)
        yield FreeRadius(address, secret, server, threads)


def build_requests(server: FreeRadius, subscribers: Sequence[int]) -> tuple[list[bytes], Check]:
    """One Access-Request for each of the subscriber numbers, and the check of their answers."""
    datagrams = []
    for index, number in enumerate(subscribers):
        attributes = (
            (_USER_NAME, _user_name(number).encode()),
            (_NAS_IP_ADDRESS, b"\x7f\x00\x00\x01"),
            (_NAS_IDENTIFIER, b"bench"),
        )
        authenticator = os.urandom(16)
        identifier = identifier_of(index)
        datagrams.append(
            encode_request(ACCESS_REQUEST, identifier, authenticator, attributes, server.secret)
        )

    def check(index: int, octets: bytes) -> None:
        request = datagrams[index]
        response = verify_response(decode(octets), request[4:20], server.secret)
        if response.code != ACCESS_ACCEPT:
            raise BenchError("not an Access-Accept")
        values = dict(response.attributes)
        if values.get(_USER_NAME) != _user_name(subscribers[index]).encode():
            raise BenchError("an answer for another subscriber")
        if not values.keys() >= {_CLASS, _SESSION_TIMEOUT}:
            raise BenchError("an answer without its attributes")

    return datagrams, check


Check = Callable[[int, bytes], None]


def _user_name(number: int) -> str:
    return f"subscriber{number:07d}@{_REALM}"


def _insert_statement() -> str:
    rows = ", ".join(_VALUES.replace("{pair}", str(pair)) for pair in range(ROWS_EACH))
    return f"INSERT INTO association (subscriber, pair, key_name, nas, lifetime_s) VALUES {rows}"


def _find_binary() -> Path:
    for folder, name in itertools.product(_BINARY_FOLDERS, ("freeradius", "radiusd")):
        if (path := Path(folder, name)).exists():
            return path
    raise BenchError(
        "no FreeRADIUS here: install the packages freeradius and freeradius-postgresql"
    )
