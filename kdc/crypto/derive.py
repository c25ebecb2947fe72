"""The keys of an association from a seed or a shared secret: derivations 0 to 3 of PROTOCOL 7.

Which derivation serves and what policy allows is kdc.negotiation's affair; where Z comes from is
kdc.crypto.dh's.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from kdc.crypto.key0 import hkdf_expand, hkdf_extract
from kdc.errors import LocalError, NotAcceptable
from kdc.model import MAXIMUM_NAI_OCTETS, Pair, Secret

SEED_OCTETS: Final = 32
_SEMISTATEFUL_LABEL: Final = b"roamkey semi v1"
_DH_LABEL: Final = b"roamkey dh v1"
_ADDRESS_OCTETS: Final = (4, 16)
_KEY_NAME_OCTETS: Final = 8
_IDENTIFICATION_OCTETS: Final = 8


@dataclass(frozen=True, slots=True)
class Party:
    """Initiator or responder, octet for octet as in the reply (PROTOCOL 7.2).

    `nai` is not folded, `address` is packed: 4 or 16 octets.  Raises `LocalError` otherwise.
    """

    nai: bytes
    address: bytes

    def __post_init__(self) -> None:
        if not 1 <= len(self.nai) <= MAXIMUM_NAI_OCTETS:
            raise LocalError("NAI length")
        if len(self.address) not in _ADDRESS_OCTETS:
            raise LocalError("an address is packed")


def derive_formula_5(
    seed: Secret, *, responder: Party, initiator: Party, length_octets: int
) -> Secret:
    """Derivation 1: the founding description's formula (5) (PROTOCOL 7.2).

    Nothing parts one field of S from the next, so two different pairs of parties can have one S;
    derivation 2 has no such pairs.  Raises `NotAcceptable` for a NAI without an @.
    """
    if b"@" not in responder.nai or b"@" not in initiator.nai:
        raise NotAcceptable("formula (5) asks for NAIs with a realm")
    s = responder.nai + initiator.nai + responder.address + initiator.address
    key = seed.reveal()
    block = hmac.digest(key, s, "sha256")  # T1, the only one without a counter
    octets = block
    counter = 2
    while len(octets) < length_octets:
        block = hmac.digest(key, block + s + bytes((counter,)), "sha256")
        octets += block
        counter += 1
    return Secret(octets[:length_octets])


def derive_sp800_108(  # noqa: PLR0913 - what the page lists
    seed: Secret,
    *,
    pair: Pair,
    spi: int,
    key_name: bytes,
    responder: Party,
    initiator: Party,
    length_octets: int,
) -> Secret:
    """Derivation 2: SP 800-108 counter mode with HMAC-SHA-256, r = 32 bits (PROTOCOL 7.2)."""
    context = (
        _association(pair, spi, key_name)
        + _prefixed(responder.nai, initiator.nai)
        + _prefixed(responder.address, initiator.address)
    )
    fixed = _SEMISTATEFUL_LABEL + b"\0" + context + (8 * length_octets).to_bytes(4, "big")
    key, octets = seed.reveal(), b""
    counter = 1
    while len(octets) < length_octets:
        octets += hmac.digest(key, counter.to_bytes(4, "big") + fixed, "sha256")
        counter += 1
    return Secret(octets[:length_octets])


def derive_raw(z: Secret, length_octets: int) -> Secret:
    """Derivation 0 of mode 1: the first octets of Z, the founding description's formula (2).

    Raises `NotAcceptable` if Z is shorter than the keys (PROTOCOL 7.3).
    """
    if len(z) < length_octets:
        raise NotAcceptable("the shared secret is shorter than the keys")
    return Secret(z.reveal()[:length_octets])


def derive_mixed(  # noqa: PLR0913 - what the page lists
    z: Secret,
    secret: Secret,
    *,
    identification: bytes,
    pair: Pair,
    spi: int,
    key_name: bytes,
    initiator_nai: bytes,
    responder_nai: bytes,
    offered: bytes,
    answered: bytes,
    length_octets: int,
) -> Secret:
    """Derivation 3: HKDF-SHA-256 over Z | Secret (PROTOCOL 7.3).

    `identification` is that of the message (8 octets), `secret` the SA-INFO's (empty for pair 1 in
    mode 1), `offered` and `answered` the two SA payloads as sent.
    """
    if len(identification) != _IDENTIFICATION_OCTETS:
        raise LocalError("identification length")
    info = (
        _DH_LABEL
        + _association(pair, spi, key_name)
        + _prefixed(initiator_nai, responder_nai)
        + hashlib.sha256(offered + answered).digest()
    )
    prk = hkdf_extract(identification, z.reveal() + secret.reveal())
    return Secret(hkdf_expand(prk, info, length_octets))


def _association(pair: Pair, spi: int, key_name: bytes) -> bytes:
    """pair(1) | SPI(4) | Key-Name(8)."""
    if len(key_name) != _KEY_NAME_OCTETS:
        raise LocalError("key name length")
    return bytes((pair,)) + spi.to_bytes(4, "big") + key_name


def _prefixed(first: bytes, second: bytes) -> bytes:
    """Each behind its length(1), so that no octet can pass from one to the other."""
    return bytes((len(first),)) + first + bytes((len(second),)) + second
