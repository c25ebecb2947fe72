"""[tls] and the parties on the other side of it (RFC 6614)."""

from __future__ import annotations

from typing import Annotated

from aaa.config.fields import CertificateName, SocketAddress
from aaa.net.tls import TlsFiles
from aaa.policy import NotEmpty
from aaa.radius import tls_peers
from kdc.config import ConfiguredPath, SecretPath, StrictModel, Text


class TlsSettings(StrictModel):
    """[tls]: what we show to peers, and by whom theirs are signed."""

    certificate_file: ConfiguredPath
    key_file: SecretPath
    ca_file: ConfiguredPath
    crl_file: ConfiguredPath | None = None

    def files(self) -> TlsFiles:
        return TlsFiles(self.certificate_file, self.key_file, self.ca_file, self.crl_file)


class TlsPeer(StrictModel):
    """One party over TLS: its certificate bears at least one of these as a subjectAltName."""

    name: Text
    san: Annotated[tuple[CertificateName, ...], NotEmpty]

    def peer(self) -> tls_peers.TlsPeer:
        return tls_peers.TlsPeer(self.name, frozenset(self.san))


class TlsServer(TlsPeer):
    """A server over TLS, by name or number."""

    address: SocketAddress
