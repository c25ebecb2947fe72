"""Entries of a writer's hash chain, and the checkpoints that are signed over all chains.

An entry's hash covers the one before, the writer, its own number, the time and the Merkle root of
its items.  The tree is over all that a batch offered; `absent` has the hashes of those that were
in conflict and left no row.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from kdc.crypto.merkle import HASH_OCTETS
from kdc.errors import LocalError

ISSUING: Final = "issuing"
ACTS: Final = "acts"
ABSENT_OCTETS: Final = 2 + HASH_OCTETS
ENTRY_LABEL: Final = b"roamkey audit entry v1"
_CHAIN_LABEL: Final = b"roamkey audit chain v1"
_CHECKPOINT_LABEL: Final = b"roamkey audit checkpoint v1"
_NUMBERS: Final = struct.Struct(">qqqi")
_HEADER: Final = struct.Struct(">qqI")
_HEAD: Final = struct.Struct(">qq32s")


class Entry(NamedTuple):
    """One link; `at_us` is the transaction's time in microseconds of Unix time."""

    writer: int
    sequence: int  # from 1
    at_us: int
    size: int  # items that the tree is over
    root: bytes
    absent: bytes  # for each: position (2 octets), leaf hash (32)
    previous: bytes
    hash: bytes


class Head(NamedTuple):
    """How far a chain has come."""

    sequence: int
    hash: bytes


class Checkpoint(NamedTuple):
    """Heads of the chains that have grown since the one before, signed."""

    number: int  # from 1
    octets: bytes
    signature: bytes
    key_id: bytes

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.octets + self.signature).digest()


class CheckpointMalformed(LocalError):
    """Octets that are no checkpoint."""


def first_hash(writer: int, kind: str) -> bytes:
    """What stands before a chain's first entry."""
    return hashlib.sha256(_CHAIN_LABEL + b"|%d|%b" % (writer, kind.encode())).digest()


def entry_hash(entry: Entry, *, previous: bytes, sequence: int) -> bytes:
    """The hash that `entry` has to have as number `sequence` behind `previous`."""
    numbers = _NUMBERS.pack(entry.writer, sequence, entry.at_us, entry.size)
    octets = ENTRY_LABEL + previous + numbers + entry.root + entry.absent
    return hashlib.sha256(octets).digest()


def read_absent(octets: bytes) -> dict[int, bytes]:
    """Leaf hashes by position; raises `LocalError` where the length is no multiple."""
    if len(octets) % ABSENT_OCTETS:
        raise LocalError("expected 34 octets for each absent item")
    return {
        int.from_bytes(octets[i : i + 2], "big"): octets[i + 2 : i + ABSENT_OCTETS]
        for i in range(0, len(octets), ABSENT_OCTETS)
    }


# --- checkpoints: written and read ---


def write_checkpoint(number: int, previous: bytes, at_us: int, heads: Mapping[int, Head]) -> bytes:
    """The octets to sign; `previous` is the hash of the checkpoint before, 32 zeros for none."""
    body = (_HEAD.pack(writer, *heads[writer]) for writer in sorted(heads))
    return b"".join((_CHECKPOINT_LABEL, previous, _HEADER.pack(number, at_us, len(heads)), *body))


class CheckpointBody(NamedTuple):
    """What a checkpoint says."""

    previous: bytes
    number: int
    at_us: int
    heads: dict[int, Head]


def read_checkpoint(octets: bytes) -> CheckpointBody:
    """Raises `CheckpointMalformed`."""
    start = len(_CHECKPOINT_LABEL)
    fixed = start + HASH_OCTETS + _HEADER.size
    if not octets.startswith(_CHECKPOINT_LABEL) or len(octets) < fixed:
        raise CheckpointMalformed("expected a checkpoint")
    number, at_us, count = _HEADER.unpack_from(octets, start + HASH_OCTETS)
    if len(octets) != fixed + count * _HEAD.size:
        raise CheckpointMalformed("expected as many heads as the checkpoint tells")
    heads = {writer: Head(*head) for writer, *head in _HEAD.iter_unpack(octets[fixed:])}
    return CheckpointBody(octets[start : start + HASH_OCTETS], number, at_us, heads)


def merged_heads(bodies: Iterable[CheckpointBody]) -> dict[int, Head]:
    """The latest head of each chain over all checkpoints."""
    heads: dict[int, Head] = {}
    for body in bodies:
        heads.update(body.heads)
    return heads
