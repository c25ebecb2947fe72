"""P-256 and X25519 in Python integers: slow, plain, and none of the code that they judge."""

from __future__ import annotations

# SEC 2 §2.4.2
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None  # None is the point at infinity

X25519_P = 2**255 - 19


def is_on_p256(x: int, y: int) -> bool:
    return (y * y - x * x * x - A * x - B) % P == 0


def add_p256(one: Point, other: Point) -> Point:
    """Affine addition (SEC 1 §2.2.1)."""
    if one is None or other is None:
        return other if one is None else one
    (x1, y1), (x2, y2) = one, other
    if x1 == x2:
        if (y1 + y2) % P == 0:
            return None
        slope = (3 * x1 * x1 + A) * pow(2 * y1, -1, P) % P
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, P) % P
    x3 = (slope * slope - x1 - x2) % P
    return x3, (slope * (x1 - x3) - y1) % P


def multiply_p256(scalar: int, point: Point) -> Point:
    """Double and add from the top."""
    product: Point = None
    for bit in f"{scalar:b}":
        product = add_p256(product, product)
        if bit == "1":
            product = add_p256(product, point)
    return product


def x25519(scalar: bytes, u: bytes) -> bytes:
    """The function X25519 (RFC 7748 §5), by its pseudocode."""
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 254) - 1) | (1 << 254)
    x1 = int.from_bytes(u, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for t in reversed(range(255)):
        if (k >> t) & 1:
            x2, z2, x3, z3 = _ladder_step(x1, (x3, z3), (x2, z2), swapped=True)
        else:
            x2, z2, x3, z3 = _ladder_step(x1, (x2, z2), (x3, z3), swapped=False)
    return (x2 * pow(z2, X25519_P - 2, X25519_P) % X25519_P).to_bytes(32, "little")


def _ladder_step(
    x1: int, two: tuple[int, int], three: tuple[int, int], *, swapped: bool
) -> tuple[int, int, int, int]:
    p = X25519_P
    (x2, z2), (x3, z3) = two, three
    a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
    aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
    e = aa - bb
    doubled = aa * bb % p, e * (aa + 121665 * e) % p
    added = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
    return (*added, *doubled) if swapped else (*doubled, *added)
