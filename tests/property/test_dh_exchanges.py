"""A thousand exchanges in each group beside Python's own integers, some Z with leading zeros.

Key i meets key i + 1: once as initiator (`DhKey.of`, `agree`), once as responder (`respond`).
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from kdc.crypto.dh import (
    FIXED_GROUPS,
    P256,
    USER_DEFINED,
    X25519,
    DhGroup,
    DhJob,
    DhKey,
    agree,
    respond,
    user_group,
    verify_user_group,
)
from kdc.model import Secret
from tests.property import curve_reference as reference
from tests.vectors_loader import octets, vectors

_EXCHANGES = 1000
_FIELD_GROUPS = (1, 2, 14, 15, 16, USER_DEFINED)


def _group(number: int) -> DhGroup:
    if number != USER_DEFINED:
        return FIXED_GROUPS[number]
    told = next(v for v in vectors("derivation") if v["id"] == "p-derivation-user-safe")["in"]
    return verify_user_group(user_group(octets(told["p"]), b"\2"), random.Random(3).randbytes)


def _privates(group: DhGroup, drawn: random.Random) -> list[Secret]:
    """In groups 15 and 16 nine of ten are shorter numbers, of 1 to 63 octets.

    Python needs 10 and 18 ms for a full one there; length as such is shown by the rest and by the
    other groups, and shorter ones exercise more paths of a windowed exponentiation, not fewer.
    """
    size = group.private_octets
    privates = []
    for _ in range(_EXCHANGES + 1):
        shorter = group.number in (15, 16) and drawn.random() < 0.9
        used = drawn.randint(1, size - 1) if shorter else size
        octets_drawn = drawn.randbytes(used - 1) + bytes((drawn.randint(1, 255),))
        privates.append(Secret(octets_drawn.rjust(size, b"\0")))
    return privates


@pytest.mark.slow
@pytest.mark.parametrize("number", _FIELD_GROUPS)
def test_field_groups_compute_what_pow_computes(number: int) -> None:
    group = _group(number)
    p = group.prime
    size = (p.bit_length() + 7) // 8
    privates = _privates(group, random.Random(number))
    key = DhKey.of(group, privates[0])
    cv = pow(group.generator, _number(privates[0]), p)
    for private, following in pairwise(privates):
        share = respond(DhJob(group, following, key.public_value))
        z = pow(cv, _number(following), p)
        cv = pow(group.generator, _number(following), p)
        assert share.public_value == cv.to_bytes(size, "big")
        assert share.z.reveal() == z.to_bytes(size, "big")
        assert agree(DhKey(group, private, key.public_value), share.public_value) == share.z
        key = DhKey(group, following, share.public_value)


@pytest.mark.parametrize("number", _FIELD_GROUPS)
@pytest.mark.parametrize("zero_octets", [1, 8, "all but one"])
def test_a_z_with_leading_zero_octets_keeps_its_length(number: int, zero_octets: int | str) -> None:
    """The peer's value is made for the Z that is wanted: CV = Z^(1/X), 1/X modulo the order q."""
    group, drawn = _group(number), random.Random(7)
    p, size = group.prime, group.shared_octets
    q = p // 2
    private = Secret(drawn.randbytes(group.private_octets))
    if zero_octets == "all but one":
        z = 4  # a square, so of order q
    else:
        assert isinstance(zero_octets, int)
        z = int.from_bytes(drawn.randbytes(size - zero_octets), "big")
        while pow(z, q, p) != 1:
            z += 1
    peer = pow(z, pow(_number(private), -1, q), p)
    key = DhKey.of(group, private)
    shared = agree(key, peer.to_bytes(size, "big")).reveal()
    assert shared == z.to_bytes(size, "big")
    assert len(shared) == size
    assert shared[0] == 0
    assert respond(DhJob(group, private, peer.to_bytes(size, "big"))).z.reveal() == shared


@pytest.mark.slow
def test_p256_computes_what_affine_arithmetic_computes() -> None:
    group = FIXED_GROUPS[P256]
    privates = _privates(group, random.Random(P256))
    key = DhKey.of(group, privates[0])
    zeros = 0
    for private, following in pairwise(privates):
        share = respond(DhJob(group, following, key.public_value))
        scalar = _number(following) % (reference.N - 1) + 1
        point, shared = reference.multiply_p256(scalar, reference.G), _point(key.public_value)
        z = reference.multiply_p256(scalar, shared)
        assert point is not None
        assert z is not None
        assert share.public_value == b"\4" + b"".join(n.to_bytes(32, "big") for n in point)
        assert share.z.reveal() == z[0].to_bytes(32, "big")
        assert agree(DhKey(group, private, key.public_value), share.public_value) == share.z
        zeros += share.z.reveal()[0] == 0
        key = DhKey(group, following, share.public_value)
    assert zeros >= 1


@pytest.mark.slow
def test_x25519_computes_what_the_ladder_computes() -> None:
    group = FIXED_GROUPS[X25519]
    privates = _privates(group, random.Random(X25519))
    key = DhKey.of(group, privates[0])
    zeros = 0
    for private, following in pairwise(privates):
        share = respond(DhJob(group, following, key.public_value))
        assert share.public_value == reference.x25519(following.reveal(), b"\x09" + bytes(31))
        assert share.z.reveal() == reference.x25519(following.reveal(), key.public_value)
        assert agree(DhKey(group, private, key.public_value), share.public_value) == share.z
        zeros += share.z.reveal()[0] == 0
        key = DhKey(group, following, share.public_value)
    assert zeros >= 1


def test_the_references_are_right() -> None:
    # RFC 7748 §5.2, first vector
    scalar = octets("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = octets("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert reference.x25519(scalar, u).hex() == expected
    assert reference.is_on_p256(*reference.G)
    assert reference.multiply_p256(reference.N, reference.G) is None
    assert reference.multiply_p256(reference.N - 1, reference.G) == (
        reference.G[0],
        reference.P - reference.G[1],
    )


def _number(private: Secret) -> int:
    return int.from_bytes(private.reveal(), "big")


def _point(value: bytes) -> reference.Point:
    return int.from_bytes(value[1:33], "big"), int.from_bytes(value[33:], "big")
