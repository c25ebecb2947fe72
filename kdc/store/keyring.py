"""The data keys of one database, unwrapped once and kept for as long as they are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from kdc.config import read_secret_file
from kdc.crypto.kek import (
    DATA_KEY_OCTETS,
    KEK_OCTETS,
    RowSeal,
    kek_check_value,
    unwrap_data_key,
    wrap_data_key,
)
from kdc.model import Secret
from kdc.store.errors import CannotStart, SchemaMismatch, WrongKek

Entropy = Callable[[int], bytes]
RECORD: Final = "record"
ASSOCIATION: Final = "association"
OUTCOME: Final = "outcome"
IDENTITY: Final = "identity"
CLIENT: Final = "client"
LASTING: Final = (RECORD, ASSOCIATION, IDENTITY, CLIENT)
OUTCOME_EPOCH_S: Final = 300  # an outcome can be read for at most two epochs, 5 to 10 minutes
KEK_VERSION: Final = 1


def read_kek(path: Path) -> Secret:
    """The key-encryption key in a file of 64 hex digits; raises `CannotStart`."""
    try:
        text = read_secret_file(path, minimum_octets=2 * KEK_OCTETS).reveal()
        octets = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        reason = str(error) if "expected" in str(error) else "expected 64 hex digits"
        raise CannotStart(f"{path}: {reason}; `kdc kek create` makes such a file") from None
    if len(octets) != KEK_OCTETS:
        raise CannotStart(f"{path}: expected 64 hex digits")
    return Secret(octets)


class Keyring:
    """Row seals by id, and the current one of each purpose."""

    def __init__(self, kek: Secret) -> None:
        self._kek = kek
        self._seals: dict[int, RowSeal] = {}
        self._current: dict[str, RowSeal] = {}
        self._outcome_epochs: dict[int, int] = {}  # key id by epoch
        self.identity_key = Secret(b"")

    def verify(self, check_value: bytes | None) -> None:
        """Raises `SchemaMismatch` where none is recorded, `WrongKek` for another one."""
        if check_value is None:
            raise SchemaMismatch("no key-encryption key is recorded: run `kdc db upgrade`")
        if Secret(check_value) != Secret(kek_check_value(self._kek)):
            raise WrongKek(
                "the key-encryption key is not the one that this database was made with:"
                " restore the right file and name it as database.kek_file"
            )

    def make(self, purpose: str, epoch: int, entropy: Entropy) -> bytes:
        """A fresh data key, wrapped, to be stored."""
        key = Secret(entropy(DATA_KEY_OCTETS))
        return wrap_data_key(key, self._kek, purpose=purpose, epoch=epoch, entropy=entropy)

    def add(self, key_id: int, purpose: str, epoch: int, wrapped: bytes) -> None:
        """Takes a stored data key in; raises `KeyUnusable`."""
        key = unwrap_data_key(wrapped, self._kek, purpose=purpose, epoch=epoch)
        seal = RowSeal(key_id, key)
        self._seals[key_id] = seal
        if purpose == IDENTITY:
            self.identity_key = key
        if purpose == OUTCOME:
            self._outcome_epochs[epoch] = key_id
        else:
            self._current[purpose] = seal

    def current(self, purpose: str) -> RowSeal:
        """Raises `SchemaMismatch` where an upgrade was printed and run, and its keys not made."""
        try:
            return self._current[purpose]
        except KeyError:
            raise SchemaMismatch(
                f"no data key for '{purpose}' is there: run `kdc db upgrade`, which makes it"
            ) from None

    def find(self, key_id: int) -> RowSeal | None:
        return self._seals.get(key_id)

    def find_outcome(self, epoch: int) -> RowSeal | None:
        key_id = self._outcome_epochs.get(epoch)
        return None if key_id is None else self._seals[key_id]

    def forget_outcomes_before(self, epoch: int) -> None:
        """Erases what would still open outcomes that nobody may read any more."""
        for old in [known for known in self._outcome_epochs if known < epoch]:
            self._seals.pop(self._outcome_epochs.pop(old), None)
