"""SA-INFO (PROTOCOL 4.2): how an association travels to its holder.

Whether the receiver's policy allows a mode, a derivation or a suite is judged by the role.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kdc.errors import Malformed
from kdc.model import KEY_OCTETS, Mode, Pair, Secret, Suite, check_spi, key_octets
from kdc.records import IssuedAssociation
from kdc.wire import numbers
from kdc.wire.cursor import Reader
from kdc.wire.numbers import Kind

_FIXED: Final = struct.Struct(">II8sBBBB")
_MAXIMUM_SUITES: Final = 4
SEED_OCTETS: Final = 32
_INFINITE: Final = 2**32 - 1
RAW_DH: Final = 0  # derivations of section 7; also that of stateful random keys
FORMULA_5: Final = 1
SP800_108: Final = 2
MIXED: Final = 3
_ALLOWED: Final = frozenset({(1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2), (3, 3)})

KIND_OF_PAIR: Final[dict[Pair, Kind]] = {
    Pair.MN_FA: numbers.SA_MN_FA,
    Pair.FA_HA: numbers.SA_FA_HA,
    Pair.MN_HA: numbers.SA_MN_HA,
    Pair.MN_SMM: numbers.SA_MN_SMM,
}


@dataclass(frozen=True, slots=True)
class SaInfo:
    """One association as delivered; `secret` is what section 7 makes the keys of."""

    spi: int
    lifetime_s: int
    key_name: bytes
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    secret: Secret


def sa_info_of(item: IssuedAssociation) -> SaInfo:
    """The SA-INFO of an SA that the KDC has made, its Secret in it."""
    return SaInfo(
        item.spi,
        item.lifetime_s,
        item.key_name,
        item.mode,
        item.derivation,
        item.suites,
        item.secret,
    )


def decode_sa_info(octets: bytes, pair: Pair) -> SaInfo:
    """The association in `octets`; raises `Malformed` for whatever 4.2 refuses."""
    reader = Reader(octets)
    spi, lifetime_s, key_name, mode, derivation, count, reserved = _FIXED.unpack(
        reader.octets(_FIXED.size)
    )
    if reserved:
        raise Malformed("SA-INFO reserved")
    if not 1 <= count <= _MAXIMUM_SUITES:
        raise Malformed("SA-INFO suite count")
    suites = tuple(Suite(reader.u8(), reader.u8()) for _ in range(count))
    with reader.window(reader.u16()) as body:
        secret = Secret(body.rest())
    reader.finish()
    check_sa_info(lifetime_s, suites, mode, derivation, pair)
    if len(secret) not in _secret_octets(Mode(mode), derivation, pair, suites):
        raise Malformed("SA-INFO secret length for the mode")
    return SaInfo(check_spi(spi), lifetime_s, key_name, Mode(mode), derivation, suites, secret)


def encode_sa_info(info: SaInfo) -> bytes:
    suites = b"".join(bytes((suite.protocol_id, suite.transform_id)) for suite in info.suites)
    return (
        _FIXED.pack(
            info.spi,
            info.lifetime_s,
            info.key_name,
            info.mode,
            info.derivation,
            len(info.suites),
            0,
        )
        + suites
        + len(info.secret).to_bytes(2, "big")
        + info.secret.reveal()
    )


def check_sa_info(
    lifetime_s: int, suites: tuple[Suite, ...], mode: int, derivation: int, pair: Pair
) -> None:
    """Raises `Malformed` for what every receiver of an SA-INFO refuses (PROTOCOL 4.2)."""
    if lifetime_s in (0, _INFINITE):
        raise Malformed("SA-INFO lifetime")
    if len({suite.protocol_id for suite in suites}) != len(suites):
        raise Malformed("SA-INFO protocol twice")
    if any(suite not in KEY_OCTETS for suite in suites):
        raise Malformed("SA-INFO unknown suite")
    if (mode, derivation) not in _ALLOWED:
        raise Malformed("SA-INFO mode and derivation")
    if (mode, derivation) == (Mode.STATELESS, RAW_DH) and pair is not Pair.MN_HA:
        raise Malformed("SA-INFO mode and derivation")


def _secret_octets(
    mode: Mode, derivation: int, pair: Pair, suites: tuple[Suite, ...]
) -> tuple[int, ...]:
    """The lengths that Secret may have; empty where a KE-c carries it."""
    if mode is Mode.STATELESS and pair is Pair.MN_HA:
        return (0,)
    if derivation == MIXED:
        return (SEED_OCTETS,)
    if mode is Mode.STATEFUL:
        return (0, key_octets(pair, suites))
    return (0, SEED_OCTETS)
