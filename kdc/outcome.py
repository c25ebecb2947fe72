"""What a duplicate is answered with: the outcome of a request as octets for the store.

Sealing them at rest is kdc.store's affair.  Secrets are not written: they are derived anew from R
(DESIGN section 4), so one AEAD and one derivation rebuild a reply.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from kdc.crypto.key0 import hkdf_expand
from kdc.errors import Malformed
from kdc.model import Mode, Pair, Secret, Suite, key_octets
from kdc.records import Denied, Issued, IssuedAssociation, WrappingKey
from kdc.wire.cursor import Reader

_GRANTED: Final = 0
_SECRET_LABEL: Final = b"roamkey secret v1"
_KEYS_KIND: Final = b"\x00"
SEED_OCTETS: Final = 32
_W_OCTETS: Final = 64
_WRAPPED_OCTETS: Final = 116


def derive_secret(seed: Secret, pair: Pair, spi: int, length_octets: int) -> Secret:
    """The Secret of one SA from R: HKDF-Expand(R, label | pair | SPI | kind)."""
    info = _SECRET_LABEL + bytes((pair,)) + spi.to_bytes(4, "big") + _KEYS_KIND
    return Secret(hkdf_expand(seed.reveal(), info, length_octets))


def encode_outcome(outcome: Issued | Denied) -> Secret:
    """Octets that `decode_outcome` turns into an equal value; the first one is the reply's code."""
    if isinstance(outcome, Denied):
        return Secret(
            bytes((outcome.code, len(outcome.state))) + outcome.state + (outcome.reply or b"")
        )
    wrapping = outcome.wrapping_key
    return Secret(
        bytes((_GRANTED,))
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
    """Raises `Malformed` for octets that `encode_outcome` did not make."""
    reader = Reader(sealed.reveal())
    code = reader.u8()
    if code != _GRANTED:
        state = reader.octets(reader.u8())
        return Denied(code, reader.rest() or None, state)
    alias, class_id, lifetime_s = reader.octets(8), reader.octets(8), reader.u16()
    home_address, seed = IPv4Address(reader.octets(4)), Secret(reader.octets(SEED_OCTETS))
    wrapping = None
    if reader.u8():
        w = Secret(reader.octets(_W_OCTETS))
        wrapping = WrappingKey(w, reader.octets(_WRAPPED_OCTETS))
    associations = tuple(_read_association(reader, seed) for _ in range(reader.u8()))
    reader.finish()
    return Issued(alias, class_id, lifetime_s, home_address, associations, wrapping, seed)


def _encode_association(item: IssuedAssociation) -> bytes:
    if item.mode is not Mode.STATEFUL or item.derivation:
        raise Malformed("an outcome of another key mode")
    return (
        bytes((item.pair, len(item.suites)))
        + item.spi.to_bytes(4, "big")
        + item.lifetime_s.to_bytes(4, "big")
        + item.key_name
        + b"".join(bytes((suite.protocol_id, suite.transform_id)) for suite in item.suites)
    )


def _read_association(reader: Reader, seed: Secret) -> IssuedAssociation:
    pair, count = Pair(reader.u8()), reader.u8()
    spi, lifetime_s, key_name = reader.u32(), reader.u32(), reader.octets(8)
    suites = tuple(Suite(reader.u8(), reader.u8()) for _ in range(count))
    secret = derive_secret(seed, pair, spi, key_octets(pair, suites))
    return IssuedAssociation(pair, spi, key_name, lifetime_s, Mode.STATEFUL, 0, suites, secret)
