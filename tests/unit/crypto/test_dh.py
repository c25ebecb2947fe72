"""What Diffie-Hellman refuses, that it costs nothing to refuse, and that no secret shows."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

import pytest

from kdc.crypto.dh import (
    FIXED_GROUPS,
    P256,
    PRIMALITY_ROUNDS,
    USER_DEFINED,
    X25519,
    DhGroup,
    DhJob,
    DhKey,
    DhShare,
    _is_strong_probable_prime,
    agree,
    private_octets,
    respond,
    share_verdict,
    user_group,
    verify_user_group,
)
from kdc.errors import LocalError, NotAcceptable
from kdc.model import Secret
from kdc.negotiation.terms import GROUP_OCTETS
from tests.property import curve_reference as reference
from tests.vectors_loader import octets, vectors

_USER = {v["id"]: v["in"] for v in vectors("derivation") if "-user-" in v["id"]}
_SAFE = octets(_USER["p-derivation-user-safe"]["p"])  # ffdhe2048
_COMPOSITE = octets(_USER["p-derivation-user-composite"]["p"])
_Q_COMPOSITE = octets(_USER["p-derivation-user-p-prime-q-not"]["p"])
_MODP = (1, 2, 14, 15, 16)
# u of order 1, 2, 4 and 8 and of the twist (PROTOCOL section 8); bit 255 is ignored.
_LOW_ORDER = (
    0,
    1,
    reference.X25519_P - 1,
    reference.X25519_P,
    reference.X25519_P + 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


class _Draws:
    """Seeded octets, counted."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self._random = random.Random(11)

    def __call__(self, count: int) -> bytes:
        self.made.append(self._random.randbytes(count))
        return self.made[-1]


def _private(group: DhGroup) -> Secret:
    return Secret(random.Random(group.number).randbytes(private_octets(group)))


def _refused(group: DhGroup, value: bytes) -> None:
    """By the initiator and by the responder, with code 129 and no value in the text."""
    key = DhKey.of(group, _private(group))
    for attempt in (
        lambda: agree(key, value),
        lambda: respond(DhJob(group, key.private, value)),
    ):
        with pytest.raises(NotAcceptable) as refused:
            attempt()
        assert refused.value.reply_code == 129
        assert not any(character.isdigit() for character in str(refused.value))


def test_the_lengths_are_those_that_negotiation_judges_by() -> None:
    lengths = {n: (group.value_octets, group.shared_octets) for n, group in FIXED_GROUPS.items()}
    assert lengths == GROUP_OCTETS


