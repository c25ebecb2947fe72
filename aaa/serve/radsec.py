"""From what an operator wrote about TLS to what aaa.net takes: contexts, peers, servers."""

from __future__ import annotations

from collections.abc import Iterable

from aaa import config
from aaa.net.radsec_upstream import RadsecTarget
from aaa.net.tls import TlsContexts, TlsFiles, load_contexts
from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from aaa.serve.process import split_address


def read_contexts(settings: config.TlsSettings) -> TlsContexts:
    """Reads the files, at the start and at each reload; raises `LocalError` naming the file."""
    return load_contexts(
        TlsFiles(
            certificate=settings.certificate_file,
            key=settings.key_file,
            authorities=settings.ca_file,
            revocations=settings.crl_file,
        )
    )


def peer_table(peers: Iterable[config.TlsPeer]) -> TlsPeerTable:
    """Raises `LocalError` for a name of two peers."""
    return TlsPeerTable(map(_peer, peers))


def targets(servers: Iterable[config.TlsServer]) -> tuple[RadsecTarget, ...]:
    """In the order of the file: the first one is asked first."""
    return tuple(RadsecTarget(_peer(each), split_address(each.address)) for each in servers)


def _peer(peer: config.TlsPeer) -> TlsPeer:
    return TlsPeer(peer.name, frozenset(peer.san))
