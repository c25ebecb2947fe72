"""What verification names: the fault, and the place of what is at fault."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fault(enum.StrEnum):
    """What was done to it."""

    EDITED = "edited"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    FORGED = "forged"  # a checkpoint that our key has not signed


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that is wrong; of a checkpoint, `sequence` is its number."""

    fault: Fault
    what: str  # chain, entry, registration, event, act, checkpoint
    writer: int | None
    sequence: int
    position: int | None = None
    at_us: int | None = None
    text: str = ""
