"""Small files that must never be half written and never be readable by others."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from kdc.errors import LocalError
from kdc.model import Secret

LARGEST_PRIVATE_FILE_OCTETS: Final = 2**28
_SUFFIX_OCTETS: Final = 4


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Writes beside the file, syncs, and renames: a reader sees the old one or the new one.

    No octet is ever in a file that has a looser mode than `mode`, whatever the umask and the old
    file's mode.  Raises `OSError`; the old file is then as it was.
    """
    octets = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_SUFFIX_OCTETS)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def check_private_target(path: Path) -> None:
    """Whether secrets may be written to `path`; raises `LocalError` with what was expected.

    A file that is there is a regular one of the user of this process (its mode does not matter,
    it will be replaced), in a folder where no one but root and that user can rename it away.
    """
    ours = (0, os.geteuid())
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise LocalError(f"{path.parent}: expected a folder: {error.strerror}") from None
    open_to_others = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(folder.st_mode) or open_to_others or folder.st_uid not in ours:
        raise LocalError(f"{path.parent}: expected a folder that no other user can change")
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise LocalError(f"{path}: expected a regular file or none")
        if status.st_uid != os.geteuid():
            raise LocalError(f"{path}: expected a file of the user of this process")


def read_private(path: Path) -> Secret | None:
    """The content of a file that only its owner, us, could have written; None if there is none.

    Raises `LocalError` for any other file, and where it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalError(f"{path}: expected a file that we can read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if not ours or status.st_mode & 0o022 or status.st_size > LARGEST_PRIVATE_FILE_OCTETS:
            raise LocalError(f"{path}: expected a file that only we can write")
        return Secret(file.read())


def remove_leftovers(path: Path) -> None:
    """Removes what a process that was killed inside `write_atomically` left beside the file."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _SUFFIX_OCTETS}}}")
    for beside in path.parent.iterdir():
        if name.fullmatch(beside.name):
            beside.unlink(missing_ok=True)
