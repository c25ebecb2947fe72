"""A second look at a certificate: never kinder than the handshake's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from kdc.crypto.certificates import CertificateRefused, check_client, check_server, read_trust
from kdc.errors import LocalError
from tests.unit.net.authority import Authority, Issued

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _der(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


def test_a_good_certificate_passes_for_its_use_its_name_and_its_time(authority: Authority) -> None:
    trust = read_trust(authority.pem, None)
    leaf = _der(authority.issue("a", ["a.example", "192.0.2.1"]))
    check_client(trust, leaf, (), now=NOW)
    for name in ("a.example", ip_address("192.0.2.1")):
        check_server(trust, leaf, (), name=name, now=NOW)
    for late in (NOW + timedelta(days=2), NOW - timedelta(days=2)):
        with pytest.raises(CertificateRefused):
            check_client(trust, leaf, (), now=late)
        with pytest.raises(CertificateRefused):
            check_server(trust, leaf, (), name="a.example", now=late)
    with pytest.raises(CertificateRefused):
        check_server(trust, leaf, (), name="b.example", now=NOW)


def test_a_certificate_is_for_one_use(authority: Authority) -> None:
    trust = read_trust(authority.pem, None)
    client = _der(authority.issue("c", ["a.example"], usages=[ExtendedKeyUsageOID.CLIENT_AUTH]))
    server = _der(authority.issue("s", ["a.example"], usages=[ExtendedKeyUsageOID.SERVER_AUTH]))
    check_client(trust, client, (), now=NOW)
    check_server(trust, server, (), name="a.example", now=NOW)
    with pytest.raises(CertificateRefused):
        check_client(trust, server, (), now=NOW)
    with pytest.raises(CertificateRefused):
        check_server(trust, client, (), name="a.example", now=NOW)


def test_another_authority_even_of_the_same_name(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    leaf = _der(Authority(tmp_path / "x").issue("a", ["a.example"]))
    with pytest.raises(CertificateRefused):
        check_client(read_trust(authority.pem, None), leaf, (), now=NOW)
    with pytest.raises(CertificateRefused):
        check_client(read_trust(authority.pem, None), b"no certificate", (), now=NOW)


def test_a_chain_ends_in_a_root_and_helpers_may_be_in_the_file(
    authority: Authority, tmp_path: Path
) -> None:
    middle = Authority(tmp_path, "Middle CA", parent=authority)
    leaf = _der(middle.issue("a", ["a.example"]))
    helper = middle.certificate.public_bytes(Encoding.DER)
    check_client(read_trust(authority.pem, None), leaf, [helper], now=NOW)
    check_client(read_trust(authority.pem + middle.pem, None), leaf, [], now=NOW)
    with pytest.raises(CertificateRefused):
        check_client(read_trust(authority.pem, None), leaf, [], now=NOW)
    with pytest.raises(CertificateRefused):
        check_client(read_trust(middle.pem, None), leaf, [], now=NOW)


def test_revocation_needs_a_list_of_today_by_the_issuer(
    authority: Authority, tmp_path: Path
) -> None:
    good, bad = authority.issue("good", ["a.example"]), authority.issue("bad", ["a.example"])
    listed = authority.revoke("listed", bad).read_bytes()
    trust = read_trust(authority.pem, listed)
    check_client(trust, _der(good), (), now=NOW)
    for use in (check_client, lambda *a, now: check_server(*a, name="a.example", now=now)):
        with pytest.raises(CertificateRefused, match="revoked"):
            use(trust, _der(bad), (), now=NOW)
    old = authority.revoke("old", until=NOW - timedelta(hours=1)).read_bytes()
    early = authority.revoke("early", begin=NOW + timedelta(hours=1)).read_bytes()
    (tmp_path / "x").mkdir()
    forged = Authority(tmp_path / "x").revoke("forged").read_bytes()
    for other in (old, early, forged):
        with pytest.raises(CertificateRefused, match="no revocation list"):
            check_client(read_trust(authority.pem, other), _der(good), (), now=NOW)
    check_client(read_trust(authority.pem, old + listed), _der(good), (), now=NOW)


def test_what_cannot_be_read_is_refused(authority: Authority) -> None:
    for authorities, revocations in (
        (b"", None),
        (authority.pem[:-40], None),
        (authority.pem, b""),
        (authority.pem, b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
    ):
        with pytest.raises(LocalError):
            read_trust(authorities, revocations)
