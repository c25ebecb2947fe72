"""A certification authority for tests: certificates as they should be, and as they should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aaa.net.tls import TlsFiles

_YESTERDAY = datetime.now(UTC) - timedelta(days=1)
_TOMORROW = datetime.now(UTC) + timedelta(days=1)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def general_name(name: str) -> x509.GeneralName:
    """An iPAddress for an address, else a dNSName."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Issued:
    """A certificate, and where it and its key are."""

    certificate: x509.Certificate
    certificate_file: Path
    key_file: Path


class Authority:
    """One authority, self-signed or under `parent`, its files in `folder`."""

    def __init__(
        self, folder: Path, name: str = "Test CA", *, parent: Authority | None = None
    ) -> None:
        self.folder = folder
        self.name = name
        self._parent = parent
        self._key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (self, self._key) if parent is None else (parent, parent._key)
        builder = (
            self._begin(issuer, name, self._key.public_key(), _YESTERDAY, _TOMORROW)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        self.certificate = builder.sign(signer, hashes.SHA256())
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self.pem)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def _begin(
        self,
        issuer: Authority,
        name: str,
        key: ec.EllipticCurvePublicKey,
        begin: datetime,
        end: datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer._key.public_key()),
                critical=False,
            )
        )

    def issue(
        self,
        file: str,
        names: Sequence[str],
        *,
        common_name: str = "not to be looked at",
        until: datetime = _TOMORROW,
        usages: Sequence[x509.ObjectIdentifier] = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
    ) -> Issued:
        """A certificate with `names` in its subjectAltName, none without names."""
        key = ec.generate_private_key(ec.SECP256R1())
        begin = min(_YESTERDAY, until - timedelta(hours=1))
        builder = self._begin(self, common_name, key.public_key(), begin, until)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName([general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        if self._parent is not None:
            chain += self.pem
        issued = Issued(certificate, self.folder / f"{file}.pem", self.folder / f"{file}.key")
        issued.certificate_file.write_bytes(chain)
        issued.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        issued.key_file.chmod(0o600)
        return issued

    def revoke(
        self, file: str, *revoked: Issued, begin: datetime = _YESTERDAY, until: datetime = _TOMORROW
    ) -> Path:
        """The file of a revocation list."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(begin)
            .next_update(until)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.certificate.serial_number)
                .revocation_date(begin)
                .build()
            )
        path = self.folder / f"{file}.crl"
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def files(self, issued: Issued, *, revocations: Path | None = None) -> TlsFiles:
        """What a process needs that shows `issued` and trusts this authority."""
        return TlsFiles(issued.certificate_file, issued.key_file, self.file, revocations)


def bundle(file: Path, *authorities: Authority) -> Path:
    """A file that trusts several authorities."""
    file.write_bytes(b"".join(authority.pem for authority in authorities))
    return file
