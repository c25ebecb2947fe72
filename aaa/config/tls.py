"""[tls] and the parties on the other side of it (RFC 6614)."""

from __future__ import annotations

from typing import Annotated

from aaa.config.fields import CertificateName, SocketAddress
from aaa.policy import NotEmpty
from kdc.config import ConfiguredPath, SecretPath, StrictModel, Text


class TlsSettings(StrictModel):
    """[tls]: what we show to peers, and by whom theirs are signed."""

    certificate_file: ConfiguredPath
    key_file: SecretPath
    ca_file: ConfiguredPath
    crl_file: ConfiguredPath | None = None


class TlsPeer(StrictModel):
    """One party over TLS: its certificate bears at least one of these as a subjectAltName."""

    name: Text
    san: Annotated[tuple[CertificateName, ...], NotEmpty]


class TlsServer(TlsPeer):
    """A server over TLS, by name or number."""

    address: SocketAddress
