"""What a home with a database does beside registrations, joined to its home server.

Accounting, dynamic authorization and the clients in the database stand in files of their own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from functools import partial

import structlog

from aaa.config import HomeConfig
from aaa.radius.counters import Counters
from aaa.radius.ports import ACCOUNTING
from aaa.serve.home_accounting import HomeAccounting
from aaa.serve.home_clients import ClientWatch, KnownClients, configured_clients
from aaa.serve.home_dynauth import PATIENCE, DynamicAuthorization, StoredOutbox
from aaa.serve.home_server import HomeServer
from aaa.serve.peer_requests import PeerRequests
from aaa.serve.process import split_address
from aaa.serve.watch import Watch
from kdc.errors import RemoteError
from kdc.store import Store, accounting

log = structlog.get_logger("aaa.home")


class HomeServices:
    """Beside `server`, whose clients they keep up to date."""

    def __init__(
        self,
        config: HomeConfig,
        store: Store,
        server: HomeServer,
        watch: Watch,
        counters: Counters,
    ) -> None:
        """Before `server` is reached over TLS."""
        home = config.home
        known = configured_clients(config.client)
        self._server = server
        self._listen = home.accounting_listen
        self._requests = PeerRequests(
            known.addresses, counters, PATIENCE, connections=server.radius, observer=watch
        )
        self.accounting = HomeAccounting(
            partial(accounting.record, store),
            known.peers,
            counters,
            realm=home.realm,
            vendor_id=home.vendor_id,
        )
        server.radius.serve(ACCOUNTING, self.accounting.on_requests)
        self._dynauth = DynamicAuthorization(
            StoredOutbox(store, _node()),
            known,
            self._requests,
            counters,
            realm=home.realm,
            vendor_id=home.vendor_id,
        )
        self._exceptions = watch
        self._watch = ClientWatch(store, known, self._on_clients, counters)
        self._tasks: list[asyncio.Task[None]] = []

    def _on_clients(self, known: KnownClients) -> None:
        """All of it in one turn of the loop: no request sees one part old and another new."""
        self._server.radius.clients = known.table()
        self._server.door.limits.replace(known.limits)
        self._exceptions.warn_of_exceptions(known.clients)
        self._server.peers = self.accounting.peers = known.peers
        self._requests.addresses = known.addresses
        self._dynauth.clients = known

    async def start(self) -> None:
        """Binds and begins; raises `OSError` if an address cannot be bound."""
        try:
            await self._watch.refresh()
        except RemoteError:
            log.warning("clients not looked up: the database is not reachable")
        for address in self._listen:
            endpoint = self._server.radius.listen(split_address(address), ACCOUNTING)
            log.info("accounting", address=":".join(map(str, endpoint.address)))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watch.run()), loop.create_task(self._dynauth.run())]
        for task in self._tasks:
            task.add_done_callback(_tell_mistake)

    async def drain(self) -> None:
        """Takes nothing more in, and waits for what is under way."""
        for task in self._tasks:
            task.cancel()
        await self.accounting.drain()
        await self._dynauth.drain()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._watch.close()
        self._dynauth.close()


def _tell_mistake(task: asyncio.Task[None]) -> None:
    """A bug is told to the loop's handler at once, not when the process ends."""
    if not task.cancelled():
        task.result()


def _node() -> str:
    """A name that no other process has, and that tells an operator which one it is."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
