"""The Merkle tree against RFC 6962 §2.1 as it is written there, and against its published root."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kdc.crypto.merkle import leaf_hash, merkle_root

# The test vectors of the Certificate Transparency reference implementation (merkletree tests).
_INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
           "606162636465666768696a6b6c6d6e6f")  # fmt: skip
_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def reference(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + reference(entries[:k]) + reference(entries[k:])).digest()


@given(st.lists(st.binary(max_size=40), max_size=300))
def test_the_root_is_that_of_the_rfc(entries: list[bytes]) -> None:
    assert merkle_root([leaf_hash(entry) for entry in entries]) == reference(entries)


def test_the_published_roots() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in _INPUTS]
    for size, root in enumerate(_ROOTS, 1):
        assert merkle_root(leaves[:size]).hex() == root