@pytest.mark.parametrize("number", _MODP)
@pytest.mark.parametrize(
    "value",
    [
        lambda p: 0,
        lambda p: 1,
        lambda p: p - 1,
        lambda p: p,
        lambda p: p + 2,
        lambda p: 2 ** (8 * ((p.bit_length() + 7) // 8)) - 1,
        lambda p: p - 2,  # -2: 2 is a residue and -1 is none
        lambda p: next(v for v in range(3, 99) if pow(v, p // 2, p) == p - 1),
    ],
    ids=["0", "1", "P-1", "P", "P+2", "all ones", "P-2", "non-residue"],
)
def test_values_outside_the_subgroup(number: int, value: Callable[[int], int]) -> None:
    group = FIXED_GROUPS[number]
    _refused(group, value(group.prime).to_bytes(group.value_octets, "big"))


@pytest.mark.parametrize("number", [*_MODP, P256, X25519])
def test_a_value_of_another_length(number: int) -> None:
    group = FIXED_GROUPS[number]
    value = DhKey.of(group, Secret(b"\1" * private_octets(group))).public_value
    agree(DhKey.of(group, _private(group)), value)
    for wrong in (b"", value[:-1], value[1:], value + b"\0", b"\0" + value):
        _refused(group, wrong)


def test_what_a_user_defined_group_leaves_open() -> None:
    """PROTOCOL 7.3 asks membership of the fixed groups alone: of order 2q is allowed, 0 is not."""
    group = verify_user_group(user_group(_SAFE, b"\7"), random.Random(1).randbytes)
    p, private = group.prime, _private(group)
    assert pow(7, p // 2, p) == p - 1
    z = agree(DhKey.of(group, private), (7).to_bytes(256, "big")).reveal()
    x = int.from_bytes(private.reveal(), "big")
    assert int.from_bytes(z, "big") == pow(7, x, p)
    for value in (0, 1, p - 1, p, p + 2):
        _refused(group, value.to_bytes(256, "big"))


@pytest.mark.parametrize("u", _LOW_ORDER)
@pytest.mark.parametrize("top_bit", [0, 1 << 255])
def test_x25519_values_of_low_order(u: int, top_bit: int) -> None:
    _refused(FIXED_GROUPS[X25519], (u | top_bit).to_bytes(32, "little"))


def test_p256_points() -> None:
    group = FIXED_GROUPS[P256]
    x, y = reference.G

    def point(form: int, *numbers: int) -> bytes:
        return bytes((form,)) + b"".join(number.to_bytes(32, "big") for number in numbers)

    agree(DhKey.of(group, _private(group)), point(4, x, y))
    small_x = next(n for n in range(99) if _root(n) is not None)
    root = _root(small_x)
    assert root is not None
    agree(DhKey.of(group, _private(group)), point(4, small_x, root))
    for wrong in (
        b"\0",  # infinity
        bytes(65),
        point(4, 0, 0),
        point(2 + y % 2, x),  # compressed
        point(2 + y % 2, x, y),
        point(6 + y % 2, x, y),  # hybrid: on the curve, of another form
        point(4, x, y ^ 1),  # off the curve
        point(4, y, x),
        point(4, small_x + reference.P, root),  # on the curve, x not reduced
        point(4, x, y)[1:],
    ):
        _refused(group, wrong)


def _root(x: int) -> int | None:
    """The y of a point of P-256, whose P is 3 modulo 4."""
    p = reference.P
    y = pow(x**3 + reference.A * x + reference.B, (p + 1) // 4, p)
    return y if reference.is_on_p256(x, y) else None


@pytest.mark.parametrize("number", [1, P256, X25519])
def test_a_private_value_of_another_length_is_our_own_mistake(number: int) -> None:
    group = FIXED_GROUPS[number]
    for private in (b"", bytes(31), b"\1" * 33, b"\1" * 65):
        with pytest.raises(LocalError):
            DhKey.of(group, Secret(private))


def test_a_private_value_of_zero_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        DhKey.of(FIXED_GROUPS[1], Secret(bytes(64)))


@pytest.mark.parametrize(
    ("prime", "generator"),
    [
        (_SAFE, b"\1"),
        (_SAFE, b"\0"),
        (_SAFE, b""),
        (_SAFE, (int.from_bytes(_SAFE, "big") - 1).to_bytes(256, "big")),
        (_SAFE, _SAFE),
        (_SAFE, b"\2" + bytes(256)),
        (_SAFE, b"\xff" * 3000),
        (b"\0" + _SAFE, b"\2"),  # the octets of P say how far Z is padded
        (bytes(256) + _SAFE, b"\2"),
        (_SAFE[:-1] + b"\xfe", b"\2"),  # even
        (FIXED_GROUPS[1].prime.to_bytes(96, "big"), b"\2"),  # 768 bits
        (b"\x7f" + _SAFE[1:], b"\2"),  # 2047 bits
        (b"\1" + bytes(511) + b"\1", b"\2"),  # 4097 bits
        (b"\xff" * 1024, b"\2"),  # 8192 bits
        (b"\xff" * 65535, b"\2"),
        (b"", b"\2"),
        (b"\0", b"\2"),
    ],
)
def test_user_groups_refused_at_no_cost(prime: bytes, generator: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(NotAcceptable) as refused:
        user_group(prime, generator)
    assert time.thread_time() - began < 0.05
    assert refused.value.reply_code == 129


def test_the_largest_and_the_smallest_user_group() -> None:
    smallest = user_group(b"\x80" + bytes(254) + b"\1", b"\2")
    largest = user_group(b"\xff" * 512, (2**4096 - 3).to_bytes(512, "big"))
    assert (smallest.value_octets, largest.value_octets) == (256, 512)
    assert not smallest.is_verified
    assert not largest.is_verified


def test_a_good_user_group_takes_64_fresh_bases() -> None:
    draws = _Draws()
    assert verify_user_group(user_group(_SAFE, b"\2"), draws).is_verified
    assert len(draws.made) == len(set(draws.made)) == PRIMALITY_ROUNDS
    assert all(len(draw) > len(_SAFE) for draw in draws.made)


@pytest.mark.parametrize(
    ("addend", "p_is_prime", "q_is_prime", "bases"),
    [(99, False, False, 0), (8295, False, True, 0), (2895, True, False, 1)],
)
def test_a_bad_user_group_falls_at_the_first_test_it_meets(
    addend: int, p_is_prime: bool, q_is_prime: bool, bases: int
) -> None:
    """2^2047 + addend; neither it nor its half has a factor below 5,000."""
    p = 2**2047 + addend
    q = p // 2
    assert all(p % n and q % n for n in range(2, 5000))
    assert (pow(3, p - 1, p) == 1, pow(3, q - 1, q) == 1) == (p_is_prime, q_is_prime)
    draws = _Draws()
    with pytest.raises(NotAcceptable) as refused:
        verify_user_group(user_group(p.to_bytes(256, "big"), b"\2"), draws)
    assert refused.value.reply_code == 129
    assert len(draws.made) == bases


@pytest.mark.parametrize("prime", [_COMPOSITE, _Q_COMPOSITE])
def test_small_factors_are_found_first(prime: bytes) -> None:
    """Before any exponentiation."""
    draws, began = _Draws(), time.thread_time()
    with pytest.raises(NotAcceptable):
        verify_user_group(user_group(prime, b"\2"), draws)
    assert time.thread_time() - began < 0.05
    assert draws.made == []


def test_a_miller_rabin_round_is_right_about_small_numbers() -> None:
    for n in range(5, 1000, 2):
        is_prime = all(n % divisor for divisor in range(2, n))
        rounds = [_is_strong_probable_prime(n, base) for base in range(2, n - 1)]
        assert all(rounds) == is_prime
        # At most a quarter of the bases lie about a composite (Rabin 1980).
        assert is_prime or sum(rounds) <= n / 4


def test_a_peers_group_without_a_verdict_is_never_computed_in() -> None:
    group = user_group(_SAFE, b"\2")
    job = DhJob(group, Secret(b"\1" * 64), (4).to_bytes(256, "big"))
    with pytest.raises(LocalError):
        respond(job)
    verified = share_verdict(
        DhGroup(USER_DEFINED, group.prime, generator=7, is_verified=True), group
    )
    assert verified.is_verified
    assert verified.generator == 2
    respond(dataclasses.replace(job, group=verified))
    for another in (group, FIXED_GROUPS[14]):  # no verdict; that of another prime
        with pytest.raises(LocalError):
            share_verdict(another, group)


def test_no_secret_shows() -> None:
    secret = Secret(b"do not show this secret anywhere")
    shown = secret.reveal()
    group = FIXED_GROUPS[X25519]
    values = (
        DhKey.of(group, secret),
        DhJob(group, secret, bytes(32)),
        DhShare(bytes(32), secret),
        dataclasses.replace(DhKey.of(FIXED_GROUPS[P256], secret), public_value=b""),
    )
    for value in values:
        for text in (repr(value), str(value), f"{value}"):
            for form in (shown.decode(), shown.hex(), str(int.from_bytes(shown, "big"))):
                assert form not in text
            assert "Secret" not in text
