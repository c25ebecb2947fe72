"""AES key wrap with padding, held to the octets of RFC 5649."""

from __future__ import annotations

import pytest

from kdc.crypto.transport import WRAPPED_KEY0_OCTETS, TransportBroken, unwrap_key, wrap_key
from kdc.model import Secret

# RFC 5649 §6
KEY = Secret(bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
VECTORS = [
    (
        "c37b7e6492584340bed12207808941155068f738",
        "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
    ),
    ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
]


@pytest.mark.parametrize(("plain", "wrapped"), VECTORS)
def test_the_vectors_of_the_standard(plain: str, wrapped: str) -> None:
    assert wrap_key(Secret(bytes.fromhex(plain)), KEY).hex() == wrapped
    assert unwrap_key(bytes.fromhex(wrapped), KEY) == Secret(bytes.fromhex(plain))


def test_each_changed_octet_and_each_other_length_is_refused() -> None:
    wrapped = wrap_key(Secret(bytes(range(32))), KEY)
    assert len(wrapped) == WRAPPED_KEY0_OCTETS
    changed = [
        wrapped[:i] + bytes((wrapped[i] ^ 1,)) + wrapped[i + 1 :] for i in range(len(wrapped))
    ]
    for bad in (*changed, b"", wrapped[:-1], wrapped[:-8], wrapped + bytes(8)):
        with pytest.raises(TransportBroken):
            unwrap_key(bad, KEY)
    with pytest.raises(TransportBroken):
        unwrap_key(wrapped, Secret(bytes(32)))
