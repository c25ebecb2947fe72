"""`kdc subscriber import` on a real PostgreSQL: what a line becomes, and what a kill leaves."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

from kdc.crypto.transport import wrap_key
from kdc.model import Secret
from kdc.store import Store
from tests.integration.domains import Domains

HOME = ("--config", "home.toml")
IMPORT = ("subscriber", "import")


def _write(domains: Domains, name: str, lines: list[Any]) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (domains.folder / name).write_text(text)
    return name


def _lines(domains: Domains, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (domains.folder / name).read_text().splitlines()]


def _counts(printed: str) -> dict[str, int]:
    return {name: count for name, count in json.loads(printed).items() if count}


def _plain(domains: Domains) -> psycopg.Connection[Any]:
    return psycopg.connect(domains.postgres.conninfo(domains.database_name))


async def test_a_file_becomes_subscribers_with_keys_that_open(
    domains: Domains, store: Store
) -> None:
    file = _write(
        domains,
        "people.csv",
        [
            "nai,home_address_kind,home_address,roam,static_spi,status",
            "alice@home.example,static,10.9.0.1,visited.example Other.example,,",
            "bob@Home.example,dynamic,,,true,suspended",
        ],
    )
    assert _counts(domains.kdc(*IMPORT, file, "--json", *HOME)) == {"added": 2}
    path = domains.folder / "people.csv.enrolments"
    assert path.stat().st_mode & 0o777 == 0o600
    alice, bob = _lines(domains, path.name)
    assert len(alice["spis"]) == 4 and len(bob["spis"]) == 1
    for enrolment in (alice, bob):
        stored = (await store.load(enrolment["spis"])).records[enrolment["spis"][0]]
        assert stored.key0 == Secret(bytes.fromhex(enrolment["key0"]))
        assert str(stored.record.nai) == enrolment["nai"]
    assert stored.record.static_spi and not stored.record.active
    shown = json.loads(domains.kdc("subscriber", "show", "alice@home.example", "--json", *HOME))
    assert shown["roam"] == ["visited.example", "other.example"]
    assert (shown["home_address"], shown["key_version"]) == ("10.9.0.1", 1)


def test_the_same_file_again_changes_nothing(domains: Domains) -> None:
    file = _write(domains, "p.jsonl", [{"nai": f"mn{i}@home.example"} for i in range(20)])
    domains.kdc(*IMPORT, file, *HOME)
    before = _everything(domains), (domains.folder / "p.jsonl.enrolments").read_bytes()
    assert _counts(domains.kdc(*IMPORT, file, "--json", *HOME)) == {"unchanged": 20}
    assert (_everything(domains), (domains.folder / "p.jsonl.enrolments").read_bytes()) == before


def test_each_bad_line_is_named_with_its_reason_and_costs_no_other(domains: Domains) -> None:
    key = secrets.token_hex(32)
    file = _write(
        domains,
        "p.jsonl",
        [
            {"nai": "good@home.example"},
            {"nai": "nobody"},
            "{not json",
            "[]",
            "",
            {"nai": "a@home.example", "color": "red"},
            {"nai": "b@home.example", "home_address": "10.0.0.256"},
            {"nai": "c@home.example", "key0": key},
            {"nai": "d@home.example", "key0_wrapped": key},
            {"nai": "e@home.example", "home_agent": "203.0.113.9"},
            {"nai": "f@home.example", "status": "revoked"},
            {"nai": "g@home.example", "home_address_kind": "dynamic", "home_address": "10.0.0.1"},
            {"nai": "h@home.example", "roam": "x" * 70000},
            {"nai": "i@home.example", "roam": [1]},
            {"nai": 7},
            {"nai": "nul\0@home.example"},
            "[" * 60000,
            '{"nai": "\\ud800@home.example"}',
            '{"nai": "j@home.example", "roam": ["\\ud800"], "static_spi": 1e999}',
            {"nai": "last@home.example"},
        ],
    )
    printed = domains.run("kdc", *IMPORT, file, "--json", *HOME)
    assert printed.returncode == 1 and len(printed.stderr.splitlines()) == 1
    assert _counts(printed.stdout) == {"added": 2, "bad": 17}
    told = {item["line"]: item["reason"] for item in _lines(domains, "p.jsonl.report")}
    assert set(told) == {2, 3, 4, *range(6, 20)}
    assert "--keys-in-clear" in told[8] and "--transport-key" in told[9]
    assert "65536" in told[13] and "dynamic" in told[12]
    assert key not in json.dumps(told) + printed.stderr
    report = domains.folder / "p.jsonl.report"
    assert report.stat().st_mode & 0o777 == 0o600


def test_bad_lines_of_csv_and_a_header_that_is_none(domains: Domains) -> None:
    lines = ["nai,roam", 'a@home.example,"open', "b@home.example", "c@home.example,r.example"]
    file = _write(domains, "p.csv", lines)
    (domains.folder / file).write_bytes((domains.folder / file).read_bytes() + b"\xff@x.example,\n")
    printed = domains.run("kdc", *IMPORT, file, "--json", *HOME).stdout
    assert _counts(printed) == {"added": 1, "bad": 3}
    for header in ("nai,shoe_size", "roam", "nai,nai", ""):
        bad = _write(domains, "q.csv", [header, "a@home.example,b"])
        assert "first line" in domains.kdc(*IMPORT, bad, *HOME, expect=1)


def test_a_line_that_differs_is_told_and_applied_only_on_demand(domains: Domains) -> None:
    domains.kdc(*IMPORT, _write(domains, "p.jsonl", [{"nai": "a@home.example"}]), *HOME)
    before = _everything(domains)
    other = {"nai": "a@home.example", "roam": ["v.example"], "home_address": "10.4.4.4"}
    file = _write(domains, "q.jsonl", [other])
    printed = domains.run("kdc", *IMPORT, file, "--json", *HOME)
    assert printed.returncode == 1 and _counts(printed.stdout) == {"differing": 1}
    (told,) = _lines(domains, "q.jsonl.report")
    assert told["line"] == 1 and "home_address, roam" in told["reason"]
    assert _everything(domains) == before
    assert _counts(domains.kdc(*IMPORT, file, "--update", "--json", *HOME)) == {"updated": 1}
    assert _counts(domains.kdc(*IMPORT, file, "--update", "--json", *HOME)) == {"unchanged": 1}
    shown = json.loads(domains.kdc("subscriber", "show", "a@home.example", "--json", *HOME))
    assert (shown["roam"], shown["home_address"]) == (["v.example"], "10.4.4.4")
    never = other | {"key0": secrets.token_hex(32), "static_spi": True, "status": "suspended"}
    file = _write(domains, "r.jsonl", [never | {"roam": None}])
    stored = _everything(domains)
    printed = domains.run("kdc", *IMPORT, file, "--update", "--keys-in-clear", "--json", *HOME)
    assert _counts(printed.stdout) == {"differing": 1} and _everything(domains) == stored
    (told,) = _lines(domains, "r.jsonl.report")
    assert told["reason"].endswith(": status, static_spi, key0")


def test_a_name_twice_is_judged_by_what_the_first_has_stored(domains: Domains) -> None:
    lines = [{"nai": "a@home.example"}, {"nai": "a@HOME.example"}]
    file = _write(domains, "p.jsonl", [*lines, {"nai": "a@home.example", "roam": ["v.example"]}])
    printed = domains.run("kdc", *IMPORT, file, "--json", *HOME)
    assert _counts(printed.stdout) == {"added": 1, "unchanged": 1, "differing": 1}
    assert [item["line"] for item in _lines(domains, "p.jsonl.report")] == [3]


def test_a_dry_run_tells_and_changes_nothing(domains: Domains) -> None:
    domains.kdc(*IMPORT, _write(domains, "p.jsonl", [{"nai": "a@home.example"}]), *HOME)
    before = _everything(domains)
    file = _write(
        domains,
        "q.jsonl",
        [{"nai": "a@home.example"}, {"nai": "b@home.example"}, {"nai": "x"},
         {"nai": "a@home.example", "roam": ["v.example"]}],
    )  # fmt: skip
    printed = domains.run("kdc", *IMPORT, file, "--dry-run", "--json", *HOME)
    assert _counts(printed.stdout) == {"added": 1, "unchanged": 1, "differing": 1, "bad": 1}
    assert [item["line"] for item in _lines(domains, "q.jsonl.report")] == [3, 4]
    assert _everything(domains) == before
    assert not (domains.folder / "q.jsonl.enrolments").exists()


async def test_keys_come_wrapped_or_by_name_in_the_clear(domains: Domains, store: Store) -> None:
    transport, other = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
    path = domains.folder / "transport.key"
    path.write_text(transport.reveal().hex() + "\n")
    path.chmod(0o600)
    domains.kdc("transport-key", "add", "old-hss", "--file", path.name, *HOME)
    again = domains.kdc("transport-key", "add", "old-hss", "--file", path.name, *HOME, expect=1)
    assert "choose another name" in again
    keys = [Secret(secrets.token_bytes(32)) for _ in range(3)]
    damaged = bytearray(wrap_key(keys[1], transport))
    damaged[20] ^= 1
    file = _write(
        domains,
        "p.jsonl",
        [
            {"nai": "a@home.example", "key0_wrapped": wrap_key(keys[0], transport).hex()},
            {"nai": "b@home.example", "key0_wrapped": bytes(damaged).hex()},
            {"nai": "c@home.example", "key0_wrapped": wrap_key(keys[2], other).hex()},
            {"nai": "d@home.example", "key0": keys[1].reveal().hex()},
            {"nai": "e@home.example", "key0": "00" * 32},
            {"nai": "f@home.example", "key0_wrapped": wrap_key(Secret(b"k" * 16), transport).hex()},
        ],
    )
    arguments = (*IMPORT, file, "--transport-key", "old-hss", "--keys-in-clear", "--json", *HOME)
    assert _counts(domains.run("kdc", *arguments).stdout) == {"added": 2, "bad": 4}
    alice, dave = _lines(domains, "p.jsonl.enrolments")
    assert "key0" not in alice and "key0" not in dave
    assert (await store.load(alice["spis"])).records[alice["spis"][0]].key0 == keys[0]
    assert (await store.load(dave["spis"])).records[dave["spis"][0]].key0 == keys[1]
    assert _counts(domains.run("kdc", *arguments).stdout) == {"unchanged": 2, "bad": 4}
    with _plain(domains) as plain:
        row = plain.execute("SELECT sealed_key FROM transport_keys").fetchone()
    assert row is not None and transport.reveal() not in row[0]
    domains.kdc("transport-key", "remove", "old-hss", *HOME)
    assert "transport-key add" in domains.kdc(*arguments, expect=1)


def test_a_file_for_enrolments_that_others_read_is_refused(domains: Domains) -> None:
    file = _write(domains, "p.jsonl", [{"nai": "a@home.example"}])
    written = domains.folder / "p.jsonl.enrolments"
    written.write_text("")
    written.chmod(0o644)
    assert "chmod 600" in domains.kdc(*IMPORT, file, *HOME, expect=1)
    written.unlink()
    written.symlink_to(domains.folder / "elsewhere")
    domains.kdc(*IMPORT, file, *HOME, expect=1)
    assert not (domains.folder / "elsewhere").exists()
    assert domains.kdc("subscriber", "list", "--json", *HOME) == ""


@pytest.mark.parametrize("kills", [6])
def test_what_is_killed_again_and_again_ends_exact(domains: Domains, kills: int) -> None:
    """Each kill comes at another moment; in the end each line is there once, with its key."""
    count = 60_000
    lines: list[Any] = [{"nai": f"mn{i:06d}@home.example"} for i in range(count)]
    lines[count // 3] = {"nai": "bad"}
    lines[-1] = {"nai": "bad too"}
    file = _write(domains, "p.jsonl", lines)
    (domains.folder / "p.jsonl.enrolments").write_text('{"kept": true}\n')
    (domains.folder / "p.jsonl.enrolments").chmod(0o600)
    command = [sys.executable, "-m", "kdc", *IMPORT, file, "--json", *HOME]
    stopped_at: list[int] = []
    for _ in range(kills):
        running = subprocess.Popen(
            command,
            cwd=domains.folder,
            env=domains.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_more(domains, stopped_at[-1] if stopped_at else 0)
        time.sleep(secrets.randbelow(200) / 1000)
        running.send_signal(signal.SIGKILL)
        running.wait()
        stopped_at.append(_subscribers(domains))
    assert stopped_at[-1] < count - 2, "the last kill came too late to show anything"
    done = domains.run("kdc", *IMPORT, file, "--json", *HOME)
    assert _counts(done.stdout) == {"added": count - 2, "bad": 2}
    assert [item["line"] for item in _lines(domains, "p.jsonl.report")] == [count // 3 + 1, count]
    first, *written = _lines(domains, "p.jsonl.enrolments")
    assert first == {"kept": True}
    names = [item["nai"] for item in written]
    assert names == [line["nai"] for line in lines if "@" in line["nai"]]
    with _plain(domains) as plain:
        stored = plain.execute(
            "SELECT s.nai, r.unspent, (SELECT count(*) FROM key0_spis WHERE record_id = r.id"
            " AND spi = ANY(r.unspent)) FROM subscribers AS s JOIN key0_records AS r"
            " ON r.subscriber_id = s.id ORDER BY s.id"
        ).fetchall()
        spis = plain.execute("SELECT count(*) FROM key0_spis").fetchone()
    assert [(nai, unspent) for nai, unspent, _ in stored] == [
        (item["nai"], item["spis"]) for item in written
    ]
    assert {found for _, _, found in stored} == {4} and spis == (4 * (count - 2),)


def test_an_import_that_was_begun_goes_on_only_as_it_was(domains: Domains) -> None:
    file = _write(domains, "p.jsonl", [{"nai": "a@home.example"}])
    domains.kdc(*IMPORT, file, *HOME)
    with _plain(domains) as plain:
        plain.execute("UPDATE subscriber_imports SET finished_at = NULL")
    assert "--restart" in domains.kdc(*IMPORT, file, "--update", *HOME, expect=1)
    (domains.folder / "p.jsonl.enrolments").unlink()
    assert "--restart" in domains.kdc(*IMPORT, file, *HOME, expect=1)
    assert _counts(domains.kdc(*IMPORT, file, "--restart", "--json", *HOME)) == {"unchanged": 1}


def test_another_file_does_not_write_behind_an_import_that_may_go_on(domains: Domains) -> None:
    """Else the first, going on, would cut off the keys of the second."""
    into = ("--enrolments", "keys.jsonl")
    first = _write(domains, "p.jsonl", [{"nai": "a@home.example"}])
    second = _write(domains, "q.jsonl", [{"nai": "b@home.example"}])
    domains.kdc(*IMPORT, first, *into, *HOME)
    with _plain(domains) as plain:
        plain.execute("UPDATE subscriber_imports SET finished_at = NULL")
    assert "not finished" in domains.kdc(*IMPORT, second, *into, *HOME, expect=1)
    assert _counts(domains.kdc(*IMPORT, first, *into, "--json", *HOME)) == {"added": 1}
    domains.kdc(*IMPORT, second, *into, *HOME)
    names = [item["nai"] for item in _lines(domains, "keys.jsonl")]
    assert names == ["a@home.example", "b@home.example"]
    (domains.folder / second).chmod(0o600)
    content = (domains.folder / second).read_bytes()
    for option in ("--report", "--enrolments"):
        domains.kdc(*IMPORT, second, option, second, *HOME, expect=2)
    assert (domains.folder / second).read_bytes() == content


def test_a_connection_that_is_cut_is_one_line_and_the_same_command_goes_on(
    domains: Domains,
) -> None:
    count = 30_000
    file = _write(domains, "p.jsonl", [{"nai": f"mn{i:06d}@home.example"} for i in range(count)])
    command = [sys.executable, "-m", "kdc", *IMPORT, file, "--json", *HOME]
    running = subprocess.Popen(
        command, cwd=domains.folder, env=domains.environment, stderr=subprocess.PIPE, text=True
    )
    _wait_for_more(domains, 0)
    with _plain(domains) as plain:
        plain.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1 and len(told.splitlines()) == 1, told
    assert _counts(domains.kdc(*IMPORT, file, "--json", *HOME)) == {"added": count}
    assert len({item["nai"] for item in _lines(domains, "p.jsonl.enrolments")}) == count
    assert len(_lines(domains, "p.jsonl.enrolments")) == _subscribers(domains) == count


def test_a_stored_key_that_does_not_open_costs_its_line_alone(domains: Domains) -> None:
    keys = [secrets.token_hex(32) for _ in range(2)]
    file = _write(
        domains, "p.jsonl", [{"nai": f"mn{i}@home.example", "key0": keys[i]} for i in range(2)]
    )
    domains.kdc(*IMPORT, file, "--keys-in-clear", *HOME)
    with _plain(domains) as plain:
        plain.execute(
            "UPDATE key0_records SET sealed_key0 = set_byte(sealed_key0, 20, 7) || 'x' WHERE id = 1"
        )
    printed = domains.run("kdc", *IMPORT, file, "--keys-in-clear", "--json", *HOME)
    assert _counts(printed.stdout) == {"unchanged": 1, "differing": 1}


def _wait_for_more(domains: Domains, than: int) -> None:
    for _ in range(1000):
        if _subscribers(domains) > than:
            return
        time.sleep(0.02)
    raise AssertionError("the import does not go on")


def _subscribers(domains: Domains) -> int:
    with _plain(domains) as plain:
        row = plain.execute("SELECT count(*) FROM subscribers").fetchone()
    assert row is not None
    return int(row[0])


def _everything(domains: Domains) -> list[str]:
    with _plain(domains) as plain:
        return [
            str(row[0])
            for table in ("subscribers", "key0_records", "key0_spis")
            for row in plain.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall()
        ]
