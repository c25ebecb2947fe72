"""All ways by which RADIUS comes to one AAA server: UDP, one kind of port each, and TLS.

Every verified request, whichever way it has come, is a transaction for one callback; the way back
to a peer over the TLS connection that it has opened is here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final

import structlog

from aaa import config
from aaa.net.radsec_server import RadsecServer
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.tls import TlsContexts
from aaa.net.transactions import Transaction
from aaa.net.udp import Address, UdpEndpoint
from aaa.radius import ports
from aaa.radius.clients import ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import Attributes, VerifiedResponse
from aaa.radius.ports import Port
from aaa.radius.tls_peers import TlsPeerTable
from aaa.serve.door import Door
from aaa.serve.process import split_address
from aaa.serve.radius_server import RadiusServer
from aaa.serve.radsec import client_table, read_contexts

DRAIN_S: Final = 10.0

log = structlog.get_logger("aaa.radius")


@dataclass(frozen=True, slots=True)
class TlsSide:
    """Who may come over TLS, and what reads our certificate and trust, at each reload again."""

    peers: TlsPeerTable
    read: Callable[[], TlsContexts]


def tls_side(
    listen: tuple[str, ...],
    settings: config.TlsSettings | None,
    clients: Iterable[config.RadiusClient],
) -> TlsSide | None:
    """What a server over TLS needs, where it is to listen: then the configuration has the files.

    Raises `LocalError` for a name of two clients.
    """
    if not listen or settings is None:
        return None
    return TlsSide(client_table(clients), partial(read_contexts, settings))


Handler = Callable[[list[Transaction]], None]


class RadiusFront:
    """`on_requests` gets Access-Requests, other handlers what `serve` says.

    `client.name` is the key to a peer, by UDP and by TLS.
    """

    def __init__(
        self,
        clients: ClientTable,
        counters: Counters,
        on_requests: Handler,
        door: Door | None = None,
    ) -> None:
        """What comes through the `door` alone is handed on; without one all of it is."""
        self._clients = clients
        self._counters = counters
        self._door = door or Door(counters)
        self._handlers: dict[Port, Handler] = {}
        self.serve(ports.AUTHENTICATION, on_requests)
        self._by_code: dict[int, Handler] = {}
        self._udp: dict[Port, RadiusServer] = {}
        self._tls_side: TlsSide | None = None
        self._tls: RadsecServer | None = None

    def serve(self, port: Port, handler: Handler) -> None:
        """Requests of one more kind of port; before `listen` and `add_tls`."""
        self._handlers[port] = lambda transactions: handler(self._door.admit(transactions))

    def add_tls(self, side: TlsSide | None) -> None:
        """One port for all codes that have a handler; others are counted and passed over.

        Inside the event loop; raises `LocalError` for certificates that cannot be read.
        """
        if side is None:
            return
        self._tls_side = side
        self._by_code = {
            code: handler for port, handler in self._handlers.items() for code in port.requests
        }
        port = replace(ports.TLS, requests=frozenset(self._by_code))
        self._tls = RadsecServer(
            side.peers,
            side.read(),
            self._counters,
            self._on_tls_requests,
            port=port,
            observer=self._door.observer,
        )

    def _on_tls_requests(self, transactions: list[RadsecTransaction]) -> None:
        for handler, group in groupby(transactions, lambda each: self._by_code[each.request.code]):
            handler(list(group))

    def udp(self, port: Port) -> RadiusServer:
        """The server of one kind of port."""
        server = self._udp.get(port)
        if server is None:
            server = RadiusServer(
                self._clients,
                self._counters,
                self._handlers[port],
                port=port,
                observer=self._door.observer,
            )
            self._udp[port] = server
        return server

    def listen(self, address: Address, port: Port = ports.AUTHENTICATION) -> UdpEndpoint:
        """By UDP; raises `OSError` if the address cannot be bound."""
        return self.udp(port).listen(address)

    def listen_tls(self, address: Address) -> Address:
        """The address bound; raises `OSError` if it cannot be.  Only after `add_tls`."""
        assert self._tls is not None
        return self._tls.listen(address)

    def listen_all(
        self,
        by_udp: tuple[str, ...],
        by_tls: tuple[str, ...],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """What a configuration names, one line of the log each; raises `OSError`."""
        for address in by_udp:
            bound = self.listen(split_address(address)).address
            log.info("listening", address=":".join(map(str, bound[:2])))
        for address in by_tls:
            bound = self.listen_tls(split_address(address))
            log.info("listening", transport="tls", address=":".join(map(str, bound)))

    @property
    def clients(self) -> ClientTable:
        """Those by UDP; may be replaced at any time."""
        return self._clients

    @clients.setter
    def clients(self, clients: ClientTable) -> None:
        self._clients = clients
        for server in self._udp.values():
            server.clients = clients

    def reload(self) -> None:
        """Reads the certificates again and re-checks every peer that is connected.

        Raises `LocalError` for what cannot be read; all stays as it was then.
        """
        if self._tls is not None and self._tls_side is not None:
            self._tls.reload(self._tls_side.read(), self._tls_side.peers)

    def has_connection(self, peer_name: str) -> bool:
        """Whether `exchange` has a way to a peer now: a TLS connection that it has opened."""
        return self._tls is not None and self._tls.has_connection(peer_name)

    async def exchange(
        self, peer_name: str, code: int, attributes: Attributes, deadline_s: float
    ) -> VerifiedResponse:
        """As `RadsecServer.exchange`, which see."""
        if self._tls is None:
            raise NoAnswer("no TLS here")
        return await self._tls.exchange(peer_name, code, attributes, deadline_s)

    def stop_receiving(self) -> None:
        """No further request; what has been handed on can still be answered."""
        for server in self._udp.values():
            server.stop_receiving()
        if self._tls is not None:
            self._tls.stop_receiving()

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """After `stop_receiving`: waits for the transactions that have come over TLS."""
        if self._tls is not None and not await self._tls.drain(within_s):
            log.warning("not answered before the end", transactions=self._tls.in_flight)

    async def close(self) -> None:
        for server in self._udp.values():
            server.close()
        if self._tls is not None:
            await self._tls.close()
