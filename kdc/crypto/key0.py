"""The keys of one exchange from KEY0 (PROTOCOL 5.1), and the keys beneath an association (7.4)."""

from __future__ import annotations

import hmac
from typing import Final

from kdc.model import CONFIRMATION_KEY_OCTETS, ExchangeKeys, Secret

KEY0_OCTETS: Final = 32
_HASH_OCTETS: Final = 32
_KEY0_LABEL: Final = b"roamkey key0 v1"
_CONFIRM_LABEL: Final = b"roamkey confirm v1"
_DIRECTION_LABEL: Final = b"roamkey dir v1"
_FINGERPRINT_LABEL: Final = b"roamkey fingerprint v1"


def hkdf_extract(salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 §2.2): 32 octets."""
    return hmac.digest(salt, key_material, "sha256")


def hkdf_expand(key: bytes, info: bytes, length_octets: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 §2.3), at most 8,160 octets.

    Written out over `hmac.digest` because it is six times faster for one or two blocks than an
    HKDF object; a test holds it to that object's octets.
    """
    block, octets = b"", b""
    counter = 1
    while len(octets) < length_octets:
        block = hmac.digest(key, block + info + bytes((counter,)), "sha256")
        octets += block
        counter += 1
    return octets[:length_octets]


def derive_exchange_keys(key0: Secret, spi: int) -> ExchangeKeys:
    """K(use, SPI) for uses 1-4 (PROTOCOL 5.1)."""
    prk = key0.reveal()
    tail = spi.to_bytes(4, "big")
    return ExchangeKeys(
        seal_request=Secret(hkdf_expand(prk, _KEY0_LABEL + b"\x01" + tail, 64)),
        seal_reply=Secret(hkdf_expand(prk, _KEY0_LABEL + b"\x02" + tail, 64)),
        authenticate_request=Secret(hkdf_expand(prk, _KEY0_LABEL + b"\x03" + tail, 32)),
        authenticate_reply=Secret(hkdf_expand(prk, _KEY0_LABEL + b"\x04" + tail, 32)),
    )


def derive_mfae_key(mn_fa_keys: Secret) -> Secret:
    """The MFAE's key from the keys of pair 2, whose last 32 octets confirm (7.4)."""
    confirmation_key = mn_fa_keys.reveal()[-CONFIRMATION_KEY_OCTETS:]
    return Secret(hkdf_expand(confirmation_key, _CONFIRM_LABEL, 32))


def derive_direction_key(suite_key: Secret, *, from_responder: bool) -> Secret:
    """The traffic key of one direction of a Protocol-ID 2 or 3 suite (7.4)."""
    info = _DIRECTION_LABEL + bytes((from_responder,))
    return Secret(hkdf_expand(suite_key.reveal(), info, len(suite_key)))


def fingerprint_key(key: Secret) -> str:
    """16 hex digits that tell two keys apart and say nothing of either."""
    return authenticate(key, _FINGERPRINT_LABEL)[:8].hex()


def authenticate(key: Secret, octets: bytes) -> bytes:
    """HMAC-SHA-256 of MHAE and MFAE (PROTOCOL section 3)."""
    return hmac.digest(key.reveal(), octets, "sha256")


def is_authentic(key: Secret, octets: bytes, digest: bytes) -> bool:
    """Whether `digest` is that HMAC, in constant time."""
    return hmac.compare_digest(authenticate(key, octets), digest)
