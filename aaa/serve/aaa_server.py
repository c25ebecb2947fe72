"""The AAA server of a foreign agent, asked by UDP or over TLS as the agent's file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aaa.config import AgentConfig
from aaa.net.mobile_ip import resolve
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.transactions import Transaction
from aaa.net.udp import Address
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCOUNTING_REQUEST, Attributes, VerifiedResponse
from aaa.serve.process import split_address
from aaa.serve.radsec import TlsServers
from kdc.model import IpAddress, Secret

NAME: Final = "the server of [radius]"  # there is one, and its section has no name for it


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    san: tuple[str | IpAddress, ...]


@dataclass(frozen=True, slots=True)
class ByUdp:
    """Where the server is, at each of its ports, and the secret that is shared with it."""

    server: Server
    accounting: Server
    secret: Secret


class AaaServer:
    """`by_udp` is None where it is asked over TLS."""

    def __init__(self, config: AgentConfig, counters: Counters) -> None:
        """Inside the event loop; raises `LocalError` for certificates that cannot be read."""
        radius = config.radius
        source = radius.source_address
        self._client = RadiusClient(counters, bind_host=str(source) if source else None)
        self._over_tls = TlsServers(
            config.tls,
            ((_Named(NAME, radius.san), radius.server),),
            counters,
            deadline_s=radius.timeout_s * (1 + radius.retries),
        )
        self.by_udp: ByUdp | None = None
        if radius.secret_file is not None:
            address = resolve(*split_address(radius.server))
            self.by_udp = ByUdp(
                Server(address, radius.timeout_s, radius.retries),
                Server(_accounting_address(config, address), radius.timeout_s, radius.retries),
                radius.secret_file,
            )

    async def exchange(self, code: int, attributes: Attributes) -> VerifiedResponse:
        """The authentic response; raises `NoAnswer`, `Unavailable` and `LocalError`."""
        udp = self.by_udp
        if udp is None:
            return await self._over_tls.to(NAME).exchange(code, attributes)
        server = udp.accounting if code == ACCOUNTING_REQUEST else udp.server
        return await self._client.exchange(code, attributes, udp.secret, server)

    def take_requests(self, handler: Callable[[list[Transaction]], None]) -> None:
        """`handler` gets the Disconnect- and CoA-Requests that come over our own connection."""
        self._over_tls.take_requests(handler)

    def reload(self) -> None:
        """Reads the certificates again; raises `LocalError`."""
        self._over_tls.reload()

    async def close(self) -> None:
        self._client.close()
        await self._over_tls.close()


def _accounting_address(config: AgentConfig, address: Address) -> Address:
    radius = config.radius
    if radius.accounting_server is not None:
        return resolve(*split_address(radius.accounting_server))
    host, port = address
    return host, port + 1  # RFC 2866 §3: 1813 beside 1812
