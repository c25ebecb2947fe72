"""The AAA server of a foreign agent, asked by UDP or over TLS as the agent's file says."""

from __future__ import annotations

from aaa.config import AgentConfig
from aaa.net.mobile_ip import resolve
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.radsec_client import RadsecClient
from aaa.radius.counters import Counters
from aaa.radius.packet import Attributes, VerifiedResponse
from aaa.serve.process import split_address
from aaa.serve.radsec import TlsServers

NAME = "aaa"  # there is one, and its file has no name for it


class AaaServer:
    """`over_tls` is the client of its connections, which the server may use too, or None."""

    def __init__(self, config: AgentConfig, counters: Counters) -> None:
        """Inside the event loop; raises `LocalError` for certificates that cannot be read."""
        radius = config.radius
        address = split_address(radius.server)
        source = radius.source_address
        self._servers = TlsServers(config.tls, counters)
        self._by_udp = RadiusClient(counters, bind_host=str(source) if source else None)
        self._secret = radius.secret_file
        self.over_tls: RadsecClient | None = None
        if self._secret is None:
            deadline_s = radius.timeout_s * (1 + radius.retries)
            self.over_tls = self._servers.open(NAME, radius.san, address, deadline_s)
        else:
            self._server = Server(resolve(*address), radius.timeout_s, radius.retries)

    async def exchange(self, code: int, attributes: Attributes) -> VerifiedResponse:
        """The authentic response; raises `NoAnswer`, `Unavailable` and `LocalError`."""
        if self.over_tls is not None:
            return await self.over_tls.exchange(code, attributes)
        assert self._secret is not None
        return await self._by_udp.exchange(code, attributes, self._secret, self._server)

    def reload(self) -> None:
        """Reads the certificates again; raises `LocalError`."""
        self._servers.reload()

    async def close(self) -> None:
        self._by_udp.close()
        await self._servers.close()
