"""Sealing with AES-SIV and length buckets (PROTOCOL 5.2, RFC 5297).

Which key seals what, and where sealed octets stand, is not known here.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from kdc.errors import LocalError, SealBroken
from kdc.model import Secret

BUCKETS: Final = (32, 64, 96, 128, 192, 256, 512, 1024, 2048)
TAG_OCTETS: Final = 16
_LENGTH_OCTETS: Final = 2
_BUCKET_OF: Final = tuple(
    next(bucket for bucket in BUCKETS if bucket >= needed) for needed in range(BUCKETS[-1] + 1)
)


def bucket_of(data_octets: int, smallest: int = BUCKETS[0]) -> int:
    """The bucket that holds len(2) and the data; raises `LocalError` where none does."""
    needed = max(data_octets + _LENGTH_OCTETS, smallest)
    if needed > BUCKETS[-1]:
        raise LocalError("too long to seal")
    return _BUCKET_OF[needed]


def pad(data: bytes, smallest: int = BUCKETS[0]) -> bytes:
    """len(2) | data | zeros to the bucket."""
    bucket = bucket_of(len(data), smallest)
    return (len(data).to_bytes(_LENGTH_OCTETS, "big") + data).ljust(bucket, b"\0")


def unpad(padded: bytes, smallest: int = BUCKETS[0]) -> bytes:
    """The data; raises `SealBroken` unless bucket and zeros are the only right ones."""
    length = int.from_bytes(padded[:_LENGTH_OCTETS], "big")
    end = _LENGTH_OCTETS + length
    if end > len(padded) or bucket_of(length, smallest) != len(padded) or any(padded[end:]):
        raise SealBroken("padding")
    return padded[_LENGTH_OCTETS:end]


class Seal:
    """One 64-octet key, ready to seal and open; it keeps the cipher, which is costly to make."""

    __slots__ = ("_cipher",)

    def __init__(self, key: Secret) -> None:
        self._cipher = AESSIV(key.reveal())

    def seal(self, data: bytes, associated: list[bytes], smallest: int = BUCKETS[0]) -> bytes:
        """Synthetic IV and ciphertext: 16 octets more than the bucket."""
        return self._cipher.encrypt(pad(data, smallest), associated)

    def open(self, sealed: bytes, associated: list[bytes], smallest: int = BUCKETS[0]) -> bytes:
        """The data; raises `SealBroken` for anything that this key did not seal so."""
        try:
            padded = self._cipher.decrypt(sealed, associated)
        except (InvalidTag, ValueError):
            raise SealBroken("seal does not open") from None
        return unpad(padded, smallest)
