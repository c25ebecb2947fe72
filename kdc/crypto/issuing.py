"""Certificates for the hops that speak TLS: an authority of our own and what it signs (RFC 5280).

For homes without a public-key infrastructure, for tests and the demo.  How certificates are judged
is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kdc.errors import LocalError
from kdc.model import IpAddress, Secret

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_OCTETS: Final = 40  # FIPS 186-5 A.2.1: 64 bits more than the order has
_SERIAL_OCTETS: Final = 16
_BACKDATED: Final = timedelta(minutes=5)  # clocks that run a little behind

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: Secret = field(repr=False)


def create_authority(name: str, *, now: datetime, entropy: Entropy) -> Credential:
    """A self-signed authority for ten years."""
    key = _generate(entropy)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, key, now, AUTHORITY_DAYS, entropy)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    return _signed(builder, key, key)


def issue_certificate(
    authority: Credential, names: Sequence[str | IpAddress], *, now: datetime, entropy: Entropy
) -> Credential:
    """A certificate of one party, client and server, for a year, with `names` as its SANs.

    Raises `LocalError` for no name, or an authority whose files do not belong together.
    """
    if not names:
        raise LocalError("expected at least one name: a peer is known by its subjectAltName alone")
    signer = _load_key(authority.key)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    if issuer.public_key() != signer.public_key():
        raise LocalError("expected the key of this authority, not another's")
    key = _generate(entropy)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0])[:64])])
    general: list[x509.GeneralName] = [
        x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name) for name in names
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _builder(subject, key, now, CERTIFICATE_DAYS, entropy)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(general), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return _signed(builder, key, signer)


def _generate(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(entropy(_SCALAR_OCTETS), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, _CURVE)


def _load_key(key: Secret) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = load_pem_private_key(key.reveal(), password=None)
    except ValueError:
        raise LocalError("expected a private key in PEM without a password") from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise LocalError("expected an elliptic-curve key, such as our own authorities have")
    return loaded


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    entropy: Entropy,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(entropy(_SERIAL_OCTETS), "big") >> 1 | 1)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> Credential:
    # RFC 6979: the signature draws no randomness that nobody has handed in.
    certificate = builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    return Credential(
        certificate.public_bytes(Encoding.PEM),
        Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    )
