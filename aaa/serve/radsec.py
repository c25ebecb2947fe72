"""From what an operator wrote about TLS to what aaa.net takes: contexts, peers, servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from aaa import config
from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_link import Watchdog
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.radsec_upstream import ClientLimits, RadsecTarget
from aaa.net.tls import TlsContexts, TlsFiles, load_contexts
from aaa.net.transactions import Transaction
from aaa.radius.counters import Counters
from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from aaa.serve.process import split_address
from kdc.errors import LocalError
from kdc.model import IpAddress


def read_contexts(settings: config.TlsSettings) -> TlsContexts:
    """Reads the files, at the start and at each reload; raises `LocalError` naming the file."""
    return load_contexts(
        TlsFiles(
            certificate=settings.certificate_file,
            key=settings.key_file,
            authorities=settings.ca_file,
            revocations=settings.crl_file,
        ),
        settings.radius_versions,
    )


def peer_table(peers: Iterable[config.TlsPeer]) -> TlsPeerTable:
    """Raises `LocalError` for a name of two peers."""
    return TlsPeerTable(map(_peer, peers))


def targets(servers: Iterable[config.TlsServer]) -> tuple[RadsecTarget, ...]:
    """In the order of the file: the first one is asked first."""
    return tuple(RadsecTarget(_peer(each), split_address(each.address)) for each in servers)


def _peer(peer: config.TlsPeer) -> TlsPeer:
    return TlsPeer(peer.name, frozenset(peer.san))


def client_table(clients: Iterable[config.RadiusClient]) -> TlsPeerTable:
    """Those of the clients that may come over TLS; raises `LocalError` for a name of two."""
    return TlsPeerTable(TlsPeer(c.name, frozenset(c.san)) for c in clients if c.san)


def limits_within(deadline_s: float) -> ClientLimits:
    """A server that has come back, after however long, is found by a request that is waiting."""
    return ClientLimits(
        deadline_s=deadline_s, connect_s=min(2.0, deadline_s / 2), backoff_maximum_s=deadline_s
    )


def watchdog_within(deadline_s: float) -> Watchdog:
    """A server that has frozen is given up while there is time to ask again or the next one."""
    return Watchdog(owed_s=deadline_s / 4, answer_s=deadline_s / 4)


class OverTls(Protocol):
    """A configured server; `san` is empty for one that is not asked over TLS."""

    @property
    def name(self) -> str: ...

    @property
    def san(self) -> tuple[str | IpAddress, ...]: ...


class TlsServers:
    """A client for each of the servers that a process asks over TLS, reloaded and closed as one.

    `servers` stand with their addresses.
    """

    def __init__(
        self,
        settings: config.TlsSettings | None,
        servers: Iterable[tuple[OverTls, str]],
        counters: Counters,
        *,
        deadline_s: float,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """Inside the event loop; raises `LocalError` for certificates that cannot be read."""
        self._settings = settings
        self._clients: dict[str, RadsecClient] = {}
        asked = [(server, address) for server, address in servers if server.san]
        if not asked:
            return
        contexts = self._read()
        for server, address in asked:
            peer = TlsPeer(server.name, frozenset(server.san))
            self._clients[server.name] = RadsecClient(
                [RadsecTarget(peer, split_address(address))],
                contexts,
                counters,
                limits=limits_within(deadline_s),
                observer=observer,
                # The usual watchdog: pools find another server in time, and one that is only slow
                # is not to lose its connection with all that is under way.
            )

    def take_requests(self, handler: Callable[[list[Transaction]], None]) -> None:
        """`handler` gets the Disconnect- and CoA-Requests of the servers from now on.

        They come over our connections, which are opened for it; `client.name` is the server's.
        """

        def on_requests(transactions: list[RadsecTransaction]) -> None:
            handler(list(transactions))

        for client in self._clients.values():
            client.on_requests = on_requests
            client.connect()

    def _read(self) -> TlsContexts:
        if self._settings is None:
            raise LocalError("expected [tls] for a server over TLS")
        return read_contexts(self._settings)

    def to(self, name: str) -> RadsecClient:
        """The client of one of the servers."""
        return self._clients[name]

    def reload(self) -> None:
        """Reads the certificates again and re-checks every server that is connected."""
        if self._clients:
            contexts = self._read()
            for client in self._clients.values():
                client.reload(contexts)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
