"""The process `aaa agent`: a foreign agent between mobile nodes (UDP 434) and its AAA server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Final

import structlog

from aaa.config import AgentConfig
from aaa.exchange import AccessReject
from aaa.net.advertisement import write_advertisement
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius.attributes import decode_access_response, encode_access_request
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket, NoAnswer
from aaa.radius.packet import ACCESS_REQUEST, VerifiedResponse
from aaa.roles.foreign_agent import Delivery, FaIdentity, ForeignAgent, Relayed
from aaa.roles.mobile_node import Heard
from aaa.serve.aaa_server import AaaServer
from aaa.serve.accounting import Accounting
from aaa.serve.advertiser import LIFETIME_INTERVALS, Advertiser
from aaa.serve.agent_sessions import AgentSessions, Told
from aaa.serve.dynamic_authorization import DynamicAuthorization, dynamic_authorization_server
from aaa.serve.installed_log import InstalledLog
from aaa.serve.key_outlet import SaOutlet
from aaa.serve.process import on_hangup, split_address
from aaa.serve.radius_server import RadiusServer
from kdc.errors import FA_REGISTRATION_REFUSED, LocalError, RemoteError, Unavailable
from kdc.keyuse.traffic import Party

KEY_CHECK_EVERY_S: Final = 10.0
REQUESTS: Final = "agent.requests"
SHED: Final = "agent.shed"
DELIVERED: Final = "agent.delivered"  # one counter a code: agent.delivered.0
INSTALLED: Final = "agent.installed"

log = structlog.get_logger("aaa.agent")


class AgentServer:
    """Joins the foreign agent's role to its two sockets."""

    def __init__(self, config: AgentConfig, counters: Counters) -> None:
        agent = config.agent
        self._vendor_id = agent.vendor_id
        self._counters = counters
        self._role = ForeignAgent(
            FaIdentity(
                agent.nai,
                agent.address,
                agent.care_of_address,
                agent.nas_identifier.encode(),
                agent.vendor_id,
            ),
            config.negotiation.build_terms(),
        )
        self._identity = self._role.identity
        self._key_lifetime_s = agent.key_lifetime_s
        self._advertisement_file = agent.advertisement_file
        self._server = AaaServer(config, counters)
        self._installed = InstalledLog(agent.state_file)
        self._outlet = SaOutlet(config.keys, Party.FOREIGN_AGENT, counters)
        self._exchanges: set[asyncio.Task[None]] = set()
        self._endpoint: UdpEndpoint | None = None
        self._advertiser: Advertiser | None = None
        self._advertised_s = 0.0
        if agent.advertise_on is not None:
            self._advertised_s = LIFETIME_INTERVALS * agent.advertisement_interval_s
            self._advertiser = Advertiser(
                agent.advertise_on,
                agent.advertisement_interval_s,
                self._heard,
                vendor_id=agent.vendor_id,
                destination=IPv4Address(agent.advertisement_address),
            )
        self._sessions = AgentSessions(
            self._identity,
            Told(self._outlet, self._installed, self._accounting(config), agent.session_file),
            counters,
            interim_s=config.radius.accounting_interim_s,
        )
        self.dynamic_authorization = DynamicAuthorization(
            self._identity,
            self._sessions,
            counters,
            invite=self._advertiser.invite if self._advertiser is not None else None,
        )
        self._disconnects: RadiusServer | None = None
        self._server.take_requests(self.dynamic_authorization.on_requests)
        udp = self._server.by_udp
        if udp is not None and agent.dynamic_authorization_listen is not None:
            self._disconnects = dynamic_authorization_server(
                udp.server.address, udp.secret, self.dynamic_authorization, counters
            )
            self._disconnects_at = split_address(agent.dynamic_authorization_listen)

    def _accounting(self, config: AgentConfig) -> Accounting | None:
        radius = config.radius
        if not radius.accounting:
            return None
        return Accounting(self._server.exchange, self._vendor_id, self._counters)

    def listen(self, address: Address) -> UdpEndpoint:
        """Where mobile nodes ask, and home if it is configured; raises `OSError`."""
        self._endpoint = UdpEndpoint.open(address, self._on_batch)
        if self._disconnects is not None:
            at = self._disconnects.listen(self._disconnects_at).address
            log.info("dynamic authorization", address=":".join(map(str, at)))
        self._sessions.open()
        return self._endpoint

    def _heard(self) -> Heard:
        """What a node is to hear of us at this moment."""
        identity = self._identity
        return Heard(self._role.announcement, identity.address, identity.care_of_address)

    def advertise(self) -> None:
        """Step 1: rotates the key when it is time, and advertises a new one."""
        # Step 1
        first = not self._role.has_key
        fresh = self._role.rotate_key(
            now=time.time(),
            entropy=os.urandom,
            lifetime_s=self._key_lifetime_s,
            advertised_s=self._advertised_s,
        )
        if not fresh:
            return
        if self._advertisement_file is not None:
            write_advertisement(self._advertisement_file, self._heard(), self._vendor_id)
        if self._advertiser is not None:
            if first:
                self._advertiser.start()
            else:
                self._advertiser.renew()
        log.info("advertised", key_fingerprint=self._role.announcement.fk.hex())

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            self._counters.add(REQUESTS)
            try:
                result = self._role.on_request(octets, source)
            except Unavailable:
                self._counters.add(SHED)
                continue
            except RemoteError:
                continue  # too short to be answered
            if isinstance(result, Delivery):
                self._deliver(result, source)
            elif isinstance(result, Relayed):
                task = asyncio.get_running_loop().create_task(self._relay(result, source))
                self._exchanges.add(task)
                task.add_done_callback(self._exchanges.discard)

    async def _relay(self, relayed: Relayed, source: Address) -> None:
        """Steps 3 and 11 with the RADIUS exchange between them."""
        packet: VerifiedResponse | None = None
        try:
            attributes = encode_access_request(relayed.access, self._vendor_id)
            packet = await self._server.exchange(ACCESS_REQUEST, attributes)
        except (NoAnswer, Unavailable):
            pass
        except LocalError:
            self._deliver(self._role.too_long(relayed), source)
            return
        except BaseException:
            self._role.settle(relayed)  # cancelled, or a bug: no longer outstanding
            raise
        response = None
        if packet is not None:
            try:
                response = decode_access_response(packet, self._vendor_id)
            except MalformedPacket:
                log.warning("a response that is signed and malformed")
        self._role.settle(relayed)
        conclude = partial(self._role.conclude, relayed, response)
        # Large groups (`fa_dh = any`) take milliseconds, in which others are not to wait.
        large = relayed.side.has_large_group
        delivery = await asyncio.to_thread(conclude) if large else conclude()
        if self._sessions.was_revoked(relayed, delivery):
            delivery = self._role.conclude(relayed, AccessReject(FA_REGISTRATION_REFUSED))
        self._sessions.hand_on(relayed, delivery)
        self._deliver(delivery, source)

    def _deliver(self, delivery: Delivery, source: Address) -> None:
        assert self._endpoint is not None
        self._counters.add(f"{DELIVERED}.{delivery.code}")
        if delivery.associations:
            self._counters.add(INSTALLED, len(delivery.associations))
            self._installed.write(delivery, source)
        self._endpoint.send_many([(delivery.octets, source)])

    async def drain(self) -> None:
        """Waits for the exchanges under way; each ends by its own timeout."""
        if self._advertiser is not None:
            self._advertiser.stop()
        if self._endpoint is not None:
            self._endpoint.stop_receiving()
        if self._disconnects is not None:
            self._disconnects.stop_receiving()
        if self._exchanges:
            await asyncio.wait(self._exchanges)

    def open(self) -> None:
        """Inside the event loop; raises `LocalError` for a file of keys that is not ours."""
        self._outlet.open()

    def reload(self) -> None:
        """Reads the certificates again; raises `LocalError`."""
        self._server.reload()

    async def close(self) -> None:
        await self._sessions.close()
        await self._server.close()
        if self._disconnects is not None:
            self._disconnects.close()
        self._installed.close()
        await self._outlet.close()
        if self._endpoint is not None:
            self._endpoint.close()


async def serve_agent(
    config: AgentConfig, *, stop: asyncio.Event, ready: Callable[[], None] | None = None
) -> None:
    """Serves until `stop`, waits for the exchanges under way, and returns."""
    counters = Counters()
    server = AgentServer(config, counters)
    try:
        on_hangup(server.reload, log)
        server.open()
        endpoint = server.listen(split_address(config.agent.listen))
        server.advertise()
        log.info("listening", address=":".join(map(str, endpoint.address)))
        if ready is not None:
            ready()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), KEY_CHECK_EVERY_S)
            except TimeoutError:
                server.advertise()
        await server.drain()
    finally:
        await server.close()
        log.info("counters", **counters.snapshot())
