"""Keys at rest: a root wraps key-encryption keys, those wrap data keys, data keys seal rows.

Where the root comes from, and where wrapped keys and rows live, is kdc.store's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kdc.crypto.key0 import hkdf_expand
from kdc.errors import LocalError
from kdc.model import Secret

KEK_OCTETS: Final = 32
DATA_KEY_OCTETS: Final = 32
_NONCE_OCTETS: Final = 12
_NAME_LABEL: Final = b"roamkey root name v1"
_ROOT_LABEL: Final = b"roamkey root cipher v1"
_KEK_LABEL: Final = b"roamkey wrapped kek v1"
_CHECK_LABEL: Final = b"roamkey kek check v1"
_CIPHER_LABEL: Final = b"roamkey kek wrap v1"
_WRAP_LABEL: Final = b"roamkey data key v1"
_ROW_LABEL: Final = b"roamkey row v1"
ALGORITHM: Final = 1  # AES-256-GCM, random nonce in front

Entropy = Callable[[int], bytes]


class KeyUnusable(LocalError):
    """A wrapped data key does not open under this key-encryption key."""


class RowSealBroken(LocalError):
    """A sealed column does not open: another row's, another key's, or damaged."""


def kek_check_value(kek: Secret) -> bytes:
    """16 octets that tell whether it is the same key-encryption key, and nothing else of it."""
    return hkdf_expand(kek.reveal(), _CHECK_LABEL, 16)


def root_name(root: Secret) -> str:
    """Tells one root key from another, and nothing else of it."""
    return hkdf_expand(root.reveal(), _NAME_LABEL, 8).hex()


def kek_binding(version: int) -> bytes:
    """What a wrapped key-encryption key is bound to, whichever root wraps it."""
    return _join(_KEK_LABEL, str(version).encode())


def wrap_kek(kek: Secret, root: Secret, *, version: int, entropy: Entropy) -> bytes:
    """Nonce and ciphertext, bound to the version."""
    nonce = entropy(_NONCE_OCTETS)
    return nonce + _root_cipher(root).encrypt(nonce, kek.reveal(), kek_binding(version))


def unwrap_kek(wrapped: bytes, root: Secret, *, version: int) -> Secret:
    """Raises `KeyUnusable`."""
    nonce, ciphertext = wrapped[:_NONCE_OCTETS], wrapped[_NONCE_OCTETS:]
    try:
        return Secret(_root_cipher(root).decrypt(nonce, ciphertext, kek_binding(version)))
    except (InvalidTag, ValueError):
        raise KeyUnusable("a key-encryption key does not open under this root") from None


def _root_cipher(root: Secret) -> AESGCM:
    return AESGCM(hkdf_expand(root.reveal(), _ROOT_LABEL, KEK_OCTETS))


def _cipher(kek: Secret) -> AESGCM:
    """One key for each use: what wraps is not what the check value is made with."""
    return AESGCM(hkdf_expand(kek.reveal(), _CIPHER_LABEL, KEK_OCTETS))


def wrap_data_key(key: Secret, kek: Secret, *, purpose: str, epoch: int, entropy: Entropy) -> bytes:
    """Nonce and ciphertext, bound to the key's purpose and epoch."""
    nonce = entropy(_NONCE_OCTETS)
    associated = _join(_WRAP_LABEL, purpose.encode(), str(epoch).encode())
    return nonce + _cipher(kek).encrypt(nonce, key.reveal(), associated)


def unwrap_data_key(wrapped: bytes, kek: Secret, *, purpose: str, epoch: int) -> Secret:
    """Raises `KeyUnusable`."""
    associated = _join(_WRAP_LABEL, purpose.encode(), str(epoch).encode())
    nonce, ciphertext = wrapped[:_NONCE_OCTETS], wrapped[_NONCE_OCTETS:]
    try:
        return Secret(_cipher(kek).decrypt(nonce, ciphertext, associated))
    except (InvalidTag, ValueError):
        raise KeyUnusable("a data key does not open under this key-encryption key") from None


class RowSeal:
    """One data key ready for use; the row that a value belongs to is part of the seal."""

    __slots__ = ("_cipher", "key_id")

    def __init__(self, key_id: int, key: Secret) -> None:
        self.key_id = key_id
        self._cipher = AESGCM(key.reveal())

    def seal(self, value: Secret, *, column: str, row: int, owner: int, entropy: Entropy) -> bytes:
        """`column` is "table.column", `row` the primary key, `owner` the record that it is of."""
        nonce = entropy(_NONCE_OCTETS)
        associated = self._associated(column, row, owner)
        return nonce + self._cipher.encrypt(nonce, value.reveal(), associated)

    def open(self, sealed: bytes, *, column: str, row: int, owner: int) -> Secret:
        """Raises `RowSealBroken`."""
        nonce, ciphertext = sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:]
        try:
            return Secret(
                self._cipher.decrypt(nonce, ciphertext, self._associated(column, row, owner))
            )
        except (InvalidTag, ValueError):
            raise RowSealBroken("a sealed column does not open") from None

    def _associated(self, column: str, row: int, owner: int) -> bytes:
        return b"%b|%b|%d|%d|%d|%d" % (
            _ROW_LABEL,
            column.encode(),
            row,
            owner,
            ALGORITHM,
            self.key_id,
        )


def _join(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
