"""How long `kdc audit verify` takes for so many registrations, made here with sound chains.

`python -m bench.audit --registrations 1000000`; not part of the side-by-side benchmark.
"""

from __future__ import annotations

import argparse
import resource
import secrets
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path

import psycopg

from bench.postgres import Postgres, running
from kdc.audit.chain import ISSUING, Entry, entry_hash, first_hash
from kdc.audit.check import Checker
from kdc.audit.items import RegistrationItem, inet_octets
from kdc.crypto.merkle import leaf_hash, merkle_root
from kdc.model import Secret
from kdc.store import migrate
from kdc.store.audit_stream import streamed
from kdc.store.database import administration

_DATABASE = "audit"
_WRITERS = 4
_ADDRESSES = ("198.51.100.7", "198.51.100.7", "10.1.2.3")
_OCTETS = tuple(inet_octets(IPv4Address(text)) for text in _ADDRESSES)
_REGISTRATIONS = (
    "COPY registrations (record_id, class_id, identification_second, identification_low, fa_nai,"
    " nas_address, operator_realm, care_of_address, home_address, alias, lifetime_s, spis,"
    " created_at, audit_writer, audit_sequence, audit_position) FROM STDIN"
)
_ENTRIES = (
    "COPY audit_entries (writer, sequence, at_us, size, root, absent, previous, hash) FROM STDIN"
)
_START_US = 1_700_000_000_000_000


def fill(conninfo: str, registrations: int, batch: int) -> None:
    """Batches of `batch`, in turn of four writers."""
    with psycopg.connect(conninfo) as connection:
        writers = []
        for _ in range(_WRITERS):
            row = connection.execute(
                "INSERT INTO audit_chains (kind, node) VALUES ('issuing', 'bench') RETURNING id"
            ).fetchone()
            assert row is not None
            writers.append(int(row[0]))
        ends = {writer: (0, first_hash(writer, ISSUING)) for writer in writers}
        entries: list[Entry] = []
        with connection.cursor() as cursor, cursor.copy(_REGISTRATIONS) as copy:
            for first in range(0, registrations, batch):
                writer = writers[first // batch % _WRITERS]
                sequence, previous = ends[writer]
                at_us = _START_US + 1_000 * first
                items = [_item(n) for n in range(first, min(first + batch, registrations))]
                created = _timestamp(at_us)
                for position, item in enumerate(items):
                    copy.write_row(
                        (*item[:5], _ADDRESSES[0], item.operator_realm, *_ADDRESSES[1:],
                         item.alias, item.lifetime_s, list(item.spis), created,
                         writer, sequence + 1, position)
                    )  # fmt: skip
                root = merkle_root([leaf_hash(item.octets()) for item in items])
                made = Entry(writer, sequence + 1, at_us, len(items), root, b"", previous, b"")
                digest = entry_hash(made, previous=previous, sequence=sequence + 1)
                entries.append(made._replace(hash=digest))
                ends[writer] = (sequence + 1, digest)
        with connection.cursor() as cursor, cursor.copy(_ENTRIES) as copy:
            for entry in entries:
                copy.write_row(entry)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE registrations, audit_entries")


def _timestamp(at_us: int) -> str:
    seconds, rest = divmod(at_us, 1_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}+00"


def _item(number: int) -> RegistrationItem:
    nas, care_of, home = _OCTETS
    return RegistrationItem(
        number, secrets.token_bytes(8), 4_000_000_000, number, "fa1@visited.example", nas,
        "visited.example", care_of, home, secrets.token_bytes(8), 600,
        [2**29 + 3 * number + i for i in range(3)],
    )  # fmt: skip


def measure(postgres: Postgres, registrations: int, batch: int) -> None:
    """Prints what verification took."""
    conninfo = postgres.conninfo(_DATABASE)
    with administration(conninfo) as connection:
        migrate.upgrade(
            connection,
            Secret(secrets.token_bytes(32)),
            entropy=secrets.token_bytes,
            progress=lambda _line: None,
        )
    fill(conninfo, registrations, batch)
    started, processor = time.perf_counter(), time.process_time()
    with administration(conninfo) as connection, streamed(connection) as found:
        report = Checker(found.kinds, found.checkpoints).run(found.groups)
    took, processor = time.perf_counter() - started, time.process_time() - processor
    assert report.finding is None, report.finding
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{report.items} items in {report.entries} entries of up to {batch}: {took:.1f} s,"
        f" {processor:.1f} s of this process's processor time, at most {memory} MB of memory"
    )


def main() -> None:
    """Runs it on a PostgreSQL of its own."""
    parser = argparse.ArgumentParser(prog="bench.audit", description=__doc__)
    parser.add_argument("--registrations", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roamkey-audit-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with running(folder) as postgres:
            postgres.create_database(_DATABASE)
            measure(postgres, given.registrations, given.batch)


if __name__ == "__main__":
    main()
