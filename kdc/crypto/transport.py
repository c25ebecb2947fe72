"""KEY0s on their way between systems: AES key wrap with padding (RFC 5649)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from kdc.errors import LocalError
from kdc.model import Secret

TRANSPORT_KEY_OCTETS: Final = 32
WRAPPED_KEY0_OCTETS: Final = 40  # RFC 5649 §4.1: eight octets more than the key


class TransportBroken(LocalError):
    """A wrapped key does not open: another transport key's, or damaged."""


def wrap_key(key: Secret, transport_key: Secret) -> bytes:
    """RFC 5649 §4.1.  It binds no name: whoever can exchange two of them exchanges two owners."""
    return aes_key_wrap_with_padding(transport_key.reveal(), key.reveal())


def unwrap_key(wrapped: bytes, transport_key: Secret) -> Secret:
    """RFC 5649 §4.2; raises `TransportBroken`."""
    try:
        return Secret(aes_key_unwrap_with_padding(transport_key.reveal(), wrapped))
    except (InvalidUnwrap, ValueError):
        raise TransportBroken("the wrapped key does not open under this transport key") from None
