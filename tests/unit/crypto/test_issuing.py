"""Certificates of our own authority, judged by our own rules and by OpenSSL's."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kdc.crypto.certificates import CertificateRefused, check_client, check_server, read_trust
from kdc.crypto.issuing import Credential, create_authority, issue_certificate
from kdc.errors import LocalError
from kdc.model import Secret

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = ("ha1.home.example", IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))


@pytest.fixture(scope="module")
def authority() -> Credential:
    return create_authority("home.example", now=NOW, entropy=os.urandom)


@pytest.fixture(scope="module")
def issued(authority: Credential) -> Credential:
    return issue_certificate(authority, NAMES, now=NOW, entropy=os.urandom)


def _der(credential: Credential) -> bytes:
    certificate = x509.load_pem_x509_certificate(credential.certificate)
    return certificate.public_bytes(Encoding.DER)


def test_a_party_is_known_by_each_of_its_names_as_client_and_as_server(
    authority: Credential, issued: Credential
) -> None:
    trust = read_trust(authority.certificate, None)
    for name in NAMES:
        check_server(trust, _der(issued), (), name=name, now=NOW)
    check_client(trust, _der(issued), (), now=NOW)
    with pytest.raises(CertificateRefused):
        check_server(trust, _der(issued), (), name="ha2.home.example", now=NOW)
    for moment in (NOW - timedelta(hours=1), NOW + timedelta(days=366)):
        with pytest.raises(CertificateRefused):
            check_client(trust, _der(issued), (), now=moment)


def test_another_authority_is_not_trusted(issued: Credential) -> None:
    other = create_authority("home.example", now=NOW, entropy=os.urandom)
    with pytest.raises(CertificateRefused):
        check_client(read_trust(other.certificate, None), _der(issued), (), now=NOW)


def test_openssl_agrees(authority: Credential, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    fresh = create_authority("home.example", now=now, entropy=os.urandom)
    party = issue_certificate(fresh, NAMES, now=now, entropy=os.urandom)
    for name, octets in (("ca", fresh.certificate), ("ha", party.certificate)):
        (tmp_path / f"{name}.pem").write_bytes(octets)
    for purpose in ("sslserver", "sslclient"):
        said = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem",
             "ha.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr


def test_an_issued_certificate_signs_no_other(issued: Credential, authority: Credential) -> None:
    below = issue_certificate(issued, ("evil.example",), now=NOW, entropy=os.urandom)
    trust = read_trust(authority.certificate, None)
    with pytest.raises(CertificateRefused):
        check_client(trust, _der(below), (_der(issued),), now=NOW)


def test_what_is_asked_wrongly_is_told(authority: Credential, issued: Credential) -> None:
    with pytest.raises(LocalError, match="at least one name"):
        issue_certificate(authority, (), now=NOW, entropy=os.urandom)
    for key in (issued.key, Secret(b"-----BEGIN NOTHING-----")):
        with pytest.raises(LocalError, match="expected"):
            issue_certificate(
                Credential(authority.certificate, key), NAMES, now=NOW, entropy=os.urandom
            )


def test_the_same_entropy_makes_the_same_certificate_and_no_key_shows() -> None:
    def entropy(length_octets: int) -> bytes:
        return b"\x07" * length_octets

    first, second = (create_authority("a", now=NOW, entropy=entropy) for _ in range(2))
    assert first.certificate == second.certificate and first.key == second.key
    assert "PRIVATE" not in repr(first)
