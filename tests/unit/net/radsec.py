"""The parties of the tests of RADIUS over TLS: an authority, servers, raw and real clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_link import Watchdog
from aaa.net.radsec_server import RadsecServer
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.radsec_upstream import ClientLimits, RadsecTarget
from aaa.net.server_connection import ServerConnection, ServerLimits
from aaa.net.tls import TlsContexts, load_contexts
from aaa.net.udp import Address
from aaa.radius.counters import Counters
from aaa.radius.packet import RADSEC_SECRET, Packet, decode, encode_request
from aaa.radius.ports import AUTHENTICATION, Port
from aaa.radius.tls_peers import PeerName, TlsPeer, TlsPeerTable
from tests.unit.net.authority import Authority, Issued

HA = "ha.home.example"
KDC = "kdc.home.example"
ACCEPT = 2


def peer(name: str, *names: str) -> TlsPeer:
    def read(text: str) -> PeerName:
        try:
            return ip_address(text)
        except ValueError:
            return text

    return TlsPeer(name, frozenset(map(read, names)))


HOME_AGENT = peer("home agent", HA)
CENTER = peer("center", KDC)


def user(text: str) -> tuple[tuple[int, bytes], ...]:
    return ((1, text.encode()),)


def name_of(transaction: RadsecTransaction) -> str:
    return next(value for kind, value in transaction.request.attributes if kind == 1).decode()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Waits for what the other end of a socket brings about."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - it is another task or process that does it
            await asyncio.sleep(0.005)


@dataclass
class Parties:
    """One authority, and all that was started, to be closed at the end."""

    folder: Path
    authority: Authority
    _servers: list[Served] = field(default_factory=list)
    _clients: list[RadsecClient] = field(default_factory=list)

    def contexts(
        self,
        issued: Issued,
        *,
        revocations: Path | None = None,
        versions: Collection[str] = ("1.0",),
    ) -> TlsContexts:
        return load_contexts(self.authority.files(issued, revocations=revocations), versions)

    def client_contexts(self, versions: Collection[str] = ("1.0",)) -> TlsContexts:
        return self.contexts(self.authority.issue("ha", [HA]), versions=versions)

    def server_contexts(self, versions: Collection[str] = ("1.0",)) -> TlsContexts:
        return self.contexts(self.authority.issue("kdc", [KDC]), versions=versions)

    def serve(
        self,
        *,
        contexts: TlsContexts | None = None,
        peers: tuple[TlsPeer, ...] = (HOME_AGENT,),
        limits: ServerLimits | None = None,
        address: Address = ("127.0.0.1", 0),
        port: Port = AUTHENTICATION,
    ) -> Served:
        served = Served(contexts or self.server_contexts(), peers, limits, address, port)
        self._servers.append(served)
        return served

    def client(
        self,
        *addresses: Address,
        contexts: TlsContexts | None = None,
        limits: ClientLimits | None = None,
        watchdog: Watchdog | None = None,
        counters: Counters | None = None,
        observer: Observer = UNOBSERVED,
    ) -> RadsecClient:
        made = RadsecClient(
            [RadsecTarget(CENTER, address) for address in addresses],
            contexts or self.client_contexts(),
            counters or Counters(),
            limits=limits,
            watchdog=watchdog,
            observer=observer,
        )
        self._clients.append(made)
        return made

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for served in self._servers:
            await served.server.close()


class Served:
    """A server that answers each request with its User-Name while `answering`, and notes all."""

    def __init__(
        self,
        contexts: TlsContexts,
        peers: tuple[TlsPeer, ...],
        limits: ServerLimits | None,
        address: Address,
        port: Port,
    ) -> None:
        self.counters = Counters()
        self.contexts = contexts
        self.heard: list[RadsecTransaction] = []
        self.batches: list[int] = []
        self.answering = True
        self.answer: Callable[[RadsecTransaction], None] = answer
        self.server = RadsecServer(
            TlsPeerTable(peers),
            contexts,
            self.counters,
            self._on_requests,
            limits=limits,
            port=port,
        )
        self.address = self.server.listen(address)

    @property
    def names(self) -> list[str]:
        return [name_of(each) for each in self.heard]

    def _on_requests(self, transactions: list[RadsecTransaction]) -> None:
        self.heard += transactions
        self.batches.append(len(transactions))
        if self.answering:
            for transaction in transactions:
                self.answer(transaction)

    async def hears(self, count: int) -> None:
        await until(lambda: len(self.heard) >= count)

    def kill(self) -> None:
        """As if the process had ended: nothing is said, the port is closed."""
        self.server.stop_receiving()
        for connection in list(self.server._connections):
            connection.abort()


def answer(transaction: RadsecTransaction) -> None:
    transaction.respond(ACCEPT, user(name_of(transaction)))


def accepted(transaction: RadsecTransaction) -> ServerConnection:
    """The server's end of the connection that a request has come by."""
    assert isinstance(transaction.connection, ServerConnection)
    return transaction.connection


T = TypeVar("T")


async def _soon(awaited: Awaitable[T]) -> T:
    """What comes within five seconds; a TimeoutError would pass for a closed connection."""
    try:
        return await asyncio.wait_for(awaited, 5)
    except TimeoutError:
        raise AssertionError("nothing within five seconds") from None


class Raw:
    """A TLS client that sends what it is told to, and reads packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: Address, context: ssl.SSLContext) -> Raw:
        return cls(*await asyncio.open_connection(*address, ssl=context, server_hostname=KDC))

    def send(self, *packets: bytes) -> None:
        self._writer.write(b"".join(packets))

    async def packet(self) -> Packet:
        return await _soon(self._packet())

    async def _packet(self) -> Packet:
        header = await self._reader.readexactly(4)
        octets = header + await self._reader.readexactly(int.from_bytes(header[2:]) - 4)
        return decode(octets, signed=False)  # RADIUS/1.1 as well: the Token is in the authenticator

    async def is_closed(self) -> bool:
        """Whether the server closes without another octet."""
        try:
            return await _soon(self._reader.read()) == b""
        except OSError:  # closed with octets of ours unread
            return True

    async def close(self) -> None:
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            return


def request(identifier: int, text: str = "@home.example", code: int = 1) -> bytes:
    return encode_request(code, identifier, bytes([identifier]) * 16, user(text), RADSEC_SECRET)


async def connect_and_ask(address: Address, context: ssl.SSLContext) -> Raw:
    raw = await Raw.connect(address, context)
    raw.send(request(1))
    try:
        assert (await raw.packet()).code == 2
    except BaseException:
        await raw.close()
        raise
    return raw


def ask(client: RadsecClient, *texts: str) -> list[asyncio.Task[str]]:
    async def one(text: str) -> str:
        response = await client.exchange(1, user(text))
        return response.attributes[-1][1].decode()  # a Message-Authenticator may be before it

    return [asyncio.create_task(one(text)) for text in texts]
