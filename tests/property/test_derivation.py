"""Formula (5) confuses parties whose octets run together; derivation 2 tells them apart.

Each case of 100,000 is two different pairs of parties with one S: octets moved over the border of
the two NAIs, of the two addresses, or of NAI and address.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kdc.crypto.derive import Party, derive_formula_5, derive_sp800_108
from kdc.model import Pair, Secret

_CASES = 100_000
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789.-"
_LENGTH_OCTETS = 32
_Parties = tuple[Party, Party]  # responder, initiator


def _text(drawn: random.Random, least: int, most: int) -> bytes:
    return bytes(drawn.choices(_LETTERS, k=drawn.randint(least, most)))


def _nai(drawn: random.Random) -> bytes:
    return _text(drawn, 1, 12) + b"@" + _text(drawn, 13, 30)


def _between_nais(drawn: random.Random) -> tuple[_Parties, _Parties]:
    """The end of the responder's realm becomes the beginning of the initiator's user."""
    nai_r, nai_i = _nai(drawn), _nai(drawn)
    ip_r, ip_i = drawn.randbytes(4), drawn.randbytes(4)
    moved = drawn.randint(1, 12)
    return (Party(nai_r, ip_r), Party(nai_i, ip_i)), (
        Party(nai_r[:-moved], ip_r),
        Party(nai_r[-moved:] + nai_i, ip_i),
    )


def _between_addresses(drawn: random.Random) -> tuple[_Parties, _Parties]:
    """An IPv4 address before an IPv6 address becomes one behind it."""
    nai_r, nai_i, octets = _nai(drawn), _nai(drawn), drawn.randbytes(20)
    return (Party(nai_r, octets[:4]), Party(nai_i, octets[4:])), (
        Party(nai_r, octets[:16]),
        Party(nai_i, octets[16:]),
    )


def _between_nai_and_address(drawn: random.Random) -> tuple[_Parties, _Parties]:
    """The front of an IPv6 address becomes the end of the initiator's realm."""
    nai_r, nai_i = _nai(drawn), _nai(drawn)
    text, rest = bytes(drawn.choices(_LETTERS, k=12)), drawn.randbytes(8)
    octets = text + rest
    return (Party(nai_r, octets[:16]), Party(nai_i, octets[16:])), (
        Party(nai_r, rest[:4]),
        Party(nai_i + text, rest[4:]),
    )


@pytest.mark.parametrize(
    ("move", "cases"),
    [
        (_between_nais, _CASES * 8 // 10),
        (_between_addresses, _CASES // 10),
        (_between_nai_and_address, _CASES // 10),
    ],
)
def test_derivation_1_collides_and_derivation_2_does_not(
    move: Callable[[random.Random], tuple[_Parties, _Parties]], cases: int
) -> None:
    drawn = random.Random(5)
    seed, key_name = Secret(drawn.randbytes(32)), drawn.randbytes(8)
    seen: set[bytes] = set()
    for _ in range(cases):
        one, other = move(drawn)
        assert one != other
        by_formula, by_counter = [], []
        for responder, initiator in (one, other):
            by_formula.append(
                derive_formula_5(
                    seed, responder=responder, initiator=initiator, length_octets=_LENGTH_OCTETS
                )
            )
            by_counter.append(
                derive_sp800_108(
                    seed,
                    pair=Pair.MN_HA,
                    spi=256,
                    key_name=key_name,
                    responder=responder,
                    initiator=initiator,
                    length_octets=_LENGTH_OCTETS,
                )
            )
        assert by_formula[0] == by_formula[1]
        seen.update(keys.reveal() for keys in by_counter)
    assert len(seen) == 2 * cases
