"""Wrapping W for a foreign agent by HPKE (PROTOCOL section 8, RFC 9180 base mode).

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.  Written out because a reply must be
rebuilt octet for octet (PROTOCOL 5.5), so the ephemeral key comes in as an argument; a test holds
it to the library's own HPKE and to the vectors.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kdc.crypto.key0 import hkdf_expand
from kdc.errors import ReplyRefused
from kdc.model import Nai, Secret

W_OCTETS: Final = 64
_ENC_OCTETS: Final = 32
_CT_OCTETS: Final = W_OCTETS + 16
WRAPPED_OCTETS: Final = 4 + _ENC_OCTETS + _CT_OCTETS  # attribute 4
_INFO_LABEL: Final = b"roamkey fa-wrap v1"
_KEM_SUITE: Final = b"KEM" + (0x0020).to_bytes(2, "big")  # RFC 9180 §4.1
_HPKE_SUITE: Final = b"HPKE" + bytes.fromhex("002000010002")  # RFC 9180 §5.1: KEM, KDF, AEAD
_VERSION: Final = b"HPKE-v1"


@dataclass(frozen=True, slots=True)
class X25519Key:
    """A private key and its public value."""

    private_key: Secret
    public_key: bytes

    @classmethod
    def of(cls, private_octets: Secret) -> X25519Key:
        key = X25519PrivateKey.from_private_bytes(private_octets.reveal())
        return cls(private_octets, key.public_key().public_bytes_raw())


def fingerprint(attribute_3: bytes) -> bytes:
    """FK: the first 16 octets of SHA-256(attribute 3)."""
    return hashlib.sha256(attribute_3).digest()[:16]


def wrap(w: Secret, *, ephemeral: Secret, public_key: bytes, spi: int, fa_nai: Nai) -> bytes:
    """Attribute 4: SPI(4) | enc(32) | ct(80), 116 octets."""
    own = X25519Key.of(ephemeral)
    shared = _kem_secret(ephemeral, public_key, own.public_key, public_key)
    key, nonce = _schedule(shared, _info(spi, fa_nai))
    ciphertext = AESGCM(key).encrypt(nonce, w.reveal(), None)
    return spi.to_bytes(4, "big") + own.public_key + ciphertext


def unwrap(attribute_4: bytes, *, key: X25519Key, spi: int, fa_nai: Nai) -> Secret:
    """W; raises `ReplyRefused` for anything not wrapped for this key, SPI and NAI."""
    if len(attribute_4) != WRAPPED_OCTETS:
        raise ReplyRefused("wrapped key length")
    if int.from_bytes(attribute_4[:4], "big") != spi:
        raise ReplyRefused("wrapped for another key")
    enc, ciphertext = attribute_4[4 : 4 + _ENC_OCTETS], attribute_4[4 + _ENC_OCTETS :]
    try:
        shared = _kem_secret(key.private_key, enc, enc, key.public_key)
        aead_key, nonce = _schedule(shared, _info(spi, fa_nai))
        return Secret(AESGCM(aead_key).decrypt(nonce, ciphertext, None))
    except (InvalidTag, ValueError):  # ValueError: an all-zero X25519 output
        raise ReplyRefused("wrapping key does not open") from None


def _info(spi: int, fa_nai: Nai) -> bytes:
    return _INFO_LABEL + spi.to_bytes(4, "big") + bytes((len(fa_nai.octets),)) + fa_nai.octets


def _kem_secret(private_key: Secret, peer: bytes, enc: bytes, recipient: bytes) -> bytes:
    """The shared secret of Encap or Decap (RFC 9180 §4.1)."""
    dh = X25519PrivateKey.from_private_bytes(private_key.reveal()).exchange(
        X25519PublicKey.from_public_bytes(peer)
    )
    eae_prk = _extract(_KEM_SUITE, b"", b"eae_prk", dh)
    return _expand(_KEM_SUITE, eae_prk, b"shared_secret", enc + recipient, 32)


def _schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and base nonce in base mode (RFC 9180 §5.1)."""
    context = (
        b"\x00"
        + _extract(_HPKE_SUITE, b"", b"psk_id_hash", b"")
        + _extract(_HPKE_SUITE, b"", b"info_hash", info)
    )
    secret = _extract(_HPKE_SUITE, shared, b"secret", b"")
    return (
        _expand(_HPKE_SUITE, secret, b"key", context, 32),
        _expand(_HPKE_SUITE, secret, b"base_nonce", context, 12),
    )


def _extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt, _VERSION + suite + label + key, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length_octets: int) -> bytes:
    labeled = length_octets.to_bytes(2, "big") + _VERSION + suite + label + info
    return hkdf_expand(prk, labeled, length_octets)
