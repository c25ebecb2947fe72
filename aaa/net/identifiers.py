"""Identifiers of the requests that one end of a connection sends: taken, and given back.

An identifier is not given back before its response has come, or a late response would be taken for
another request's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from aaa.radius.wire_forms import RADIUS_1_0, WireForm

WATCHDOG_IDENTIFIER: Final = 0  # RFC 6613 §2.6.5: reserved on each connection
_TOKENS: Final = 1 << 32


class Identifiers(Protocol):
    """Those of one direction of one connection."""

    @property
    def has_room(self) -> bool:
        """Whether `take` may be called."""

    def take(self) -> int:
        """One that no request has."""

    def give_back(self, identifier: int) -> None:
        """A response to it has come."""

    def take_for_watchdog(self) -> int:
        """One beside those of `take`; one watchdog at a time, and it is not given back."""


class OctetIdentifiers:
    """Those of RADIUS/1.0 in `range`, longest unused first."""

    def __init__(self, identifiers: Iterable[int]) -> None:
        self._free = deque(identifiers)

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def take(self) -> int:
        return self._free.popleft()

    def give_back(self, identifier: int) -> None:
        self._free.append(identifier)

    def take_for_watchdog(self) -> int:
        return WATCHDOG_IDENTIFIER


class TokenIdentifiers:
    """Tokens of RADIUS/1.1: a counter that begins anywhere (RFC 9765 §4.2.1)."""

    def __init__(self, first: int, outstanding: int) -> None:
        self._next = first
        self._room = outstanding

    @property
    def has_room(self) -> bool:
        return self._room > 0

    def take(self) -> int:
        self._room -= 1
        return self.take_for_watchdog()

    def give_back(self, identifier: int) -> None:  # noqa: ARG002 - a counter needs only to know that
        self._room += 1

    def take_for_watchdog(self) -> int:
        token = self._next
        self._next = (token + 1) % _TOKENS
        return token


def identifiers_of(
    form: WireForm, entropy: Callable[[int], bytes], *, has_watchdog: bool
) -> Identifiers:
    """What a new connection of this form begins with."""
    if form is RADIUS_1_0:
        return OctetIdentifiers(range(1 if has_watchdog else 0, 256))
    return TokenIdentifiers(int.from_bytes(entropy(4), "big"), form.outstanding)
