"""A rogue on a node's link as a process: advertises an agent's name with a key of its own.

    rogue_agent INTERFACE OWN_ADDRESS AGENT_ADDRESS NAI

It has no RADIUS secret: what nodes send it, it passes to the agent that it pretends to be, and the
answers back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from ipaddress import IPv4Address

from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.roles.mobile_node import Heard
from aaa.serve.advertiser import Advertiser
from aaa.serve.process import configure_log
from kdc.config import LogSettings
from kdc.crypto.hpke import X25519Key, fingerprint
from kdc.model import Nai, Secret
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey
from kdc.wire.numbers import MOBILE_IP_PORT


class Relay:
    """Nodes on one side, each with a port of its own toward the agent on the other."""

    def __init__(self, own: str, agent: str) -> None:
        self._agent: Address = (agent, MOBILE_IP_PORT)
        self._own = own
        self._nodes: dict[Address, UdpEndpoint] = {}
        self._front = UdpEndpoint.open((own, MOBILE_IP_PORT), self._from_nodes)

    def _from_nodes(self, batch: list[Datagram]) -> None:
        for octets, node in batch:
            if node not in self._nodes:
                self._nodes[node] = UdpEndpoint.open((self._own, 0), partial(self._back, node))
            sys.stdout.write(f"passed on {len(octets)} octets of a node\n")
            sys.stdout.flush()
            self._nodes[node].send_many([(octets, self._agent)])

    def _back(self, node: Address, batch: list[Datagram]) -> None:
        self._front.send_many([(octets, node) for octets, _ in batch])


async def forge(interface: str, own: str, agent: str, nai: str) -> None:
    key = X25519Key.of(Secret(os.urandom(32)))
    fk = fingerprint(FaPublicKey(4096, key.public_key).octets)
    address = IPv4Address(agent)
    heard = Heard(FaAnnouncement(Nai.parse(nai), fk), address, address)
    Relay(own, agent)
    advertiser = Advertiser(interface, 1, lambda: heard)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    advertiser.start()
    sys.stdout.write("forging\n")
    sys.stdout.flush()
    await stop.wait()
    advertiser.stop()


if __name__ == "__main__":
    configure_log(LogSettings())
    asyncio.run(forge(*sys.argv[1:]))
