"""Merkle tree hash of RFC 6962 §2.1 with SHA-256: leaves and nodes have different prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

HASH_OCTETS: Final = 32
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(octets: bytes) -> bytes:
    """32 octets of one entry."""
    return hashlib.sha256(_LEAF + octets).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """32 octets over leaf hashes in their order; that of no leaf is SHA-256 of nothing.

    Joining neighbours and carrying an odd one up gives the tree of RFC 6962, which splits at the
    largest power of two.
    """
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:
        above = [
            hashlib.sha256(_NODE + level[i] + level[i + 1]).digest()
            for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]
