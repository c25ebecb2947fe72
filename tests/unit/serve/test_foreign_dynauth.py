"""Dynamic authorization through a foreign AAA, asked by homes that mean it no good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_network

import pytest

from aaa.net.udp import UdpEndpoint
from aaa.radius.attributes import ERROR_CAUSE
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.packet import (
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    PROXY_STATE,
    Attributes,
    VerifiedResponse,
    decode,
    encode_request,
)
from aaa.radius.ports import DYNAMIC_AUTHORIZATION
from aaa.roles.foreign_aaa import Agent
from aaa.roles.foreign_aaa_dynauth import VisitedDomain
from aaa.serve.foreign_dynauth import MAXIMUM_UNDER_WAY, DynamicAuthorizationProxy
from aaa.serve.peer_requests import Patience, PeerRequests
from aaa.serve.radius_server import RadiusServer
from kdc.model import Nai, Secret
from tests.unit.net.radsec import until
from tests.unit.serve.transactions import asked

VENDOR = 32473
SECRET = Secret(b"between the home and us")
AGENT = Agent("fa1", Nai(b"fa1@visited.example"), IPv4Address("198.51.100.7"), b"fa1")


class Agents:
    """Each agent is connected; none answers before it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.held = asyncio.Event()

    def has_connection(self, peer_name: str) -> bool:
        return peer_name == AGENT.name

    async def exchange(
        self, peer_name: str, code: int, attributes: Attributes, *, deadline_s: float
    ) -> VerifiedResponse:
        self.asked += 1
        await self.held.wait()
        states = tuple(each for each in attributes if each[0] == PROXY_STATE)
        return VerifiedResponse(code + 1, 1, bytes(16), states, b"", 0)


@contextmanager
def _proxy(agents: Agents) -> Iterator[DynamicAuthorizationProxy]:
    counters = Counters()
    proxy = DynamicAuthorizationProxy(
        VisitedDomain("visited.example", (AGENT,)),
        lambda server, realm: realm == f"{server}.example",
        PeerRequests(
            {},
            counters,
            Patience(deadline_s=2.0, timeout_s=0.5, retries=1),
            connections=agents,
            visitors=frozenset((AGENT.name,)),
        ),
        counters,
        vendor_id=VENDOR,
    )
    yield proxy
    proxy.close()


def _disconnect(home: str) -> Attributes:
    return (
        (1, b"@" + home.encode() + b".example"),
        (126, b"1visited.example"),
        (32, b"fa1"),
        (25, b"8 octets"),
        (55, int(time.time()).to_bytes(4, "big")),
    )


def _filled(octets: int) -> Attributes:
    """Proxy-States that take so many octets of a packet."""
    states = [(PROXY_STATE, bytes(253))] * (octets // 255)
    return (*states, (PROXY_STATE, bytes(octets % 255 - 2)))


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(_filled(4096 - 38), id="4096 octets"),
        pytest.param(((PROXY_STATE, b""),) * 199, id="200 attributes"),
    ],
)
async def test_a_request_without_room_for_an_error_cause_takes_nobody_elses_answer(
    attributes: Attributes,
) -> None:
    with _proxy(Agents()) as proxy:
        clients = ClientTable([Client("home", ip_network("127.0.0.1"), (SECRET,))])
        server = RadiusServer(clients, Counters(), proxy.on_requests, port=DYNAMIC_AUTHORIZATION)
        bound = server.listen(("127.0.0.1", 0))
        heard: list[bytes] = []
        asking = UdpEndpoint.open(
            ("127.0.0.1", 0), lambda batch: heard.extend(octets for octets, _ in batch)
        )
        asking.send_many(
            [
                (
                    encode_request(DISCONNECT_REQUEST, 1, bytes(16), attributes, SECRET),
                    bound.address,
                ),
                (encode_request(DISCONNECT_REQUEST, 2, bytes(16), (), SECRET), bound.address),
            ]
        )
        try:
            await until(lambda: len(heard) == 2, 2)
        finally:
            asking.close()
            server.close()
    answers = {packet.identifier: packet for packet in map(decode, heard)}
    assert [answers[number].code for number in (1, 2)] == [DISCONNECT_NAK, DISCONNECT_NAK]
    assert [kind for kind, _ in answers[2].attributes] == [80, ERROR_CAUSE]


async def test_a_home_that_asks_too_much_at_once_leaves_the_others_their_way() -> None:
    agents = Agents()
    with _proxy(agents) as proxy:
        flood = [
            asked("home", DISCONNECT_REQUEST, _disconnect("home"))
            for _ in range(MAXIMUM_UNDER_WAY + 9)
        ]
        other = asked("other", DISCONNECT_REQUEST, _disconnect("other"))
        proxy.on_requests([*flood, other])
        await until(lambda: agents.asked == MAXIMUM_UNDER_WAY + 1)
        refused = [each for each in flood if each.answers]
        nak = (DISCONNECT_NAK, ((ERROR_CAUSE, (506).to_bytes(4, "big")),))
        assert [each.answers for each in refused] == [[nak]] * 9
        agents.held.set()
        await proxy.drain()
        assert [code for code, _ in other.answers] == [41]
        again = asked("home", DISCONNECT_REQUEST, _disconnect("home"))
        proxy.on_requests([again])
        await proxy.drain()
        assert [code for code, _ in again.answers] == [41]
