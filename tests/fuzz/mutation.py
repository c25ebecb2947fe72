"""Octets made wrong at random: edits that know nothing of any format.

What knows packets and attributes is tests.fuzz.radius_mutation.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

_BORDERS: Final = (0, 1, 2, 3, 4, 17, 18, 19, 20, 32, 127, 128, 247, 253, 254, 255)


def mutate(rng: Random, octets: bytes) -> bytes:
    """One to four edits of `octets`."""
    edited = bytearray(octets)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_EDITS)(rng, edited)
    return bytes(edited)


def _flip(rng: Random, octets: bytearray) -> None:
    if octets:
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)


def _set(rng: Random, octets: bytearray) -> None:
    if octets:
        octets[rng.randrange(len(octets))] = rng.choice(_BORDERS)


def _insert(rng: Random, octets: bytearray) -> None:
    at = rng.randint(0, len(octets))
    octets[at:at] = rng.randbytes(rng.randint(1, 8))


def _remove(rng: Random, octets: bytearray) -> None:
    at = rng.randint(0, len(octets))
    del octets[at : at + rng.randint(1, 40)]


def _repeat(rng: Random, octets: bytearray) -> None:
    at = rng.randint(0, len(octets))
    piece = octets[at : at + rng.randint(1, 120)]
    octets[at:at] = piece


def _move(rng: Random, octets: bytearray) -> None:
    at = rng.randint(0, len(octets))
    piece = octets[at : at + rng.randint(1, 120)]
    del octets[at : at + len(piece)]
    to = rng.randint(0, len(octets))
    octets[to:to] = piece


def _truncate(rng: Random, octets: bytearray) -> None:
    del octets[rng.randint(0, len(octets)) :]


_EDITS: Final[tuple[Callable[[Random, bytearray], None], ...]] = (
    _flip,
    _flip,
    _set,
    _set,
    _insert,
    _remove,
    _repeat,
    _move,
    _truncate,
)
