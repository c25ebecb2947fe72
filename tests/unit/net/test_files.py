"""Private files: their mode at every moment, whole or not there, and whose they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaa.net.files import (
    check_private_target,
    read_private,
    remove_leftovers,
    write_atomically,
)
from kdc.errors import LocalError
from kdc.model import Secret

WRITER = """
import sys
from pathlib import Path
from aaa.net.files import write_atomically
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    write_atomically(path, f"{number} " * 20000 + "end")
    print(number, flush=True)
"""


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("old_mode", [None, 0o600, 0o644, 0o666])
def test_the_mode_is_0600_whatever_umask_and_old_file(
    tmp_path: Path, no_umask: None, old_mode: int | None
) -> None:
    path = tmp_path / "keys.json"
    if old_mode is not None:
        path.write_text("old")
        path.chmod(old_mode)
    write_atomically(path, b"new")
    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o600)
    assert [item.name for item in tmp_path.iterdir()] == ["keys.json"]


def test_at_no_moment_can_others_read_what_is_written(tmp_path: Path, no_umask: None) -> None:
    path = tmp_path / "keys.json"
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for item in os.scandir(tmp_path):
                try:
                    seen.add(item.stat().st_mode & 0o7777)
                except FileNotFoundError:
                    continue  # renamed between the two calls

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        write_atomically(path, f"{number}" * 1000)
    done.set()
    watcher.join()
    assert seen == {0o600}


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_atomically(path, "0 " * 20000 + "end")
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        seen: set[str] = set()
        until = time.monotonic() + 1.0
        while time.monotonic() < until or len(seen) < 5:
            words = path.read_text().split(" ")
            assert (len(words), words[-1]) == (20001, "end")
            assert len(set(words[:-1])) == 1
            seen.add(words[0])
        writer.kill()


def test_a_kill_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_atomically(path, "0 " * 20000 + "end")
    left_over = attempt = 0
    while attempt < 12 or (not left_over and attempt < 200):
        attempt += 1
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            told = int(writer.stdout.readline())
            time.sleep(0.003 * (attempt % 12))
            writer.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        words = path.read_text().split(" ")
        assert (len(words), words[-1], len(set(words[:-1]))) == (20001, "end", 1)
        assert int(words[0]) in (told, told + 1)
        beside = [item for item in tmp_path.iterdir() if item != path]
        assert all(mode_of(item) == 0o600 for item in beside)
        left_over += len(beside)
        remove_leftovers(path)
        assert [item.name for item in tmp_path.iterdir()] == ["keys.json"]
    assert left_over > 0  # or no kill came in the middle, and this has shown nothing


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    others = ["keys.json", ".keys.json", ".keys.json.abc", ".other.json.0123abcd", "keysxjson"]
    for name in [*others, ".keys.json.0123abcd", ".keysxjson.0123abcd"]:
        (tmp_path / name).touch()
    remove_leftovers(path)
    assert {item.name for item in tmp_path.iterdir()} == {*others, ".keysxjson.0123abcd"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["keys.json"]


def test_a_target_is_a_regular_file_or_none_in_a_folder_of_our_own(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    check_private_target(path)
    path.write_text("old")
    path.chmod(0o644)
    check_private_target(path)  # it is replaced, with its mode
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    for refused in ("link", "folder"):
        with pytest.raises(LocalError, match="regular file"):
            check_private_target(tmp_path / refused)
    with pytest.raises(LocalError, match="No such file"):
        check_private_target(tmp_path / "nowhere" / "keys.json")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(LocalError, match="no other user can change"):
        check_private_target(folder / "keys.json")
    folder.chmod(mode | 0o1000)  # as /tmp: others can write there, but not rename what is ours
    check_private_target(folder / "keys.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("old")
    os.chown(path, 65534, 65534)
    with pytest.raises(LocalError, match="the user of this process"):
        check_private_target(path)
    with pytest.raises(LocalError, match="only we can write"):
        read_private(path)
    path.unlink()
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(LocalError, match="no other user can change"):
        check_private_target(path)


def test_what_only_we_could_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    assert read_private(path) is None
    path.write_bytes(b"content")
    for mode in (0o600, 0o400, 0o644):
        path.chmod(mode)
        assert read_private(path) == Secret(b"content")
    for mode in (0o622, 0o660, 0o606):
        path.chmod(mode)
        with pytest.raises(LocalError, match="only we can write"):
            read_private(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(LocalError, match="symbolic links"):
        read_private(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(LocalError, match="only we can write"):
        read_private(tmp_path / "pipe")
