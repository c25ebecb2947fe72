"""A file that is written ahead of a commit and cut back to what was committed.

What a transaction commits is on the disk before it, and its length is committed with it: after a
kill the file is cut to that length, so that it has neither less nor more than the database.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from kdc.errors import LocalError


class ResumableFile:
    """Ours alone, mode 0600, appended to; no other process writes to it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open(path)

    @staticmethod
    def _open(path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise LocalError(f"{path}: expected a file to write: {error.strerror}") from None
        try:
            _check(descriptor, path)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _keep_name(path.parent)
        except BlockingIOError:
            os.close(descriptor)
            raise LocalError(f"{path}: another process writes to it") from None
        except LocalError:
            os.close(descriptor)
            raise
        return descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def octets(self) -> int:
        return os.fstat(self._descriptor).st_size

    def cut(self, octets: int) -> None:
        """Raises `LocalError` where there is less than that: then it is another file."""
        if self.octets < octets:
            raise LocalError(
                f"{self.path}: expected the file that this import has written {octets} octets to;"
                " --restart goes through all lines again and needs it no more"
            )
        os.ftruncate(self._descriptor, octets)
        os.lseek(self._descriptor, octets, os.SEEK_SET)

    def append(self, content: bytes) -> int:
        """On the disk when it returns; the length afterwards."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)
        return self.octets


def _check(descriptor: int, path: Path) -> None:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077:
        raise LocalError(f"{path}: expected a file that only its owner can read: chmod 600")
    if state.st_uid != os.geteuid():
        raise LocalError(f"{path}: expected a file of the user who runs this")


def _keep_name(folder: Path) -> None:
    """The name of a new file is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
