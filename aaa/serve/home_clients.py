"""Who may ask a home: the clients of its file and those in its database, as one.

A change in the database is taken up within two seconds.  How a client is stored is kdc.store's
affair, what it may say the roles'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from aaa.config.home import HomeClient
from aaa.exchange import Peer
from aaa.net.mobile_ip import resolve
from aaa.net.udp import Address
from aaa.radius.admission import RateLimit
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.serve.client_policy import build_limits, limit_of, secrets_of
from aaa.serve.home_policy import build_peers, udp_clients
from aaa.serve.peer_requests import PeerAddress
from aaa.serve.process import split_address
from kdc.errors import LocalError, RemoteError
from kdc.store import Store
from kdc.store.radius_clients import StoredClient, load_radius_clients, radius_clients_version

ASK_EVERY_S: Final = 1.0
LOADED: Final = "home.clients.loaded"
REFUSED: Final = "home.clients.refused"
UNREADABLE: Final = "home.clients.unreadable"

log = structlog.get_logger("aaa.home")


@dataclass(frozen=True, slots=True)
class KnownClients:
    """Who may ask by UDP; what each may say and take, and where it is asked itself, by name."""

    clients: tuple[Client, ...]
    peers: Mapping[str, Peer]
    addresses: Mapping[str, PeerAddress]
    limits: Mapping[str, RateLimit]

    def table(self) -> ClientTable:
        """The clients by source; raises `LocalError` for one network of two."""
        return ClientTable(self.clients)

    def names_of(self, realm: str) -> list[str]:
        """Those who may speak for a lowered realm, in the order of file and database."""
        return [name for name, peer in self.peers.items() if peer.may_speak_for(realm)]


def configured_clients(clients: Iterable[HomeClient]) -> KnownClients:
    """Those of the file alone; raises `LocalError`, and `OSError` for a name without address."""
    items = tuple(clients)
    return KnownClients(
        tuple(udp_clients(items)),
        build_peers(items),
        {
            c.name: PeerAddress(resolve(*split_address(c.dynamic_authorization)), secrets_of(c))
            for c in items
            if c.dynamic_authorization is not None and secrets_of(c)
        },
        build_limits(items),
    )


def join_clients(
    configured: KnownClients,
    stored: Iterable[StoredClient],
    addresses: Mapping[str, Address],
    refuse: Callable[[str, str], None],
) -> KnownClients:
    """Both as one; what stands in the file is never displaced.

    `addresses` are those of stored clients for dynamic authorization, by name, `refuse` is told the
    name of each stored client that is left out and why.
    """
    clients = list(configured.clients)
    peers, reached = dict(configured.peers), dict(configured.addresses)
    limits = dict(configured.limits)
    networks = {client.network for client in clients}
    for each in stored:
        if each.name in configured.peers:
            refuse(each.name, "the file has a client of this name")
            continue
        if each.network in networks:
            refuse(each.name, f"the file has a client at {each.network}")
            continue
        try:
            client = Client(
                each.name,
                each.network,
                each.secrets,
                each.realms,
                require_message_authenticator=each.require_message_authenticator,
            )
        except LocalError as error:
            refuse(each.name, str(error))
            continue
        clients.append(client)
        peers[each.name] = Peer(each.name, each.realms)
        if each.requests_per_second is not None:
            limits[each.name] = limit_of(each.requests_per_second)
        if each.name in addresses:
            reached[each.name] = PeerAddress(addresses[each.name], each.secrets)
    return KnownClients(tuple(clients), peers, reached, limits)


class ClientWatch:
    """Hands on what is known of the clients whenever the database has changed.

    Names for dynamic authorization are looked up afterwards: who is disabled is not heard one
    second longer because another's name server does not answer.
    """

    def __init__(
        self,
        store: Store,
        configured: KnownClients,
        on_change: Callable[[KnownClients], None],
        counters: Counters,
    ) -> None:
        self._store = store
        self._configured = configured
        self._on_change = on_change
        self._counters = counters
        self._version: bytes | None = None
        self._stored: tuple[StoredClient, ...] = ()
        self._addresses: dict[str, Address] = {}  # by HOST:PORT, as far as they are known
        self._looking_up: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until cancelled.  While the database is away, those known last stay."""
        away = False
        while True:
            try:
                await self.refresh()
            except RemoteError:
                if not away:
                    log.warning("clients not looked up: the database is not reachable")
                away = True
            else:
                away = False
            await asyncio.sleep(ASK_EVERY_S)

    async def refresh(self) -> None:
        """Asks once; raises `DatabaseUnavailable`."""
        if await radius_clients_version(self._store) == self._version:
            return
        loaded = await load_radius_clients(self._store)
        for name in loaded.unreadable:
            self._counters.add(UNREADABLE)
            log.error("client left out: its secret does not open", client=name)
        self._version, self._stored = loaded.version, loaded.clients
        self._counters.add(LOADED)
        log.info("clients", stored=[each.name for each in loaded.clients])
        self._tell(self._refuse)
        self.close()
        self._looking_up = asyncio.get_running_loop().create_task(self._look_up(loaded.clients))

    def close(self) -> None:
        """Ends a look-up that is under way."""
        if self._looking_up is not None:
            self._looking_up.cancel()

    def _tell(self, refuse: Callable[[str, str], None]) -> None:
        addresses = {
            each.name: self._addresses[each.dynamic_authorization]
            for each in self._stored
            if each.dynamic_authorization in self._addresses
        }
        self._on_change(join_clients(self._configured, self._stored, addresses, refuse))

    def _refuse(self, name: str, reason: str) -> None:
        self._counters.add(REFUSED)
        log.warning("client left out", client=name, reason=reason)

    async def _look_up(self, clients: Iterable[StoredClient]) -> None:
        """Beside the loop, one after the other; what has been found before stays until then."""
        for client in clients:
            where = client.dynamic_authorization
            if where is None:
                continue
            try:
                found = await asyncio.to_thread(resolve, *split_address(where))
            except (OSError, ValueError):  # no such name, or no address that `kdc client` takes
                log.warning("no address for dynamic authorization", client=client.name)
                continue
            if self._addresses.get(where) != found:
                self._addresses[where] = found
                self._tell(lambda _name, _reason: None)  # that was told at the first time
