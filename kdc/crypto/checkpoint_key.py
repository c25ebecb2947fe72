"""Ed25519 keys that sign the audit's checkpoints (RFC 8032); what is signed is kdc.audit's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kdc.errors import LocalError
from kdc.model import Secret

KEY_OCTETS: Final = 32
SIGNATURE_OCTETS: Final = 64
Entropy = Callable[[int], bytes]


class SignatureBroken(LocalError):
    """A checkpoint was not signed with this key, or is not the one that was signed."""


def create_checkpoint_key(entropy: Entropy) -> Secret:
    """The 32 octets of a private key."""
    return Secret(entropy(KEY_OCTETS))


def public_key_of(key: Secret) -> bytes:
    """The 32 octets that whoever verifies needs.  Raises `LocalError`."""
    return _load(key).public_key().public_bytes_raw()


def key_id_of(public_key: bytes) -> bytes:
    """8 octets that name a key."""
    return hashlib.sha256(public_key).digest()[:8]


def sign(octets: bytes, key: Secret) -> bytes:
    """64 octets, the same each time.  Raises `LocalError`."""
    return _load(key).sign(octets)


def verify_signature(octets: bytes, signature: bytes, public_key: bytes) -> bytes:
    """The octets, verified; raises `SignatureBroken`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, octets)
    except (InvalidSignature, ValueError):
        raise SignatureBroken("a checkpoint's signature does not verify") from None
    return octets


def _load(key: Secret) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(key.reveal())
    except ValueError:
        raise LocalError("expected an Ed25519 private key of 32 octets") from None
