"""A bounds-checked cursor over octets: the only way in which decoders read.

It knows nothing of any format.  A decoder that leaves octets in its window has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdc.errors import Malformed


class Reader:
    """Reads big-endian values from `octets[start:end]`; running over the end is `Malformed`."""

    __slots__ = ("_octets", "end", "position")

    def __init__(self, octets: bytes, start: int = 0, end: int | None = None) -> None:
        self._octets = octets
        self.position = start
        self.end = len(octets) if end is None else end

    @property
    def remaining(self) -> int:
        """Octets left in the window."""
        return self.end - self.position

    def _advance(self, length_octets: int) -> int:
        start = self.position
        if length_octets < 0 or length_octets > self.end - start:
            raise Malformed("octets run out")
        self.position = start + length_octets
        return start

    def octets(self, length_octets: int) -> bytes:
        """The next `length_octets` octets."""
        start = self._advance(length_octets)
        return self._octets[start : self.position]

    def rest(self) -> bytes:
        """All octets left in the window."""
        return self.octets(self.remaining)

    def u8(self) -> int:
        return self._octets[self._advance(1)]

    def u16(self) -> int:
        start = self._advance(2)
        return int.from_bytes(self._octets[start : start + 2], "big")

    def u32(self) -> int:
        start = self._advance(4)
        return int.from_bytes(self._octets[start : start + 4], "big")

    @contextmanager
    def window(self, length_octets: int) -> Iterator[Reader]:
        """A reader of the next `length_octets`, which must have been read to the end at exit."""
        start = self._advance(length_octets)
        body = Reader(self._octets, start, self.position)
        yield body
        body.finish()

    def at(self, start: int, end: int) -> Reader:
        """A reader of `[start, end)` of the same octets, both within what has been read."""
        return Reader(self._octets, start, end)

    def finish(self) -> None:
        """Raises `Malformed` if octets are left."""
        if self.position != self.end:
            raise Malformed("octets left over")
