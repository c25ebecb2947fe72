"""A TLS hop that keeps what it passes on, in the clear: what a RADIUS proxy over TLS sees."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aaa.net.tls import TlsContexts
from aaa.net.udp import Address

_PIECE_OCTETS = 1 << 16


@dataclass
class Recorder:
    """Every octet between its clients and a server, in both directions, unchanged."""

    requests: bytearray = field(default_factory=bytearray)
    responses: bytearray = field(default_factory=bytearray)
    connections: int = 0

    @asynccontextmanager
    async def listening(
        self, address: Address, towards: Address, contexts: TlsContexts
    ) -> AsyncIterator[None]:
        """Shows the certificate of `contexts` to both sides, and checks theirs by its trust."""
        passing: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            passing.add(task)
            self.connections += 1
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                onward = await asyncio.open_connection(*towards, ssl=contexts.client)
                await asyncio.gather(
                    _pass(reader, onward[1], self.requests),
                    _pass(onward[0], writer, self.responses),
                )

        server = await asyncio.start_server(serve, *address, ssl=contexts.server)
        try:
            yield
        finally:
            server.close()
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    try:
        while octets := await reader.read(_PIECE_OCTETS):
            kept += octets
            writer.write(octets)
            await writer.drain()
    finally:
        writer.close()


def packets_in(stream: bytes) -> list[bytes]:
    """RADIUS packets one after the other (RFC 6613 §2.6.1)."""
    packets, position = [], 0
    while position < len(stream):
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        assert length >= 20
        packets.append(stream[position : position + length])
        position += length
    return packets
