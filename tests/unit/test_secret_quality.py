"""Shared secrets: what everybody knows is refused, what is short is told."""

from __future__ import annotations

import secrets

import pytest

from kdc.model import Secret
from kdc.secret_quality import SecretQuality, explain, judge_secret


@pytest.mark.parametrize(
    "known",
    [
        b"testing123", b"Testing123", b"radsec", b"RADSEC", b"secret", b"mysecret", b"password",
        b"changeme", b"cisco", b"0123456789ABCDEF", b"testing123testing123", b"secretsecretsecret",
        b"secret\n", b"", b"   ",
    ],
)  # fmt: skip
def test_what_products_come_with_is_refused(known: bytes) -> None:
    assert judge_secret(Secret(known)) is SecretQuality.KNOWN


@pytest.mark.parametrize(
    ("octets", "quality"),
    [
        (b"k7w", SecretQuality.SHORT),
        (b"k7wQ-zu1_93hdm4", SecretQuality.SHORT),
        (b"k7wQ-zu1_93hdm4x", SecretQuality.WEAK),
        (b"k7wQ-zu1_93hdm4xpp20vbn", SecretQuality.WEAK),
        (b"k7wQ-zu1_93hdm4xpp20vbnM", SecretQuality.GOOD),
        (b"testing123-and-what-only-we-know", SecretQuality.GOOD),
        (b"\x00" * 7 + b"\xff" * 25, SecretQuality.GOOD),
    ],
)
def test_length_decides_of_what_nobody_knows(octets: bytes, quality: SecretQuality) -> None:
    assert judge_secret(Secret(octets)) is quality


def test_nothing_of_a_secret_is_in_an_explanation() -> None:
    planted = secrets.token_hex(4).encode()
    assert planted.decode() not in explain(judge_secret(Secret(planted)))
