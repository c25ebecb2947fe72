"""HPKE and sealing: golden octets, and the library's own implementation beside ours."""

from __future__ import annotations

import pickle
import secrets

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from kdc.crypto.hpke import X25519Key, fingerprint, unwrap, wrap
from kdc.crypto.kek import (
    KeyUnusable,
    RowSeal,
    RowSealBroken,
    kek_check_value,
    unwrap_data_key,
    wrap_data_key,
)
from kdc.crypto.key0 import hkdf_expand
from kdc.crypto.seal import Seal
from kdc.errors import LocalError, ReplyRefused, SealBroken
from kdc.model import Nai, Secret
from tests.vectors_loader import Vector, octets, vector_id, vectors


@pytest.mark.parametrize("vector", vectors("hpke"), ids=vector_id)
def test_hpke_vectors(vector: Vector) -> None:
    told = vector["in"]
    key = X25519Key.of(Secret(octets(told["fa_private"])))
    spi, fa_nai = told["spi"], Nai(octets(told["fa_nai"]))
    attribute_4 = octets(told["attribute_4"])
    if "refuse" in vector:
        with pytest.raises(ReplyRefused):
            unwrap(attribute_4, key=key, spi=spi, fa_nai=fa_nai)
        return
    w = Secret(octets(vector["out"]["w"]))
    assert key.public_key == octets(told["fa_public"])
    assert fingerprint(octets(told["attribute_3"])) == octets(vector["out"]["fk"])
    assert unwrap(attribute_4, key=key, spi=spi, fa_nai=fa_nai) == w
    ephemeral = Secret(octets(told["ephemeral_private"]))
    made = wrap(w, ephemeral=ephemeral, public_key=key.public_key, spi=spi, fa_nai=fa_nai)
    assert made == attribute_4


def test_the_librarys_hpke_opens_what_we_wrap() -> None:
    private = X25519PrivateKey.generate()
    fa_nai, w = Nai.parse("fa1@visited.example"), Secret(secrets.token_bytes(64))
    wrapped = wrap(
        w,
        ephemeral=Secret(secrets.token_bytes(32)),
        public_key=private.public_key().public_bytes_raw(),
        spi=4711,
        fa_nai=fa_nai,
    )
    info = b"roamkey fa-wrap v1" + (4711).to_bytes(4, "big") + b"\x13" + fa_nai.octets
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert suite.decrypt(wrapped[4:], private, info) == w.reveal()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(1, 300))
def test_hkdf_expand_is_the_librarys(key: bytes, info: bytes, length: int) -> None:
    expected = HKDFExpand(hashes.SHA256(), length, info).derive(key)
    assert hkdf_expand(key, info, length) == expected


@given(st.binary(max_size=2046), st.sampled_from([32, 64]))
def test_what_is_sealed_opens_and_its_length_is_a_bucket(data: bytes, smallest: int) -> None:
    seal = Seal(Secret(bytes(64)))
    sealed = seal.seal(data, [b"header", b"extension"], smallest)
    assert seal.open(sealed, [b"header", b"extension"], smallest) == data
    assert len(sealed) - 16 in (32, 64, 96, 128, 192, 256, 512, 1024, 2048)
    with pytest.raises(SealBroken):
        seal.open(sealed, [b"header", b"another"], smallest)
    with pytest.raises(SealBroken):
        seal.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), [b"header", b"extension"], smallest)


def test_a_row_seal_is_bound_to_column_row_owner_and_key() -> None:
    key, value = Secret(bytes(32)), Secret(b"what is sealed")
    seal = RowSeal(1, key)
    sealed = seal.seal(value, column="t.c", row=5, owner=6, entropy=secrets.token_bytes)
    assert seal.open(sealed, column="t.c", row=5, owner=6) == value
    elsewhere = [("t.d", 5, 6, seal), ("t.c", 7, 6, seal), ("t.c", 5, 8, seal)]
    elsewhere += [("t.c", 5, 6, RowSeal(2, key)), ("t.c", 5, 6, RowSeal(1, Secret(b"1" * 32)))]
    for column, row, owner, other in elsewhere:
        with pytest.raises(RowSealBroken):
            other.open(sealed, column=column, row=row, owner=owner)


def test_a_data_key_opens_under_its_kek_purpose_and_epoch_alone() -> None:
    kek, key = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
    other = Secret(secrets.token_bytes(32))
    wrapped = wrap_data_key(key, kek, purpose="record", epoch=0, entropy=secrets.token_bytes)
    assert unwrap_data_key(wrapped, kek, purpose="record", epoch=0) == key
    assert kek_check_value(kek) != kek_check_value(other)
    for wrong, purpose, epoch in ((other, "record", 0), (kek, "outcome", 0), (kek, "record", 1)):
        with pytest.raises(KeyUnusable):
            unwrap_data_key(wrapped, wrong, purpose=purpose, epoch=epoch)


def test_a_secret_does_not_show() -> None:
    secret = Secret(b"do not show this")
    assert "show" not in repr(secret) and "show" not in f"{secret}"
    with pytest.raises(LocalError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
