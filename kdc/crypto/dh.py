"""Diffie-Hellman over the groups of PROTOCOL 7.3: computed values, their checks, shared secrets.

Which groups a policy allows is not known here.  Finite fields are gmpy2's work, because
`cryptography` has deprecated them (docs/decisions/0006-gmpy2-for-finite-field-groups.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import gmpy2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kdc.errors import LocalError, NotAcceptable
from kdc.model import Secret

P256: Final = 19
X25519: Final = 31
USER_DEFINED: Final = 241  # KE-b (PROTOCOL 4.3)
MINIMUM_USER_BITS: Final = 2048
MAXIMUM_USER_BITS: Final = 4096
PRIMALITY_ROUNDS: Final = 64
_FIELD_PRIVATE_OCTETS: Final = 64  # RFC 3526 §8: 480 bits do for group 16
_CURVE_OCTETS: Final = 32
_POINT_OCTETS: Final = 65  # 04 | X | Y
_UNCOMPRESSED: Final = 4  # SEC 1 §2.3.3
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SMALL_PRIMES: Final = gmpy2.primorial(5000)  # trial division in one gcd
_BIAS_OCTETS: Final = 8  # how much more is drawn than a base needs, so that none is likelier

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class DhGroup:
    """A fixed group, or the P and G of a KE-b (number 241) with or without its verdict.

    `prime` and `generator` are 0 for the two curves.
    """

    number: int
    prime: int = field(default=0, repr=False)
    generator: int = 0
    is_verified: bool = True

    @property
    def is_elliptic(self) -> bool:
        """Whether an exchange costs a tenth of a millisecond, not several."""
        return self.number in (P256, X25519)

    @property
    def private_octets(self) -> int:
        return _CURVE_OCTETS if self.is_elliptic else _FIELD_PRIVATE_OCTETS

    @property
    def value_octets(self) -> int:
        """The length of a computed value."""
        return _POINT_OCTETS if self.number == P256 else self.shared_octets

    @property
    def shared_octets(self) -> int:
        """The length of Z, and of P where there is one."""
        return _CURVE_OCTETS if self.is_elliptic else (self.prime.bit_length() + 7) // 8


@dataclass(frozen=True, slots=True)
class DhKey:
    """One party's private value and the computed value that goes over the wire."""

    group: DhGroup
    private: Secret = field(repr=False)
    public_value: bytes

    @classmethod
    def of(cls, group: DhGroup, private: Secret) -> DhKey:
        """`private` is `private_octets(group)` random octets; the group is one's own choice."""
        return cls(group, private, _load(group, private).public_value())


@dataclass(frozen=True, slots=True)
class DhJob:
    """What a responder computes: its own value, and Z with the initiator's `peer_value`."""

    group: DhGroup
    private: Secret = field(repr=False)
    peer_value: bytes


@dataclass(frozen=True, slots=True)
class DhShare:
    """The responder's computed value, and Z left-padded."""

    public_value: bytes
    z: Secret = field(repr=False)


def private_octets(group: DhGroup) -> int:
    """How many random octets make a private value of this group."""
    return group.private_octets


def agree(key: DhKey, peer_value: bytes) -> Secret:
    """Z, left-padded; raises `NotAcceptable` for a value that fails a check of PROTOCOL 7.3."""
    return Secret(_load(key.group, key.private).shared(peer_value))


def respond(job: DhJob) -> DhShare:
    """`agree`, then the own value, so that a bad value of the peer costs little.

    Raises `NotAcceptable` as `agree` does, and `LocalError` for a group that nobody has verified:
    a peer chose it.
    """
    if not job.group.is_verified:
        raise LocalError("a user-defined group without a verdict")
    loaded = _load(job.group, job.private)
    z = Secret(loaded.shared(job.peer_value))
    return DhShare(loaded.public_value(), z)


