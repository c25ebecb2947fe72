"""Looks for secrets in whatever was captured, logged or stored, as octets and as digits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

RUN_OCTETS: Final = 12  # of a key are as good as all
_DIGITS: Final = re.compile(rb"[0-9a-fA-F](?:[: ]?[0-9a-fA-F]){23,}")


def leaks(secrets: Iterable[bytes], text: bytes) -> bool:
    """Whether any 12 octets in a row of any secret stand in a text, as they are or in hexadecimal.

    Hexadecimal digits may be of either case, with a colon or a space after each pair.
    """
    runs = {
        secret[at : at + RUN_OCTETS]
        for secret in secrets
        for at in range(len(secret) - RUN_OCTETS + 1)
    }
    assert runs, "nothing to look for"
    return any(
        searched[at : at + RUN_OCTETS] in runs
        for searched in (text, *_spelt_octets(text))
        for at in range(len(searched) - RUN_OCTETS + 1)
    )


def _spelt_octets(text: bytes) -> Iterator[bytes]:
    """The octets that long runs of digits spell, whichever digit a pair begins with."""
    for run in _DIGITS.findall(text):
        digits = run.translate(None, b": ")
        for spelt in (digits, digits[1:]):
            yield bytes.fromhex(spelt[: len(spelt) & ~1].decode())
