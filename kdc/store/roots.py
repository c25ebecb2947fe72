"""Roots: what wraps the versions of the key-encryption key, a file or a key in a token.

A secret that an orchestrator mounts is a file too.  A root is asked at the start, at a reload and
by `kdc kek`, never for a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdc.config import DatabaseSettings, read_secret_file
from kdc.crypto.kek import (
    KEK_OCTETS,
    KeyUnusable,
    kek_check_value,
    root_name,
    unwrap_kek,
    wrap_kek,
)
from kdc.model import Secret
from kdc.store.errors import CannotStart, RootUnavailable, WrongKek

Entropy = Callable[[int], bytes]


def read_kek(path: Path) -> Secret:
    """The root key in a file of 64 hex digits; raises `CannotStart`."""
    try:
        text = read_secret_file(path, minimum_octets=2 * KEK_OCTETS).reveal()
        octets = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        reason = str(error) if "expected" in str(error) else "expected 64 hex digits"
        raise CannotStart(f"{path}: {reason}; `kdc kek create` makes such a file") from None
    if len(octets) != KEK_OCTETS:
        raise CannotStart(f"{path}: expected 64 hex digits")
    return Secret(octets)


class Root(Protocol):
    """One key that wraps key-encryption keys; wherever it is, it stays there."""

    @property
    def name(self) -> str:
        """What the database remembers it by."""
        ...

    def wrap(self, kek: Secret, version: int, entropy: Entropy) -> bytes:
        """Raises `RootUnavailable`."""
        ...

    def unwrap(self, wrapped: bytes, version: int) -> Secret:
        """Raises `KeyUnusable`, `RootUnavailable`."""
        ...


class FileRoot:
    """The key of a secret file."""

    def __init__(self, key: Secret) -> None:
        self.key = key
        self.name = f"file:{root_name(key)}"

    def wrap(self, kek: Secret, version: int, entropy: Entropy) -> bytes:
        return wrap_kek(kek, self.key, version=version, entropy=entropy)

    def unwrap(self, wrapped: bytes, version: int) -> Secret:
        return unwrap_kek(wrapped, self.key, version=version)


@dataclass(frozen=True, slots=True)
class StoredKek:
    """A row of key_encryption_keys."""

    version: int
    state: str
    root: str | None
    wrapped: bytes | None = field(repr=False)
    check_value: bytes = field(repr=False)


class Roots:
    """All that are configured: the first wraps what is new, the others open what is theirs."""

    def __init__(self, first: Root, *others: Root) -> None:
        self._all: tuple[Root, ...] = (first, *others)

    @property
    def current(self) -> Root:
        return self._all[0]

    def open(self, row: StoredKek) -> Secret:
        """The key of `row`, compared with its check value.

        Raises `WrongKek` where no configured root opens it, `RootUnavailable` where one might.
        """
        for key in self._candidates(row):
            if Secret(kek_check_value(key)) == Secret(row.check_value):
                return key
        raise WrongKek(
            f"key-encryption key {row.version} does not open: it is not the one that this database"
            f" was made with; restore the right root ({row.root or 'file'}) and name it in"
            " [database] as kek_file, former_kek_file or pkcs11"
        )

    def _candidates(self, row: StoredKek) -> Sequence[Secret]:
        if row.wrapped is None:  # made before versions were wrapped: the file's key itself
            return [root.key for root in self._all if isinstance(root, FileRoot)]
        found: list[Secret] = []
        unavailable: RootUnavailable | None = None
        for root in self._all:
            if root.name != row.root:
                continue
            try:
                found.append(root.unwrap(row.wrapped, row.version))
            except RootUnavailable as error:
                unavailable = error
            except KeyUnusable:
                continue
        if not found and unavailable is not None:
            raise unavailable
        return found


def roots_of(given: Secret | Roots) -> Roots:
    """A key by itself is that of a file."""
    return given if isinstance(given, Roots) else Roots(FileRoot(given))


def configured_roots(settings: DatabaseSettings) -> Roots:
    """The token before the file, the former file last.  Raises `CannotStart`."""
    found: list[Root] = []
    if settings.pkcs11 is not None:
        from kdc.store.pkcs11_root import Pkcs11Root

        found.append(Pkcs11Root(settings.pkcs11))
    found += [
        FileRoot(read_kek(path))
        for path in (settings.kek_file, settings.former_kek_file)
        if path is not None
    ]
    return Roots(*found)
