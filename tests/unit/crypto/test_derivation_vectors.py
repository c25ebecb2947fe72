"""Every vector of tests/vectors/derivation.json: derivations, computed values, primes, user groups.

One test takes them all, so that none is left out; one of a shape it does not know fails.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from kdc.crypto.derive import (
    Party,
    derive_formula_5,
    derive_mixed,
    derive_raw,
    derive_sp800_108,
)
from kdc.crypto.dh import (
    FIXED_GROUPS,
    USER_DEFINED,
    DhGroup,
    DhJob,
    DhKey,
    DhShare,
    agree,
    private_octets,
    respond,
    user_group,
    verify_user_group,
)
from kdc.errors import NotAcceptable
from kdc.model import Pair, Secret
from tests.vectors_loader import Vector, octets, vector_id, vectors

_VECTORS = vectors("derivation")
_DRAWN = random.Random(20)
# That of the vectors' KE-b: P of ffdhe2048 (RFC 7919 A.1), G = 2.
_USER_PRIME = octets(next(v for v in _VECTORS if v["id"] == "p-derivation-user-safe")["in"]["p"])


@pytest.mark.parametrize("vector", _VECTORS, ids=vector_id)
def test_derivation_vectors(vector: Vector) -> None:
    if "refuse" not in vector:
        _accept(vector["in"], vector["out"])
        return
    with pytest.raises(NotAcceptable) as refused:
        _accept(vector["in"], {})
    assert refused.value.reply_code == vector["refuse"].get("code", 129) == 129


def _accept(told: dict[str, Any], out: dict[str, Any]) -> None:
    """Computes what `told` asks for and holds it to `out`."""
    match told:
        case {"derivation": 0}:
            assert derive_raw(_secret(told["z"]), told["length"]) == _secret(out["keys"])
        case {"derivation": 1 | 2}:
            assert _semistateful(told) == _secret(out["keys"])
        case {"derivation": 3}:
            _stateless(told, out)
        case {"group": number, "cv": value}:
            group = FIXED_GROUPS[number]
            agree(DhKey.of(group, Secret(bytes(group.private_octets - 1) + b"\3")), octets(value))
        case {"p": prime, "g": generator, "policy": {"user_groups": True}}:
            g = int(generator, 16)
            group = user_group(octets(prime), g.to_bytes((g.bit_length() + 7) // 8, "big"))
            assert verify_user_group(group, _DRAWN.randbytes).is_verified == out["accept"]
        case {"group": number}:
            assert FIXED_GROUPS[number].prime == int(out["p"], 16)
            assert FIXED_GROUPS[number].generator == 2
        case _:
            pytest.fail(f"nobody knows what this vector asks for: {sorted(told)}")


def _semistateful(told: dict[str, Any]) -> Secret:
    responder, initiator = (Party(octets(told[f"nai_{r}"]), octets(told[f"ip_{r}"])) for r in "ri")
    seed, length = _secret(told["seed"]), told["length"]
    if told["derivation"] == 1:
        return derive_formula_5(
            seed, responder=responder, initiator=initiator, length_octets=length
        )
    return derive_sp800_108(
        seed,
        pair=Pair(told["pair"]),
        spi=told["spi"],
        key_name=octets(told["key_name"]),
        responder=responder,
        initiator=initiator,
        length_octets=length,
    )


def _stateless(told: dict[str, Any], out: dict[str, Any]) -> None:
    group = _group(told["group"])
    private_i, private_r = _secret(told["private_i"]), _secret(told["private_r"])
    assert len(private_i) == len(private_r) == private_octets(group)
    initiator = DhKey.of(group, private_i)
    cv_i, cv_r, z = octets(told["cv_i"]), octets(told["cv_r"]), _secret(out["z"])
    assert initiator.public_value == cv_i
    assert agree(initiator, cv_r) == z
    assert respond(DhJob(group, private_r, cv_i)) == DhShare(cv_r, z)
    keys = derive_mixed(
        z,
        _secret(told["secret"]),
        identification=octets(told["identification"]),
        pair=Pair(told["pair"]),
        spi=told["spi"],
        key_name=octets(told["key_name"]),
        initiator_nai=octets(told["nai_i"]),
        responder_nai=octets(told["nai_r"]),
        offered=octets(told["offered"]),
        answered=octets(told["answered"]),
        length_octets=told["length"],
    )
    assert keys == _secret(out["keys"])


def _group(number: int) -> DhGroup:
    if number == USER_DEFINED:
        return verify_user_group(user_group(_USER_PRIME, b"\2"), _DRAWN.randbytes)
    return FIXED_GROUPS[number]


def _secret(text: str) -> Secret:
    return Secret(octets(text))
