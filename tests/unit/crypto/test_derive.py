"""What the derivations refuse, and HKDF as RFC 5869 has it; golden keys are in the vectors."""

from __future__ import annotations

import pytest

from kdc.crypto.derive import Party, derive_formula_5, derive_mixed, derive_raw, derive_sp800_108
from kdc.crypto.key0 import hkdf_expand, hkdf_extract
from kdc.errors import LocalError, NotAcceptable
from kdc.model import Pair, Secret

_HOME = Party(b"ha1@home.example", bytes((192, 0, 2, 1)))
_MOBILE = Party(b"m-00@home.example", bytes((10, 1, 2, 3)))


def test_hkdf_is_that_of_rfc_5869() -> None:
    # RFC 5869 appendix A.1
    prk = hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    assert hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    # RFC 5869 appendix A.3: no salt, no info
    prk = hkdf_extract(b"", b"\x0b" * 22)
    assert prk.hex() == "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"
    assert hkdf_expand(prk, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@pytest.mark.parametrize("role", ["responder", "initiator"])
def test_formula_5_asks_for_an_at_sign_on_both_sides(role: str) -> None:
    parties = {"responder": _HOME, "initiator": _MOBILE} | {role: Party(b"bare", b"\0\0\0\0")}
    with pytest.raises(NotAcceptable) as refused:
        derive_formula_5(Secret(bytes(32)), **parties, length_octets=36)
    assert refused.value.reply_code == 129


def test_raw_keys_are_never_longer_than_z() -> None:
    assert derive_raw(Secret(b"12345"), 5).reveal() == b"12345"
    assert derive_raw(Secret(b"12345"), 3).reveal() == b"123"
    with pytest.raises(NotAcceptable) as refused:
        derive_raw(Secret(b"12345"), 6)
    assert refused.value.reply_code == 129


@pytest.mark.parametrize(
    ("nai", "address"),
    [(b"", b"\0\0\0\0"), (b"a" * 254, b"\0\0\0\0"), (b"a@b", b""), (b"a@b", b"192.0.2.1")],
)
def test_a_party_is_a_nai_and_a_packed_address(nai: bytes, address: bytes) -> None:
    with pytest.raises(LocalError):
        Party(nai, address)


def test_a_field_of_another_length_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        derive_sp800_108(
            Secret(bytes(32)),
            pair=Pair.MN_HA,
            spi=256,
            key_name=b"short",
            responder=_HOME,
            initiator=_MOBILE,
            length_octets=36,
        )
    names = {"initiator_nai": b"m@h", "responder_nai": b"ha@h", "offered": b"1", "answered": b"2"}
    for identification, key_name in ((bytes(7), bytes(8)), (bytes(8), bytes(9))):
        with pytest.raises(LocalError):
            derive_mixed(
                Secret(bytes(32)),
                Secret(b""),
                identification=identification,
                pair=Pair.MN_HA,
                spi=256,
                key_name=key_name,
                length_octets=36,
                **names,
            )


def test_every_input_of_derivation_3_goes_into_the_keys() -> None:
    base = {
        "z": Secret(b"z" * 32),
        "secret": Secret(b"s" * 32),
        "identification": b"identify",
        "pair": Pair.MN_HA,
        "spi": 256,
        "key_name": b"key-name",
        "initiator_nai": b"m@h",
        "responder_nai": b"ha@h",
        "offered": b"offer",
        "answered": b"answer",
        "length_octets": 36,
    }
    other = {
        "z": Secret(b"y" * 32),
        "secret": Secret(b""),
        "identification": b"identifx",
        "pair": Pair.FA_HA,
        "spi": 257,
        "key_name": b"key-namf",
        "initiator_nai": b"m@hh",
        "responder_nai": b"ha@hh",
        "offered": b"offfer",
        "answered": b"ansswer",
    }
    derived = [_mixed(base)] + [_mixed(base | {name: value}) for name, value in other.items()]
    assert len({keys.reveal() for keys in derived}) == 1 + len(other)


def _mixed(given: dict[str, object]) -> Secret:
    return derive_mixed(**given)  # type: ignore[arg-type]
