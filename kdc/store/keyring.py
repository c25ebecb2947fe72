"""The keys of one database, unwrapped once and kept for as long as they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from kdc.crypto.kek import DATA_KEY_OCTETS, KeyUnusable, RowSeal, unwrap_data_key, wrap_data_key
from kdc.model import Secret
from kdc.store.errors import SchemaMismatch
from kdc.store.roots import read_kek

Entropy = Callable[[int], bytes]
RECORD: Final = "record"
ASSOCIATION: Final = "association"
OUTCOME: Final = "outcome"
IDENTITY: Final = "identity"
CLIENT: Final = "client"
LASTING: Final = (RECORD, ASSOCIATION, IDENTITY, CLIENT)
OUTCOME_EPOCH_S: Final = 300  # an outcome can be read for at most two epochs, 5 to 10 minutes
FIRST_VERSION: Final = 1
PENDING: Final = "pending"
ACTIVE: Final = "active"
RETIRING: Final = "retiring"
PURGED: Final = "purged"
_WRAPS: Final = {ACTIVE: 1, RETIRING: 0}  # the better first; what is pending wraps nothing


@dataclass(frozen=True, slots=True)
class StoredDataKey:
    """A row of data_keys; of lasting ones the epoch counts how often they have been replaced."""

    key_id: int
    purpose: str
    epoch: int
    kek_version: int
    wrapped: bytes = field(repr=False)


class Keyring:
    """Key-encryption keys by version, row seals by id, and the current one of each purpose."""

    def __init__(self, kek: Secret | None = None) -> None:
        self._keks: dict[int, Secret] = {}
        self._states: dict[int, str] = {}
        self._seals: dict[int, RowSeal] = {}
        self._current: dict[str, tuple[int, RowSeal]] = {}  # with its epoch
        self._outcome_epochs: dict[int, int] = {}  # key id by epoch
        self.identity_key = Secret(b"")
        if kek is not None:
            self.add_kek(FIRST_VERSION, ACTIVE, kek)

    # --- key-encryption keys ---

    def add_kek(self, version: int, state: str, kek: Secret) -> None:
        """Takes an unwrapped key-encryption key in."""
        self._keks[version] = kek
        self._states[version] = state

    def has_kek(self, version: int) -> bool:
        return version in self._keks

    def learn_states(self, states: dict[int, str]) -> None:
        """What each version is now; what is purged is forgotten."""
        self._states = states
        for version in list(self._keks):
            if states.get(version, PURGED) == PURGED:
                del self._keks[version]

    @property
    def wrapping_version(self) -> int:
        """Which version wraps new data keys: the active one, or, where the root has not opened

        that yet, the newest one that is retiring, so that issuing goes on.
        Raises `SchemaMismatch`.
        """
        usable = [
            (_WRAPS[self._states[version]], version)
            for version in self._keks
            if self._states.get(version) in _WRAPS
        ]
        if not usable:
            raise SchemaMismatch("no key-encryption key is recorded: run `kdc db upgrade`")
        return max(usable)[1]

    def make(
        self, purpose: str, epoch: int, entropy: Entropy, *, version: int | None = None
    ) -> bytes:
        """A fresh data key, wrapped under `version`, to be stored."""
        kek = self._keks[self.wrapping_version if version is None else version]
        key = Secret(entropy(DATA_KEY_OCTETS))
        return wrap_data_key(key, kek, purpose=purpose, epoch=epoch, entropy=entropy)

    def rewrap(self, key: StoredDataKey, version: int, entropy: Entropy) -> bytes:
        """The same data key, wrapped under `version`; raises `KeyUnusable`."""
        opened = self._open(key)
        kek = self._keks[version]
        return wrap_data_key(opened, kek, purpose=key.purpose, epoch=key.epoch, entropy=entropy)

    def _open(self, key: StoredDataKey) -> Secret:
        kek = self._keks.get(key.kek_version)
        if kek is None:
            raise KeyUnusable(f"data key {key.key_id} is wrapped under a version that is not here")
        return unwrap_data_key(key.wrapped, kek, purpose=key.purpose, epoch=key.epoch)

    # --- data keys ---

    def add(self, key: StoredDataKey) -> None:
        """Takes a stored data key in; raises `KeyUnusable`."""
        opened = self._open(key)
        seal = RowSeal(key.key_id, opened)
        self._seals[key.key_id] = seal
        if key.purpose == IDENTITY:
            self.identity_key = opened
        if key.purpose == OUTCOME:
            self._outcome_epochs[key.epoch] = key.key_id
        elif key.purpose not in self._current or self._current[key.purpose][0] <= key.epoch:
            self._current[key.purpose] = (key.epoch, seal)

    def current(self, purpose: str) -> RowSeal:
        """Raises `SchemaMismatch` where an upgrade was printed and run, and its keys not made."""
        try:
            return self._current[purpose][1]
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

    def lasting_ids(self) -> set[int]:
        """Data keys that are here; outcome keys, which have an end of their own, left out."""
        return set(self._seals) - set(self._outcome_epochs.values())

    def forget(self, key_ids: Iterable[int]) -> None:
        """Erases data keys that the database no longer has."""
        for key_id in key_ids:
            self._seals.pop(key_id, None)


__all__ = ["Keyring", "StoredDataKey", "read_kek"]
