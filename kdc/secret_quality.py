"""Judges a RADIUS shared secret: long enough, and none that a product or its manual came with.

Only what is certain is refused; how much entropy a secret has cannot be seen.
"""

from __future__ import annotations

import enum
from typing import Final

from kdc.model import Secret

MINIMUM_OCTETS: Final = 16  # PROTOCOL section 9
RECOMMENDED_OCTETS: Final = 24

# Of FreeRADIUS, radsecproxy, RFC 6614 §2.3 and RFC 6613, network devices and their manuals.
_KNOWN: Final = frozenset(
    (
        b"testing123", b"testing", b"test", b"test123", b"secret", b"secret123", b"secretkey",
        b"sharedsecret", b"shared-secret", b"shared_secret", b"shared secret", b"mysecret",
        b"my-secret", b"my_secret", b"mysharedsecret", b"oursecret", b"verysecret",
        b"verysecretpassword", b"supersecret", b"topsecret", b"radsec", b"radius/dtls",
        b"radius/tls", b"radius", b"radius123", b"radiussecret", b"radius-secret",
        b"radius_secret", b"radiuskey", b"radius-key", b"freeradius", b"password", b"password1",
        b"password123", b"passw0rd", b"p@ssw0rd", b"passphrase", b"changeme", b"change-me",
        b"change_me", b"changethis", b"changeit", b"replaceme", b"default", b"cisco", b"cisco123",
        b"juniper", b"aruba", b"aruba123", b"arubanetworks", b"huawei", b"mikrotik", b"ubnt",
        b"admin", b"admin123", b"administrator", b"public", b"private", b"example", b"localhost",
        b"letmein", b"welcome", b"welcome1", b"qwerty", b"qwertyuiop", b"xyzzy5461", b"xyzzy",
        b"what-is-your-secret", b"thisisasecret", b"whatever", b"hello", b"guest", b"roamkey",
        b"client", b"server", b"abc123", b"0123456789abcdef", b"1234567890", b"12345678",
        b"123456", b"12345", b"1234", b"123",
    )
)  # fmt: skip


class SecretQuality(enum.Enum):
    """What is to be done with a secret."""

    GOOD = "good"
    WEAK = "weak"  # taken, with a warning
    SHORT = "short"  # refused: PROTOCOL section 9
    KNOWN = "known"  # refused


_EXPLANATIONS: Final = {
    SecretQuality.GOOD: "the shared secret is long enough",
    SecretQuality.WEAK: f"the shared secret has fewer than {RECOMMENDED_OCTETS} octets:"
    " a longer one, drawn at random, cannot be guessed from what is heard",
    SecretQuality.SHORT: f"the shared secret has fewer than {MINIMUM_OCTETS} octets,"
    f" at least {MINIMUM_OCTETS} are needed: who hears one packet can guess it",
    SecretQuality.KNOWN: "the shared secret is one that products or their manuals come with,"
    " and everybody knows it: draw one at random",
}


def judge_secret(secret: Secret) -> SecretQuality:
    """What is to be done with a shared secret of RADIUS over UDP."""
    octets = secret.reveal().strip().lower()
    if not octets or _is_known(octets):
        return SecretQuality.KNOWN
    if len(secret) < MINIMUM_OCTETS:
        return SecretQuality.SHORT
    return SecretQuality.GOOD if len(secret) >= RECOMMENDED_OCTETS else SecretQuality.WEAK


def explain(quality: SecretQuality) -> str:
    """One line for an operator, which tells nothing of the secret."""
    return _EXPLANATIONS[quality]


def _is_known(lowered: bytes) -> bool:
    """A known secret, or one written several times to make it longer."""
    return any(
        lowered == lowered[:length] * (len(lowered) // length)
        for length in {len(known) for known in _KNOWN}
        if length <= len(lowered) and lowered[:length] in _KNOWN
    )
