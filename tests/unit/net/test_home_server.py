"""What a home server says before it looks at a registration, over real sockets."""

from __future__ import annotations

import ipaddress

import pytest

from aaa.exchange import Peer
from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCESS_REJECT, ACCESS_REQUEST, proxy_states
from aaa.serve.home_server import MAXIMUM_PROXY_STATES, REFUSED, HomeAgents, HomeServer
from kdc.model import DEFAULT_VENDOR_ID, Secret

SECRET = Secret(b"sixteen octets!!")
PROXY_STATE = 33


@pytest.mark.parametrize(
    ("states", "too_many"),
    [
        pytest.param([b"s"] * MAXIMUM_PROXY_STATES, False, id="32"),
        pytest.param([b"s"] * (MAXIMUM_PROXY_STATES + 1), True, id="33"),
        pytest.param([b"s" * 250, b"s" * 250, b"s" * 36], False, id="536-octets"),
        pytest.param([b"s" * 250, b"s" * 250, b"s" * 37], True, id="537-octets"),
    ],
)
async def test_proxy_states_that_leave_no_room_for_a_reply(
    states: list[bytes], too_many: bool
) -> None:
    """They are refused before anything is granted, and echoed with the refusal."""
    counters = Counters()
    network = ipaddress.ip_network("127.0.0.0/8")
    server = HomeServer(
        ClientTable([Client("hub", network, (SECRET,))]),
        {"hub": Peer("hub", frozenset({"visited.example"}))},
        HomeAgents(),
        counters,
        realm="home.example",
        vendor_id=DEFAULT_VENDOR_ID,
    )
    endpoint = server.radius.listen(("127.0.0.1", 0))
    client = RadiusClient(Counters())
    try:
        attributes = tuple((PROXY_STATE, state) for state in states)
        reply = await client.exchange(
            ACCESS_REQUEST, attributes, SECRET, Server(endpoint.address, 5.0, 0)
        )
    finally:
        client.close()
        server.close()
    assert reply.code == ACCESS_REJECT
    assert proxy_states(reply.attributes) == tuple(states)
    assert counters.snapshot().get(f"{REFUSED}.proxy_states", 0) == too_many
