"""Who may speak RADIUS over TLS to us, found by the names in a certificate that was verified.

A name is a whole dNSName or iPAddress of the subjectAltName (RFC 5280 §4.2.1.6); wildcards and the
Common Name are nobody's.  How a certificate is verified is aaa.net.tls's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdc.errors import LocalError
from kdc.model import IpAddress

PeerName = str | IpAddress  # a DNS name in lower case, or an address


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """One party at the other end of TLS.  Raises `LocalError` if it has no name to be known by."""

    name: str  # ours, for the log and for what the process has configured for it
    names: frozenset[PeerName]  # its certificate bears at least one of these

    def __post_init__(self) -> None:
        if not self.names:
            raise LocalError(f"peer {self.name}: no name of its certificate is configured")

    def matches(self, names: frozenset[PeerName]) -> PeerName | None:
        """One of the names of a certificate that is this peer's, the same one each time."""
        return min(self.names & names, key=str, default=None)


class TlsPeerTable:
    """Peers by the names of their certificates.  Raises `LocalError` for a name given twice."""

    __slots__ = ("_by_name",)

    def __init__(self, peers: Iterable[TlsPeer]) -> None:
        self._by_name: dict[PeerName, TlsPeer] = {}
        for peer in peers:
            for name in peer.names:
                if name in self._by_name:
                    raise LocalError(
                        f"peers {self._by_name[name].name} and {peer.name}: the same name {name}"
                    )
                self._by_name[name] = peer

    def find(self, names: Iterable[PeerName]) -> TlsPeer | None:
        """The peer whose certificate bears `names`; None for nobody's and for that of two."""
        found = {peer.name: peer for name in names if (peer := self._by_name.get(name))}
        return next(iter(found.values())) if len(found) == 1 else None