def user_group(prime: bytes, generator: bytes) -> DhGroup:
    """The group of a KE-b, not verified yet; raises `NotAcceptable` if its numbers cannot do.

    Costs nothing, however long the octets are.  A P that begins with a zero octet is refused: the
    computed value and Z are padded to the length of P, and keys taken from the front of such a Z
    (derivation 0) would be zeros.
    """
    if 8 * len(prime) > MAXIMUM_USER_BITS or len(generator) > len(prime) or prime[:1] == b"\0":
        raise NotAcceptable("size of a user-defined group")
    p, g = int.from_bytes(prime, "big"), int.from_bytes(generator, "big")
    if p.bit_length() < MINIMUM_USER_BITS:
        raise NotAcceptable("size of a user-defined group")
    if p % 2 == 0 or not 2 <= g <= p - 2:
        raise NotAcceptable("numbers of a user-defined group")
    return DhGroup(USER_DEFINED, p, g, is_verified=False)


def verify_user_group(group: DhGroup, entropy: Entropy) -> DhGroup:
    """The group, verified: P and q = (P-1)/2 are prime.  Raises `NotAcceptable`.

    q passes 64 Miller-Rabin rounds with random bases.  P = 2q + 1 is proved prime by Pocklington's
    criterion with base 2: 2^(P-1) = 1 and gcd(2^2 - 1, P) = 1 suffice where q is prime and greater
    than the root of P.  So P is exactly as certain as q, and the 64 rounds on P that PROTOCOL 7.3
    asks for could not add to it.  A composite falls at the first test that it meets.

    Takes seconds at 4096 bits: not for an event loop.  `entropy` is called once a round.
    """
    p, q = group.prime, group.prime // 2
    # The gcds are the trial division of both and Pocklington's second condition (3 is among them).
    if gmpy2.gcd(p, _SMALL_PRIMES) != 1 or gmpy2.gcd(q, _SMALL_PRIMES) != 1:
        raise NotAcceptable("a user-defined group without a safe prime")
    if _power(2, p - 1, p) != 1:
        raise NotAcceptable("a user-defined group without a safe prime")
    draw_octets = group.shared_octets + _BIAS_OCTETS
    for _ in range(PRIMALITY_ROUNDS):
        base = 2 + int.from_bytes(entropy(draw_octets), "big") % (q - 3)
        if not _is_strong_probable_prime(q, base):
            raise NotAcceptable("a user-defined group without a safe prime")
    return replace(group, is_verified=True)


def share_verdict(verified: DhGroup, group: DhGroup) -> DhGroup:
    """`group`, verified because its P is that of `verified`.

    G asks for no verdict: modulo a safe prime, every G from 2 to P-2 is of order q or 2q.
    """
    if not verified.is_verified or verified.prime != group.prime:
        raise LocalError("the verdict of another prime")
    return replace(group, is_verified=True)


