"""The process `aaa agent`: a foreign agent between mobile nodes (UDP 434) and its AAA server."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import structlog

from aaa.config import AgentConfig
from aaa.net.advertisement import write_advertisement
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius.attributes import decode_access_response, encode_access_request
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket, NoAnswer
from aaa.radius.packet import ACCESS_REQUEST, VerifiedResponse
from aaa.roles.foreign_agent import Delivery, FaIdentity, ForeignAgent, Relayed
from aaa.roles.mobile_node import Heard
from aaa.serve.aaa_server import AaaServer
from aaa.serve.advertiser import LIFETIME_INTERVALS, Advertiser
from aaa.serve.bindings import Bindings, Home
from aaa.serve.key_outlet import SaOutlet
from aaa.serve.process import on_hangup, split_address
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import ACCEPTED, LocalError, RemoteError, Unavailable
from kdc.keyuse.table import Endpoint, Grant
from kdc.keyuse.traffic import Party

KEY_CHECK_EVERY_S: Final = 10.0
REQUESTS: Final = "agent.requests"
SHED: Final = "agent.shed"
DELIVERED: Final = "agent.delivered"  # one counter a code: agent.delivered.0
INSTALLED: Final = "agent.installed"

log = structlog.get_logger("aaa.agent")


class InstalledLog:
    """What the agent has installed, one JSON line each: SPI, key name, fingerprint, never a key."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "w", buffering=1)

    def write(self, delivery: Delivery, link: Address) -> None:
        if self._file is None:
            return
        for item in delivery.associations:
            line = {
                "pair": item.pair.name,
                "spi": item.spi,
                "key_name": item.key_name.hex(),
                "fingerprint": fingerprint_key(item.keys),
                "lifetime_s": item.lifetime_s,
                "alias": str(delivery.alias),
                "link": f"{link[0]}:{link[1]}",
            }
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


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
        self._bindings = Bindings()
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

    def listen(self, address: Address) -> UdpEndpoint:
        self._endpoint = UdpEndpoint.open(address, self._on_batch)
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
        self._hand_on(relayed, delivery)
        self._deliver(delivery, source)

    def _hand_on(self, relayed: Relayed, delivery: Delivery) -> None:
        """KEY2 and KEY3 for other software, by the node that they are of."""
        request, sender = relayed.request, relayed.sender[0]
        home = Home(request.realm.realm, request.home_agent)
        if delivery.associations:
            assert delivery.home_address is not None
            binding = self._bindings.install(sender, home, delivery.home_address)
            identity = self._identity
            endpoints = {
                Party.MOBILE_NODE: Endpoint(delivery.alias, delivery.home_address),
                Party.FOREIGN_AGENT: Endpoint(identity.nai, identity.care_of_address),
                Party.HOME_AGENT: Endpoint(delivery.home_agent_nai, request.home_agent),
            }
            self._outlet.installed(Grant(binding, delivery.associations, endpoints, delivery.alias))
        elif delivery.code == ACCEPTED:
            ended = self._bindings.deregister(sender, home)
            if ended is not None:
                self._outlet.deregistered(ended)

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
        if self._exchanges:
            await asyncio.wait(self._exchanges)

    def open(self) -> None:
        """Inside the event loop; raises `LocalError` for a file of keys that is not ours."""
        self._outlet.open()

    def reload(self) -> None:
        """Reads the certificates again; raises `LocalError`."""
        self._server.reload()

    async def close(self) -> None:
        await self._server.close()
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
