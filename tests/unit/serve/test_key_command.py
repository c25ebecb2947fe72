"""The command that is given keys: what it sees, what it does not, and that it never stops us."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from aaa.radius.counters import Counters
from aaa.serve.key_command import (
    COMMAND_DONE,
    COMMAND_FAILED,
    COMMAND_SHED,
    COMMAND_TIMED_OUT,
    ENVIRONMENT,
    KeyCommand,
)
from aaa.serve.process import configure_log
from kdc.config import LogSettings
from kdc.keyuse.document import encode_event
from kdc.keyuse.table import AssociationTable, Change
from kdc.keyuse.traffic import Party
from tests.unit.serve.outlet import outlet_of, registration, script, settings, until

# Writes down all that a process can be looked at for, under a name of its own.
RECORD = """
here=$(mktemp -d "$1/run.XXXXXX")
cat /proc/$$/cmdline > "$here/cmdline"
cat /proc/$$/environ > "$here/environ"
cat /dev/stdin > "$here/stdin"
cat /proc/$$/stat > "$here/stat"
readlink /proc/$$/fd/1 /proc/$$/fd/2 | cat > "$here/outputs"
pwd > "$here/folder"
touch "$here/done"
"""


def runs(folder: Path) -> list[Path]:
    found = [item for item in folder.glob("run.*") if (item / "done").exists()]
    return sorted(found, key=lambda item: (item / "done").stat().st_mtime_ns)


def changes_of(count: int, binding: str = "mn") -> list[Change]:
    table = AssociationTable(Party.FOREIGN_AGENT)
    made: list[Change] = []
    for number in range(count):
        made += table.install(registration(1000 + 2 * number, f"{binding}{number}"), now=0)
    return made


def secrets_of(change: Change) -> list[str]:
    keys = [
        key
        for suite in change.held.suites
        for key in (suite.outbound, suite.inbound, suite.both)
        if key is not None
    ]
    return [key.key.reveal().hex() for key in keys]


async def test_the_command_sees_the_event_on_its_input_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_IN_OUR_ENVIRONMENT", "secret")
    counters = Counters()
    command = KeyCommand((str(script(tmp_path, RECORD)), str(tmp_path)), counters, timeout_s=10)
    change = changes_of(1)[0]
    command.submit(change)
    await command.close()
    (run,) = runs(tmp_path)
    assert (run / "stdin").read_bytes() == encode_event(change).reveal()
    assert json.loads((run / "stdin").read_text())["schema"] == "roamkey/key-use"
    arguments = (run / "cmdline").read_bytes().split(b"\0")
    assert arguments == [b"/bin/sh", bytes(tmp_path / "command"), bytes(tmp_path), b""]
    environ = dict(item.split("=", 1) for item in (run / "environ").read_text().split("\0") if item)
    assert environ == ENVIRONMENT
    looked_at = (run / "cmdline").read_text() + (run / "environ").read_text()
    assert all(secret not in looked_at for secret in secrets_of(change))
    assert (run / "outputs").read_text().split() == ["/dev/null", "/dev/null"]
    assert (run / "folder").read_text() == "/\n"
    pid, _, _, _, group, session = (run / "stat").read_text().split()[:6]
    assert pid == group == session
    assert counters[COMMAND_DONE] == 1


async def test_events_of_one_binding_come_one_at_a_time_and_in_order(tmp_path: Path) -> None:
    # A second one beside it would find the folder there.
    program = script(
        tmp_path,
        'mkdir "$1/running" || echo overlap >> "$1/log"; sleep 0.02; '
        'cat | tr -d \'\\n\' >> "$1/log"; echo >> "$1/log"; rmdir "$1/running"',
    )
    outlet = outlet_of(settings(tmp_path, command=(str(program), str(tmp_path))), overlap_s=0)
    outlet.open()
    for first in (300, 400, 500):
        outlet.installed(registration(first))
    outlet.deregistered("10.20.0.1")
    await outlet.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = [(line["event"], line["spi"]) for line in lines]
    assert told == [
        ("installed", 300), ("installed", 301),
        ("renewed", 400), ("renewed", 401), ("retired", 300), ("retired", 301),
        ("renewed", 500), ("renewed", 501), ("retired", 400), ("retired", 401),
        ("retired", 500), ("retired", 501),
    ]  # fmt: skip
    assert lines[-1]["reason"] == "deregistered"


async def test_a_slow_binding_does_not_hold_up_another(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        'event=$(cat); case "$event" in *\'"binding": "slow"\'*) sleep 2;; '
        '*) touch "$1/quick";; esac',
    )
    outlet = outlet_of(settings(tmp_path, command=(str(program), str(tmp_path)), timeout_s=0.8))
    outlet.installed(registration(300, "slow"))
    outlet.installed(registration(400, "quick"))
    began = time.monotonic()
    await until((tmp_path / "quick").exists)
    assert time.monotonic() - began < 0.7
    await outlet.close()


async def test_out_of_time_the_whole_group_is_killed(tmp_path: Path) -> None:
    program = script(
        tmp_path, 'sleep 60 & echo $! > "$1/child"; echo $$ > "$1/leader"; sleep 60; touch "$1/no"'
    )
    counters = Counters()
    command = KeyCommand((str(program), str(tmp_path)), counters, timeout_s=0.5)
    (change, following) = changes_of(1)
    with structlog.testing.capture_logs() as lines:
        command.submit(change)
        await until(lambda: counters[COMMAND_TIMED_OUT] == 1)
    pids = [int((tmp_path / name).read_text()) for name in ("leader", "child")]
    await until(lambda: not any(map(is_running, pids)), timeout_s=2)
    assert [(line["event"], line["spi"], line["key_name"]) for line in lines] == [
        ("key command killed: out of time", change.held.spi, change.held.key_name.hex())
    ]
    script(tmp_path, 'touch "$1/next"')
    command.submit(following)  # the lane goes on
    await until(lambda: counters[COMMAND_DONE] == 1)
    await command.close()
    assert (tmp_path / "next").exists() and not (tmp_path / "no").exists()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # an orphan that is dead waits for init


async def test_a_close_ends_what_hangs(tmp_path: Path) -> None:
    program = script(tmp_path, 'sleep 60 & echo $! > "$1/child"; wait')
    counters = Counters()
    command = KeyCommand((str(program), str(tmp_path)), counters, timeout_s=30)
    for change in changes_of(1):
        command.submit(change)
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").stat().st_size > 0)
    command._timeout_s = 0.2
    began = time.monotonic()
    await command.close()
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    await until(lambda: not is_running(child), timeout_s=2)
    assert counters[COMMAND_SHED] == 2


async def test_a_command_that_fails_is_told_by_its_status_and_stops_nothing(
    tmp_path: Path,
) -> None:
    counters = Counters()
    command = KeyCommand((str(script(tmp_path, "exit 3")),), counters, timeout_s=10)
    with structlog.testing.capture_logs() as lines:
        for change in changes_of(2):
            command.submit(change)
        await until(lambda: counters[COMMAND_FAILED] == 4)
    assert {line["status"] for line in lines} == {3}
    assert {line["log_level"] for line in lines} == {"warning"}
    (tmp_path / "command").unlink()
    with structlog.testing.capture_logs() as lines:
        command.submit(changes_of(1)[0])
        await until(lambda: counters[COMMAND_FAILED] == 5)
    assert [(line["event"], line["error"]) for line in lines] == [
        ("key command not started", "No such file or directory")
    ]
    await command.close()


async def test_a_command_that_does_not_read_is_no_failure(tmp_path: Path) -> None:
    counters = Counters()
    command = KeyCommand(("/bin/true",), counters, timeout_s=10)
    command.submit(changes_of(1)[0])
    await command.close()
    assert counters[COMMAND_DONE] == 1


async def test_the_queue_is_bounded_and_says_what_it_sheds(tmp_path: Path) -> None:
    program = script(tmp_path, 'while [ ! -e "$1/go" ]; do sleep 0.01; done; cat >> "$1/log"')
    counters = Counters()
    command = KeyCommand((str(program), str(tmp_path)), counters, timeout_s=20, maximum_waiting=6)
    changes = changes_of(20)
    with structlog.testing.capture_logs() as lines:
        for change in changes[:2]:
            command.submit(change)
        await asyncio.sleep(0.3)  # some run by now, in lanes of their own or one behind another
        waiting = command._waiting
        for change in changes[2:]:
            command.submit(change)
    accepted = 2 + 6 - waiting
    assert counters[COMMAND_SHED] == len(changes) - accepted
    shed = [line for line in lines if "shed" in line["event"]]
    assert [line["spi"] for line in shed] == [changes[accepted].held.spi]  # one line a burst
    (tmp_path / "go").touch()
    await command.close()
    events = (tmp_path / "log").read_text().splitlines()
    assert len(events) == accepted == counters[COMMAND_DONE]


async def test_a_hanging_command_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    command = KeyCommand(("/bin/sleep", "60"), Counters(), timeout_s=0.5)
    for change in changes_of(10):
        command.submit(change)
    worst, began = 0.0, time.monotonic()
    before = began
    while before - began < 1.0:
        await asyncio.sleep(0.005)
        now = time.monotonic()
        worst, before = max(worst, now - before), now
    await command.close()
    assert worst < 0.2


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_loop_that_ends_without_a_close_ends(turns: int) -> None:
    # asyncio's own subprocesses wait for ever where all tasks are cancelled while one starts.
    async def broken_off() -> None:
        command = KeyCommand(("/bin/sleep", "60"), Counters(), timeout_s=0.5)
        for change in changes_of(4):
            command.submit(change)
        for _ in range(turns):
            await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(broken_off())
    assert time.monotonic() - began < 5


async def test_no_file_of_ours_is_open_in_the_command(tmp_path: Path) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    program = script(tmp_path, 'readlink /proc/$$/fd/* > "$1/open"')
    command = KeyCommand((str(program), str(tmp_path)), Counters(), timeout_s=10)
    command.submit(changes_of(1)[0])
    await command.close()
    os.close(inherited)
    opened = (tmp_path / "open").read_text().splitlines()
    assert str(tmp_path) not in opened
    assert len([name for name in opened if name.startswith("pipe:")]) == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_no_key_is_ever_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: Any
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_log(LogSettings(level="debug", format=log_format))
    try:
        program = script(tmp_path, "cat; cat >&2; exit 1")
        outlet = outlet_of(
            settings(tmp_path, file=True, command=(str(program),)), overlap_s=0, maximum=4
        )
        outlet.open()
        outlet.installed(registration(300))
        first = outlet.held()
        (tmp_path / "keys.json").unlink(missing_ok=True)
        (tmp_path / "keys.json").mkdir()
        outlet.installed(registration(400))
        outlet.installed(registration(500, "no room"))
        outlet.installed(registration(600, "no room"))
        second = outlet.held()
        outlet.revoked(400)
        await outlet.close()
    finally:
        structlog.reset_defaults()
    text = written.getvalue()
    for told in ("300", "installed", "renewed", "revoked", "not handed on", "key command ended",
                 "the file of keys was not written"):  # fmt: skip
        assert told in text
    planted = [item for grants in (300, 400, 500) for item in registration(grants).associations]
    for association in planted:
        keys = association.keys.reveal()
        for part in (keys[:32], keys[:36], keys[-32:]):
            assert part.hex() not in text and repr(part)[2:-1] not in text
    for held in (*first, *second):
        for suite in held.suites:
            for key in (suite.outbound, suite.inbound):
                assert key is not None and key.key.reveal().hex() not in text
                assert f'"{key.salt.reveal().hex()}"' not in text
