"""Tells what was done to an entry that does not continue its chain."""

from __future__ import annotations

from typing import Final

from kdc.audit.chain import Entry, entry_hash
from kdc.audit.finding import Fault, Finding

_FARTHEST: Final = 100_000  # numbers away from its place that an entry is looked for


def explain_entry(
    entry: Entry, following: Entry | None, last: Entry | None, head: bytes, before_last: bytes
) -> Finding:
    """`entry` does not follow `last`, whose hash is `head`; `following` is of the same chain."""
    place = entry.sequence
    if _made_as(entry, entry.previous, place):
        # It is as it was made, so that what stands before it is not.
        return _finding(Fault.EDITED, last or entry)
    if last is not None and _made_as(entry, before_last, place - 1):
        return _finding(Fault.INSERTED, last)
    origin = _origin_of(entry)
    if origin is None:
        shifted = following is not None and _made_as(following, head, place)
        return _finding(Fault.INSERTED if shifted else Fault.EDITED, entry)
    behind = _origin_of(following) if following is not None else origin + 1
    if origin > place and behind == origin + 1:
        text = "what followed has its number; the time is that of the next one"
        return _finding(Fault.REMOVED, entry, text)
    return _finding(Fault.REORDERED, entry, f"it was made as number {origin}")


def _made_as(entry: Entry, previous: bytes, sequence: int) -> bool:
    return entry_hash(entry, previous=previous, sequence=sequence) == entry.hash


def _origin_of(entry: Entry) -> int | None:
    """The number that an entry was made as, near its place first."""
    for distance in range(_FARTHEST):
        for sequence in (entry.sequence - distance, entry.sequence + distance):
            if sequence > 0 and _made_as(entry, entry.previous, sequence):
                return sequence
    return None


def _finding(fault: Fault, entry: Entry, text: str = "") -> Finding:
    return Finding(fault, "entry", entry.writer, entry.sequence, None, entry.at_us, text)
