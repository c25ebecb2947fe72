"""What a duplicate is answered with: the outcome of a request as octets for the store.

Sealing them at rest is kdc.store's affair.  Secrets are not written: they are derived anew from R
(DESIGN section 4), so one AEAD and one derivation rebuild a reply.  A shared secret of
Diffie-Hellman is not in it either: a reply never needs it again.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final

from kdc.crypto.key0 import hkdf_expand
from kdc.errors import LocalError, Malformed
from kdc.model import Mode, Pair, Secret, Suite, key_octets
from kdc.records import Carrier, Denied, Issued, IssuedAssociation, WrappingKey
from kdc.wire.association import MIXED, SEED_OCTETS
from kdc.wire.cursor import Reader

_FORMAT: Final = 1
_GRANTED: Final = 0
_SECRET_LABEL: Final = b"roamkey secret v1"
_KEYS_KIND: Final = b"\x00"
_W_OCTETS: Final = 64
_WRAPPED_OCTETS: Final = 116
_DENIED: Final = struct.Struct(">BB?IB")
_DENIED_TAIL: Final = struct.Struct(">?IB")
_NO_PAIR: Final = 0
_ASSOCIATION: Final = struct.Struct(">BBBBBII8s")


def derive_secret(seed: Secret, pair: Pair, spi: int, length_octets: int) -> Secret:
    """The Secret of one SA from R: HKDF-Expand(R, label | pair | SPI | kind)."""
    info = _SECRET_LABEL + bytes((pair,)) + spi.to_bytes(4, "big") + _KEYS_KIND
    return Secret(hkdf_expand(seed.reveal(), info, length_octets))


def secret_octets(pair: Pair, mode: Mode, derivation: int, suites: tuple[Suite, ...]) -> int:
    """How long the Secret of an SA is that the KDC makes (PROTOCOL 4.2)."""
    if mode is Mode.STATELESS and pair is Pair.MN_HA:
        return 0
    if mode is Mode.STATEFUL and derivation != MIXED:
        return key_octets(pair, suites)
    return SEED_OCTETS


def encode_outcome(outcome: Issued | Denied) -> Secret:
    """Octets that `decode_outcome` turns into an equal value."""
    if isinstance(outcome, Denied):
        pair = _NO_PAIR if outcome.pair is None else outcome.pair
        head = _DENIED.pack(_FORMAT, outcome.code, outcome.challenge, outcome.at, pair)
        return Secret(head + _short(outcome.state) + outcome.counter_proposal)
    wrapping = outcome.wrapping_key
    if outcome.seed is None:
        raise LocalError("an outcome is kept by the KDC alone")
    return Secret(
        bytes((_FORMAT, _GRANTED))
        + outcome.alias
        + outcome.class_id
        + outcome.lifetime_s.to_bytes(2, "big")
        + outcome.home_address.packed
        + outcome.seed.reveal()
        + bytes((wrapping is not None,))
        + (wrapping.w.reveal() + wrapping.wrapped if wrapping else b"")
        + bytes((len(outcome.associations),))
        + b"".join(map(_encode_association, outcome.associations))
    )


def decode_outcome(sealed: Secret) -> Issued | Denied:
    """Raises `Malformed` for octets that `encode_outcome` did not make, or not this release's."""
    reader = Reader(sealed.reveal())
    if reader.u8() != _FORMAT:
        raise Malformed("an outcome of another format")
    code = reader.u8()
    if code != _GRANTED:
        challenge, at, number = _DENIED_TAIL.unpack(reader.octets(_DENIED_TAIL.size))
        state = reader.octets(reader.u8())
        pair = None if number == _NO_PAIR else _read_pair(number)
        return Denied(code, challenge, at, reader.rest(), state, pair)
    alias, class_id, lifetime_s = reader.octets(8), reader.octets(8), reader.u16()
    home_address, seed = IPv4Address(reader.octets(4)), Secret(reader.octets(SEED_OCTETS))
    wrapping = None
    if reader.u8():
        w = Secret(reader.octets(_W_OCTETS))
        wrapping = WrappingKey(w, reader.octets(_WRAPPED_OCTETS))
    associations = tuple(_read_association(reader, seed) for _ in range(reader.u8()))
    reader.finish()
    return Issued(alias, class_id, lifetime_s, home_address, associations, wrapping, seed)


def _short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def _read_pair(number: int) -> Pair:
    try:
        return Pair(number)
    except ValueError:
        raise Malformed("a pair of another release") from None


def _encode_association(item: IssuedAssociation) -> bytes:
    head = _ASSOCIATION.pack(
        item.pair,
        item.mode,
        item.derivation,
        item.carrier,
        len(item.suites),
        item.spi,
        item.lifetime_s,
        item.key_name,
    )
    suites = b"".join(bytes((suite.protocol_id, suite.transform_id)) for suite in item.suites)
    return head + suites + len(item.answered).to_bytes(2, "big") + item.answered


def _read_association(reader: Reader, seed: Secret) -> IssuedAssociation:
    pair, mode, derivation, carrier, count, spi, lifetime_s, key_name = _ASSOCIATION.unpack(
        reader.octets(_ASSOCIATION.size)
    )
    suites = tuple(Suite(reader.u8(), reader.u8()) for _ in range(count))
    answered = reader.octets(reader.u16())
    try:
        length_octets = secret_octets(Pair(pair), Mode(mode), derivation, suites)
        return IssuedAssociation(
            pair=Pair(pair),
            spi=spi,
            key_name=key_name,
            lifetime_s=lifetime_s,
            mode=Mode(mode),
            derivation=derivation,
            suites=suites,
            secret=derive_secret(seed, Pair(pair), spi, length_octets),
            answered=answered,
            carrier=Carrier(carrier),
        )
    except (ValueError, KeyError):  # a pair, mode, carrier or suite that this release has not
        raise Malformed("an association of another release") from None
