"""[tls] and the parties on the other side of it (RFC 6614)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aaa.config.fields import Addresses, CertificateName, Network, SocketAddress
from aaa.policy import NotEmpty
from kdc.config import ConfiguredPath, SecretPath, SharedSecret, StrictModel, Text
from kdc.model import Secret


class TlsSettings(StrictModel):
    """[tls]: what we show to peers, and by whom theirs are signed."""

    certificate_file: ConfiguredPath
    key_file: SecretPath
    ca_file: ConfiguredPath
    crl_file: ConfiguredPath | None = None
    # RFC 9765 §3.3: offered and taken; with "1.1" alone nobody is spoken to in the old form.
    radius_versions: Annotated[tuple[Literal["1.0", "1.1"], ...], NotEmpty] = ("1.0", "1.1")


class TlsPeer(StrictModel):
    """One party over TLS: its certificate bears at least one of these as a subjectAltName."""

    name: Text
    san: Annotated[tuple[CertificateName, ...], NotEmpty]


class TlsServer(TlsPeer):
    """A server over TLS, by name or number."""

    address: SocketAddress


class RadiusClient(StrictModel):
    """A RADIUS client: over TLS by `san`, by UDP where `address` and `secret_file` say so, or both.

    Between realms UDP shows names and addresses to listeners (PROTOCOL section 9): no client comes
    by UDP that does not have it written down.
    """

    name: Text
    address: Network | None = None
    secret_file: SharedSecret | None = Field(default=None, repr=False)
    san: tuple[CertificateName, ...] = ()
    # Where it takes Disconnect- and CoA-Requests by UDP; over TLS they go back the way it comes.
    dynamic_authorization: SocketAddress | None = None

    @property
    def by_udp(self) -> tuple[str, Secret] | None:
        """Its network and the shared secret."""
        if self.address is None or self.secret_file is None:
            return None
        return self.address, self.secret_file

    @model_validator(mode="after")
    def _has_a_way(self) -> Self:
        if (self.address is None) != (self.secret_file is None):
            raise ValueError("expected both address and secret_file of a client by UDP")
        if self.address is None and not self.san:
            raise ValueError(
                "expected san (a client over TLS) or address and secret_file (by UDP), or all"
            )
        if self.dynamic_authorization is not None and self.secret_file is None:
            raise ValueError("expected address and secret_file beside dynamic_authorization")
        return self


class RadiusServer(StrictModel):
    """A RADIUS server: over TLS with `san`, by UDP with `secret_file`."""

    secret_file: SharedSecret | None = Field(default=None, repr=False)
    san: tuple[CertificateName, ...] = ()

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
        if bool(self.san) == (self.secret_file is not None):
            raise ValueError("expected either san (a server over TLS) or secret_file (by UDP)")
        return self


class Listening(StrictModel):
    """Where RADIUS clients may come."""

    listen: Addresses = ()
    tls_listen: Addresses = ()

    @model_validator(mode="after")
    def _listens(self) -> Self:
        if not self.listen and not self.tls_listen:
            raise ValueError("expected listen (UDP) or tls_listen (TLS)")
        return self


def check_ways(
    listening: Listening, tls: TlsSettings | None, clients: Iterable[RadiusClient]
) -> None:
    """Raises `ValueError` where a client has a way that we do not listen on."""
    if listening.tls_listen and tls is None:
        raise ValueError("expected [tls] beside tls_listen: certificate, key and ca_file")
    for client in clients:
        if client.san and not listening.tls_listen:
            raise ValueError(f"client {client.name} has san: expected tls_listen")
        if client.address is not None and not listening.listen:
            raise ValueError(f"client {client.name} has address: expected listen")


def check_servers(tls: TlsSettings | None, servers: Iterable[RadiusServer]) -> None:
    """Raises `ValueError` for a server over TLS to which we could show nothing."""
    if tls is None and any(each.san for each in servers):
        raise ValueError("expected [tls] for a server with san: certificate, key and ca_file")