def _is_strong_probable_prime(n: int, base: int) -> bool:
    """One Miller-Rabin round.  gmpy2 has one, but holds the interpreter's lock all the while."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    x = _power(base, odd, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


def _power(base: int, exponent: int, modulus: int) -> int:
    """For public numbers; other threads run meanwhile."""
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        return int(gmpy2.powmod(base, exponent, modulus))


def _secret_power(base: int, exponent: int, modulus: int) -> int:
    """In time that depends on the sizes alone (GMP's mpz_powm_sec); other threads run meanwhile."""
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        return int(gmpy2.powmod_sec(base, exponent, modulus))


class _Loaded(Protocol):
    """A private value ready for use."""

    def public_value(self) -> bytes: ...

    def shared(self, peer_value: bytes) -> bytes:
        """Z; raises `NotAcceptable`."""


class _FieldKey:
    """X in a group modulo P; CV = G^X mod P, both it and Z padded to the length of P."""

    __slots__ = ("_group", "_x")

    def __init__(self, group: DhGroup, private: bytes) -> None:
        self._group = group
        self._x = int.from_bytes(private, "big")
        if self._x == 0:
            raise LocalError("a private value of zero")

    def public_value(self) -> bytes:
        group = self._group
        value = _secret_power(group.generator, self._x, group.prime)
        return value.to_bytes(group.value_octets, "big")

    def shared(self, peer_value: bytes) -> bytes:
        group = self._group
        if len(peer_value) != group.value_octets:
            raise NotAcceptable("length of a computed value")
        value = int.from_bytes(peer_value, "big")
        if not 2 <= value <= group.prime - 2:
            raise NotAcceptable("computed value out of range")
        # CV^((P-1)/2) = 1 is Euler's criterion; the Jacobi symbol says the same of a prime P, a
        # hundred times faster.
        if group.number != USER_DEFINED and gmpy2.jacobi(value, group.prime) != 1:
            raise NotAcceptable("computed value outside the subgroup")
        z = _secret_power(value, self._x, group.prime)
        return z.to_bytes(group.shared_octets, "big")


class _P256Key:
    """32 private octets, taken modulo n - 1 and one added: a scalar of 1 to n - 1."""

    __slots__ = ("_key",)

    def __init__(self, private: bytes) -> None:
        scalar = int.from_bytes(private, "big") % (_P256_ORDER - 1) + 1
        self._key = ec.derive_private_key(scalar, ec.SECP256R1())

    def public_value(self) -> bytes:
        public = self._key.public_key()
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def shared(self, peer_value: bytes) -> bytes:
        if len(peer_value) != _POINT_OCTETS or peer_value[0] != _UNCOMPRESSED:
            raise NotAcceptable("form of a point")
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), peer_value)
        except ValueError:
            raise NotAcceptable("a point off the curve") from None
        return self._key.exchange(ec.ECDH(), point)


class _X25519Key:
    """RFC 7748 §5: the octets as they are."""

    __slots__ = ("_key",)

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)

    def public_value(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def shared(self, peer_value: bytes) -> bytes:
        if len(peer_value) != _CURVE_OCTETS:
            raise NotAcceptable("length of a computed value")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer_value))
        except ValueError:  # an all-zero output (RFC 7748 §6.1)
            raise NotAcceptable("an all-zero shared secret") from None


def _load(group: DhGroup, private: Secret) -> _Loaded:
    """Raises `LocalError` for a private value that is not of the group's length."""
    if len(private) != group.private_octets:
        raise LocalError("length of a private value")
    if group.number == X25519:
        return _X25519Key(private.reveal())
    if group.number == P256:
        return _P256Key(private.reveal())
    return _FieldKey(group, private.reveal())


def _pi_prime(bits: int, addend: int) -> int:
    """2^bits - 2^(bits-64) - 1 + 2^64 ([2^(bits-130) pi] + addend)."""
    digits = bits - 130
    with gmpy2.context(gmpy2.get_context(), precision=bits):
        pi = int(gmpy2.floor(gmpy2.mul_2exp(gmpy2.const_pi(), digits)))
    return int((1 << bits) - (1 << (bits - 64)) - 1 + ((pi + addend) << 64))


def _field_group(number: int, bits: int, addend: int) -> DhGroup:
    return DhGroup(number, _pi_prime(bits, addend), generator=2)


FIXED_GROUPS: Final[dict[int, DhGroup]] = {
    1: _field_group(1, 768, 149686),  # RFC 2409 §6.1
    2: _field_group(2, 1024, 129093),  # RFC 2409 §6.2
    14: _field_group(14, 2048, 124476),  # RFC 3526 §3
    15: _field_group(15, 3072, 1690314),  # RFC 3526 §4
    16: _field_group(16, 4096, 240904),  # RFC 3526 §5
    P256: DhGroup(P256),  # RFC 5903 §3.1
    X25519: DhGroup(X25519),  # RFC 8031 §2
}
