"""Judges a peer's certificate again after its handshake: does what we trust now still reach it?

The handshake itself is OpenSSL's (aaa.net.tls), which also reads names and keys.  This one is the
stricter of the two in places (RFC 5280 with the web's profile), so a doubtful peer loses one
connection and comes back through a handshake; it never keeps one that a handshake would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from kdc.errors import LocalError, RemoteError

_REVOCATIONS: Final = re.compile(
    rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL
)  # RFC 7468 §6
# What pyca raises for octets that are no certificate, or one of a kind that it does not know.
_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType)


class CertificateRefused(RemoteError):
    """What we trust does not reach this certificate, or it is revoked or out of its time."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we trust: certification authorities, and what they have revoked (None: not asked)."""

    authorities: tuple[x509.Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...] | None


def read_trust(authorities: bytes, revocations: bytes | None) -> Trust:
    """The trust in PEM texts; raises `LocalError` for what cannot be read or is empty."""
    try:
        certificates = x509.load_pem_x509_certificates(authorities)
    except _UNREADABLE:
        raise LocalError("expected certificates in PEM") from None
    if revocations is None:
        return Trust(tuple(certificates), None)
    try:
        lists = [x509.load_pem_x509_crl(text) for text in _REVOCATIONS.findall(revocations)]
    except _UNREADABLE:
        lists = []
    if not lists:
        raise LocalError("expected certificate revocation lists in PEM")
    return Trust(tuple(certificates), tuple(lists))


def check_client(
    trust: Trust, leaf: bytes, intermediates: Iterable[bytes], *, now: datetime
) -> None:
    """Raises `CertificateRefused` unless `leaf` (DER) may be a TLS client's at `now`."""
    builder, certificate, others = _begin(trust, leaf, intermediates, now)
    try:
        chain = builder.build_client_verifier().verify(certificate, others).chain
    except (VerificationError, *_UNREADABLE):
        raise CertificateRefused("no chain to an authority of ours") from None
    _check_revocations(trust, chain, now)


def check_server(
    trust: Trust,
    leaf: bytes,
    intermediates: Iterable[bytes],
    *,
    name: str | IPv4Address | IPv6Address,
    now: datetime,
) -> None:
    """Raises `CertificateRefused` unless `leaf` (DER) may be the TLS server `name`'s at `now`."""
    builder, certificate, others = _begin(trust, leaf, intermediates, now)
    subject = x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)
    try:
        chain = builder.build_server_verifier(subject).verify(certificate, others)
    except (VerificationError, *_UNREADABLE):
        raise CertificateRefused("no chain to an authority of ours") from None
    _check_revocations(trust, chain, now)


def _begin(
    trust: Trust, leaf: bytes, intermediates: Iterable[bytes], now: datetime
) -> tuple[PolicyBuilder, x509.Certificate, list[x509.Certificate]]:
    # As OpenSSL has it, a chain ends in a self-signed certificate of the file; the other
    # certificates there only help to build it.
    roots = [each for each in trust.authorities if each.issuer == each.subject]
    others = [each for each in trust.authorities if each.issuer != each.subject]
    if not roots:
        raise CertificateRefused("no authority to end a chain in")
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        others += [x509.load_der_x509_certificate(each) for each in intermediates]
    except _UNREADABLE:
        raise CertificateRefused("a certificate that cannot be read") from None
    return PolicyBuilder().store(Store(roots)).time(now), certificate, others


def _check_revocations(trust: Trust, chain: list[x509.Certificate], now: datetime) -> None:
    """Every certificate but the last needs a current list of its issuer (RFC 5280 §6.3)."""
    if trust.revocations is None:
        return
    for certificate, issuer in pairwise(chain):
        current = [
            each
            for each in trust.revocations
            if each.issuer == certificate.issuer and _is_current(each, issuer, now)
        ]
        if not current:
            raise CertificateRefused("no revocation list of today")
        serial = certificate.serial_number
        if any(each.get_revoked_certificate_by_serial_number(serial) for each in current):
            raise CertificateRefused("revoked")


def _is_current(
    revocations: x509.CertificateRevocationList, issuer: x509.Certificate, now: datetime
) -> bool:
    until = revocations.next_update_utc
    if revocations.last_update_utc > now or (until is not None and until <= now):
        return False
    try:
        return revocations.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, *_UNREADABLE):
        return False
