"""One TLS connection that carries RADIUS packets: what both of its ends need of it.

Which packets there are and what becomes of them is for aaa.net.radsec_server and radsec_link.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final, cast

from aaa.net.tls import (
    PeerCertificate,
    TlsContexts,
    agreed_version,
    peer_certificate,
    was_resumed,
)
from aaa.net.udp import Address
from aaa.radius.stream import PacketStream
from aaa.radius.wire_forms import FORMS, RADIUS_1_0, WireForm

SHUTDOWN_S: Final = 2.0  # how long the other end may take to say that it closes too
_NAMES_LOGGED: Final = 4
# RFC 6613 §2.6 recommends keepalives: the kernel finds a dead peer in two minutes without us.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class PacketConnection(asyncio.Protocol):
    """Sends what one turn of the loop has made in one write, and cuts packets out of what comes."""

    def __init__(self, contexts: TlsContexts) -> None:
        self.contexts = contexts  # those of its handshake
        self._loop = asyncio.get_running_loop()
        self._stream = PacketStream()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.address: Address = ("", 0)  # of the other end
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.last_received: float = self._loop.time()
        self.certificate = PeerCertificate(frozenset(), b"", ())
        self.resumed = False
        self.agreed = False  # on a version of RADIUS
        self.form: WireForm = RADIUS_1_0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        if peername:
            self.address = (peername[0], peername[1])
        secured: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self.certificate = peer_certificate(secured)
        self.resumed = was_resumed(secured)
        version = agreed_version(secured, self.contexts.versions)
        if version is not None:
            self.agreed, self.form = True, FORMS[version]
        plain: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # of a connection that has gone already
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                plain.setsockopt(socket.IPPROTO_TCP, option, value)

    @property
    def description(self) -> dict[str, object]:
        """Who and where the other end is, for a line of the log."""
        return {"address": self.address[0] or None, "names": self.names_shown}

    @property
    def names_shown(self) -> list[str]:
        """Some of the other end's names, for a line of the log."""
        return sorted(map(str, self.certificate.names))[:_NAMES_LOGGED]

    def is_our_own(self, contexts: TlsContexts) -> bool:
        """Whether the other end shows the certificate that we show: we have come to ourselves."""
        return self.certificate.leaf in (contexts.leaf, self.contexts.leaf)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        # asyncio keeps a buffer of 256 kB behind it.  We are part of cycles, which the collector
        # comes to late (aaa.serve.process): thousands of connections that go must not add up.
        self._transport = None
        if not self._closed.done():
            self._closed.set_result(None)

    def send(self, octets: bytes) -> None:
        """Queues a packet for the one write of this turn; nothing if the connection is closed."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(octets)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and self.is_open:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def abort(self) -> None:
        """Closes at once; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Closes once the other end has what was sent, and at once after `SHUTDOWN_S`."""
        if self._transport is None:
            return
        if self._outgoing:
            self._flush()
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._closed), SHUTDOWN_S)
        except TimeoutError:
            self.abort()
            await self._closed
