"""The file of keys of a running service: what is in it, when, and how often it is written."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from aaa.radius.counters import Counters
from aaa.serve.key_file import FILE_FAILED, FILE_WRITTEN, KeyFile
from kdc.errors import LocalError
from kdc.model import Secret
from tests.unit.serve.outlet import Clock, outlet_of, registration, settings, stored, until


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def test_the_file_has_the_set_of_now(tmp_path: Path, path: Path, no_umask: None) -> None:
    clock, counters = Clock(), Counters()
    outlet = outlet_of(settings(tmp_path, file=True), counters, clock=clock)
    outlet.open()
    await until(path.exists)
    assert stored(path) == {}
    outlet.installed(registration(300))
    await until(lambda: stored(path) == {300: "current", 301: "current"})
    outlet.installed(registration(400))
    renewed = {300: "superseded", 301: "superseded", 400: "current", 401: "current"}
    await until(lambda: stored(path) == renewed)
    outlet.first_used("10.20.0.1", 401)
    await until(lambda: stored(path) == {400: "current", 401: "current"})
    outlet.revoked(400)
    await until(lambda: stored(path) == {401: "current"})
    outlet.installed(registration(500, "10.20.0.9"))
    outlet.deregistered("10.20.0.1")
    await outlet.close()
    assert stored(path) == {500: "current", 501: "current"}
    assert counters["keys.installed"] == 4 and counters["keys.renewed"] == 2
    assert counters["keys.retired"] == 4


async def test_an_end_by_time_needs_no_call(tmp_path: Path, path: Path) -> None:
    outlet = outlet_of(settings(tmp_path, file=True), overlap_s=0.2)
    outlet.open()
    outlet.installed(registration(300, lifetime_s=1))
    outlet.installed(registration(400))
    await until(lambda: path.exists() and stored(path) == {400: "current", 401: "current"})
    outlet.installed(registration(500, "other", lifetime_s=1))
    await until(lambda: 500 in stored(path))
    await until(lambda: stored(path) == {400: "current", 401: "current"})
    await outlet.close()


async def test_many_changes_are_few_writings(tmp_path: Path, path: Path) -> None:
    counters = Counters()
    outlet = outlet_of(settings(tmp_path, file=True), counters)
    outlet.open()
    began = time.monotonic()
    for number in range(300):
        outlet.installed(registration(1000 + 2 * number, f"mn{number}"))
        await asyncio.sleep(0.001)
    await outlet.close()
    spent = time.monotonic() - began
    assert len(stored(path)) == 600
    # One every 50 ms, the first, and the last.
    assert 2 <= counters[FILE_WRITTEN] <= spent / 0.05 + 2


async def test_writing_does_not_hold_up_the_loop(path: Path) -> None:
    threads: list[threading.Thread] = []

    def slow() -> Secret:
        threads.append(threading.current_thread())
        time.sleep(0.3)
        return Secret(b"{}")

    file = KeyFile(path, lambda: slow, Counters())
    file.changed()
    worst, before = 0.0, time.monotonic()
    while not path.exists():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        worst, before = max(worst, now - before), now
    await file.close()
    assert worst < 0.15
    assert threads and threading.main_thread() not in threads


async def test_an_old_file_with_a_loose_mode_is_replaced_at_the_start(
    tmp_path: Path, path: Path
) -> None:
    path.write_text("something else")
    path.chmod(0o644)
    (tmp_path / ".keys.json.0123abcd").write_text("left by a kill")
    outlet = outlet_of(settings(tmp_path, file=True))
    with structlog.testing.capture_logs() as lines:
        outlet.open()
    assert [line["event"] for line in lines] == ["the file of keys is replaced"]
    await outlet.close()
    assert stored(path) == {}
    assert [item.name for item in tmp_path.iterdir()] == ["keys.json"]


async def test_a_file_that_others_could_write_stops_the_start(tmp_path: Path, path: Path) -> None:
    path.write_text("planted")
    path.chmod(0o666)
    outlet = outlet_of(settings(tmp_path, file=True))
    with pytest.raises(LocalError, match="only we can write"):
        outlet.open()
    await outlet.close()
    assert path.read_text() == "planted"


async def test_a_restart_goes_on_with_what_was_held(tmp_path: Path, path: Path) -> None:
    clock = Clock()
    first = outlet_of(settings(tmp_path, file=True), clock=clock)
    first.open()
    first.installed(registration(300, lifetime_s=100))
    first.installed(registration(350, "10.20.0.9"))
    await first.close()
    held = first.held()
    second = outlet_of(settings(tmp_path, file=True), clock=clock)
    second.open()
    assert [(h.binding, h.spi, h.suites) for h in second.held()] == [
        (h.binding, h.spi, h.suites) for h in held
    ]
    second.installed(registration(400))
    await second.close()
    assert stored(path)[300] == "superseded" and stored(path)[400] == "current"
    clock.ahead_s = 101
    third = outlet_of(settings(tmp_path, file=True), clock=clock)
    third.open()
    await third.close()
    assert stored(path).keys() == {400, 401, 350, 351}


async def test_a_disk_that_refuses_stops_nothing_and_is_tried_again(
    tmp_path: Path, path: Path
) -> None:
    counters = Counters()
    outlet = outlet_of(settings(tmp_path, file=True), counters)
    outlet.open()
    await until(path.exists)
    path.unlink()
    path.mkdir()  # a rename over a folder fails
    with structlog.testing.capture_logs() as lines:
        outlet.installed(registration(300))
        await until(lambda: counters[FILE_FAILED] >= 1)
    assert "the file of keys was not written" in {line["event"] for line in lines}
    path.rmdir()
    await until(path.is_file)
    await outlet.close()
    assert stored(path) == {300: "current", 301: "current"}


async def test_a_last_writing_that_fails_is_told_and_not_raised(tmp_path: Path, path: Path) -> None:
    counters = Counters()
    outlet = outlet_of(settings(tmp_path, file=True), counters)
    outlet.open()
    path.mkdir()
    outlet.installed(registration(300))
    await outlet.close()
    assert counters[FILE_FAILED] >= 1 and path.is_dir()


async def test_a_reader_in_a_loop_sees_whole_documents_only(tmp_path: Path, path: Path) -> None:
    outlet = outlet_of(settings(tmp_path, file=True))
    outlet.open()
    await until(path.exists)
    done = threading.Event()
    seen: list[tuple[int, int]] = []

    def read() -> None:
        while not done.is_set():
            with path.open() as file:
                content = json.load(file)
                seen.append(
                    (len(content["associations"]), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
                )

    reader = asyncio.to_thread(read)
    task = asyncio.ensure_future(reader)
    for number in range(40):
        outlet.installed(registration(1000 + 2 * number, f"mn{number}"))
        await asyncio.sleep(0.02)
    done.set()
    await task
    await outlet.close()
    assert {mode for _, mode in seen} == {0o600}
    counts = [count for count, _ in seen]
    assert counts == sorted(counts) and len(set(counts)) > 3
    assert all(count % 2 == 0 for count in counts)  # never one half of a registration


async def test_without_settings_nothing_is_kept(tmp_path: Path) -> None:
    outlet = outlet_of(None)
    outlet.open()
    outlet.installed(registration(300))
    assert outlet.held() == ()
    await outlet.close()


async def test_more_than_it_may_hold_is_counted_and_stops_nothing(
    tmp_path: Path, path: Path
) -> None:
    counters = Counters()
    outlet = outlet_of(settings(tmp_path, file=True), counters, maximum=2)
    outlet.open()
    outlet.installed(registration(300))
    with structlog.testing.capture_logs() as lines:
        outlet.installed(registration(400, "other"))
    assert counters["keys.refused"] == 1
    assert lines[0]["reason"] == "no more than 2 associations are held"
    await outlet.close()
    assert stored(path).keys() == {300, 301}


async def test_after_the_close_nothing_is_taken(tmp_path: Path, path: Path) -> None:
    outlet = outlet_of(settings(tmp_path, file=True))
    outlet.open()
    await outlet.close()
    outlet.installed(registration(300))
    assert outlet.held() == () and stored(path) == {}
