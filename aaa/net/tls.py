"""TLS between RADIUS peers (RFC 6614 §2.3): contexts from files, and the names of who came.

Both ends show a certificate, and only the authorities of one file are trusted, never the system's.
Which peer a name belongs to is aaa.radius.tls_peers'.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NoReturn, cast

from aaa.radius.tls_peers import PeerName
from kdc.config import check_secret_file
from kdc.crypto.certificates import Trust, check_client, check_server, read_trust
from kdc.errors import LocalError

# TLS 1.2 with forward secrecy and authenticated encryption alone (RFC 9325 §4.2); those of TLS 1.3
# are OpenSSL's own.  RFC 6614 §2.3's RSA and 3DES suites have neither.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_LARGEST_FILE_OCTETS: Final = 4 * 1024 * 1024
_FIRST_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)
# RFC 9765 §3: the version of RADIUS is agreed by ALPN; who offers none speaks 1.0.
_NEWEST_FIRST: Final = ("1.1", "1.0")
_NO_ALPN: Final = "1.0"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where our certificate (our chain in PEM, the own one first), key and trust are."""

    certificate: Path
    key: Path
    authorities: Path
    revocations: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """Contexts for new connections of both directions, and the trust to judge older ones by."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    trust: Trust
    leaf: bytes  # our own certificate, DER
    versions: frozenset[str] = frozenset({"1.0"})  # of RADIUS, that we speak


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a handshake has verified: a certificate (DER), its names, and what led to its root."""

    names: frozenset[PeerName]
    leaf: bytes
    intermediates: tuple[bytes, ...]  # known from Python 3.13 on; without them more is refused

    def check_client(self, trust: Trust) -> None:
        """Raises `CertificateRefused` unless a client may still show it."""
        check_client(trust, self.leaf, self.intermediates, now=datetime.now(UTC))

    def check_server(self, trust: Trust, name: PeerName) -> None:
        """Raises `CertificateRefused` unless the server `name` may still show it."""
        check_server(trust, self.leaf, self.intermediates, name=name, now=datetime.now(UTC))


def load_contexts(files: TlsFiles, versions: Collection[str] = ("1.0",)) -> TlsContexts:
    """Reads all files at once; raises `LocalError` naming the file and what was expected of it.

    `versions` of RADIUS, "1.0" and "1.1", are offered and taken (RFC 9765 §3.3).
    """
    authorities = _read(files.authorities)
    revocations = _read(files.revocations) if files.revocations is not None else None
    try:
        trust = read_trust(authorities, None)
    except LocalError as error:
        raise _fault(files.authorities, str(error)) from None
    if revocations is not None:
        try:
            trust = read_trust(authorities, revocations)
        except LocalError as error:
            raise _fault(files.revocations, str(error)) from None
    try:
        check_secret_file(files.key)
    except ValueError as error:
        raise _fault(files.key, str(error)) from None
    return TlsContexts(
        server=_context(ssl.PROTOCOL_TLS_SERVER, files, authorities, versions),
        client=_context(ssl.PROTOCOL_TLS_CLIENT, files, authorities, versions),
        trust=trust,
        leaf=_own_certificate(files.certificate),
        versions=frozenset(versions),
    )


def _own_certificate(file: Path) -> bytes:
    """The first one of the file, DER."""
    found = _FIRST_CERTIFICATE.search(_read(file))
    if found is None:
        raise _fault(file, "expected a certificate in PEM, and its key")
    return ssl.PEM_cert_to_DER_cert(found[0].decode("ascii", "replace"))


def _context(
    protocol: int, files: TlsFiles, authorities: bytes, versions: Collection[str]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "1.0" not in versions:  # RFC 9765 §3.4; see `agreed_version` for both
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([f"radius/{each}" for each in _NEWEST_FIRST if each in versions])
    # Names are matched by us: OpenSSL would take wildcards.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_ciphers(_CIPHERS)
    # A resumed session is not verified again: no tickets, and `was_resumed` refuses the rest.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    _load_identity(context, files)
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise _fault(files.authorities, "expected certificates in PEM") from None
    if files.revocations is not None:
        _load_revocations(context, files.revocations)
    return context


def _load_identity(context: ssl.SSLContext, files: TlsFiles) -> None:
    def refuse() -> NoReturn:
        # Without it OpenSSL would ask a terminal.
        raise LocalError(f"{files.key}: expected a key that is not encrypted")

    try:
        context.load_cert_chain(files.certificate, files.key, password=refuse)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = error.reason if isinstance(error, ssl.SSLError) else None
        if reason == "KEY_VALUES_MISMATCH":
            raise _fault(files.key, f"expected the key of {files.certificate}") from None
        raise _fault(files.certificate, "expected a certificate in PEM, and its key") from None


def _load_revocations(context: ssl.SSLContext, file: Path) -> None:
    before = context.cert_store_stats()
    try:
        context.load_verify_locations(cafile=file)
    except OSError:
        raise _fault(file, "expected certificate revocation lists in PEM") from None
    after = context.cert_store_stats()
    # OpenSSL would trust a certificate in this file as well.
    if after["x509"] != before["x509"] or after["crl"] == before["crl"]:
        raise _fault(file, "expected certificate revocation lists and nothing else")
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            octets = opened.read(_LARGEST_FILE_OCTETS + 1)
    except OSError as error:
        raise _fault(file, f"expected a file that we can read: {error.strerror}") from None
    if len(octets) > _LARGEST_FILE_OCTETS:
        raise _fault(file, f"expected at most {_LARGEST_FILE_OCTETS} octets")
    return octets


def _fault(file: Path | None, expected: str) -> LocalError:
    return LocalError(f"{file}: {expected}")


def peer_certificate(connection: ssl.SSLObject) -> PeerCertificate:
    """What the peer has shown, its names in lower case; no names if nothing was verified."""
    names: set[PeerName] = set()
    decoded = connection.getpeercert() or {}
    alternatives = cast("tuple[tuple[str, str], ...]", decoded.get("subjectAltName", ()))
    for kind, value in alternatives:
        if kind == "DNS":
            names.add(value.lower())
        elif kind == "IP Address":
            try:
                names.add(ip_address(value.strip()))
            except ValueError:
                continue  # of an impossible length: the name of nobody
    # Python 3.13 has it; before, an intermediate must be in our own file for a second look.
    chain: list[bytes] = getattr(connection, "get_unverified_chain", list)()
    return PeerCertificate(
        frozenset(names), connection.getpeercert(binary_form=True) or b"", tuple(chain[1:])
    )


def was_resumed(connection: ssl.SSLObject) -> bool:
    """Whether the session stands on the verification of an earlier one."""
    return bool(connection.session_reused)


def agreed_version(connection: ssl.SSLObject, versions: Collection[str]) -> str | None:
    """The version of RADIUS that a handshake has agreed on; None: none that we speak.

    Python's ssl cannot send the alert of RFC 9765 §3.3: such a connection is closed after its
    handshake.  1.1 needs TLS 1.3 (§3.4).
    """
    protocol = connection.selected_alpn_protocol()
    version = protocol.removeprefix("radius/") if protocol is not None else _NO_ALPN
    if version not in versions or (version == "1.1" and connection.version() != "TLSv1.3"):
        return None
    return version
