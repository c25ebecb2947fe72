"""The search for secrets finds what it is meant to find, and nothing else."""

from __future__ import annotations

import random

import pytest

from tests.secret_search import RUN_OCTETS, leaks

SECRET = bytes(range(0xA0, 0xC0))
PART = SECRET[5 : 5 + RUN_OCTETS]
NOISE = random.Random(4).randbytes(5000)


@pytest.mark.parametrize(
    "written",
    [
        PART,
        PART.hex().encode(),
        PART.hex().upper().encode(),
        PART.hex(":").encode(),
        PART.hex(" ").encode(),
        b"0x" + PART.hex().encode(),
        b"f" + PART.hex().encode(),  # a pair begins with the other digit
        SECRET,
    ],
)
def test_a_part_of_a_secret_is_found_however_it_is_written(written: bytes) -> None:
    assert leaks([bytes(32), SECRET], NOISE + b"=" + written + b"." + NOISE)


def test_what_is_no_secret_is_not_found() -> None:
    assert not leaks([SECRET], NOISE)
    assert not leaks([SECRET], NOISE.hex().encode())
    assert not leaks([SECRET], PART[:-1] + b"." + PART[1:])


def test_a_search_for_nothing_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        leaks([b"short"], NOISE)
