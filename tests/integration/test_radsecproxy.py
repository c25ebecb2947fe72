"""radsecproxy, a real peer: it asks our server over TLS, and answers our client."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from aaa.net.radius_client import RadiusClient, Server
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_link import Watchdog
from aaa.net.radsec_server import RadsecServer
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.net.radsec_upstream import RadsecTarget
from aaa.net.tls import load_contexts
from aaa.net.transactions import Transaction
from aaa.net.udp import Address
from aaa.radius import counters as names
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.tls_peers import TlsPeer, TlsPeerTable
from aaa.serve.radius_server import RadiusServer
from kdc.model import Secret
from tests.integration.radsecproxy import free_port, needs_radsecproxy, radsecproxy
from tests.unit.net.authority import Authority
from tests.unit.net.radsec import until

pytestmark = needs_radsecproxy

BOTH = ("1.0", "1.1")  # radsecproxy offers none by ALPN and takes none: 1.0 it is
SECRET = "a shared secret of UDP"
ATTRIBUTES = ((1, b"@home.example"), (32, b"fa1"), (26, bytes(4) + b"\x01\xf0" + bytes(238)))
REPLY = ((26, bytes(4) + b"\x02\xc8" + bytes(198)), (24, b"state"))


@pytest.mark.slow
async def test_radsecproxy_asks_our_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    heard: list[RadsecTransaction] = []

    def on_requests(transactions: list[RadsecTransaction]) -> None:
        heard.extend(transactions)
        for transaction in transactions:
            transaction.respond(11, REPLY)

    counters = Counters()
    proxy = TlsPeer("proxy", frozenset({"proxy.visited.example"}))
    issued = authority.issue("kdc", ["kdc.example", "127.0.0.1"])
    contexts = load_contexts(authority.files(issued), BOTH)
    server = RadsecServer(TlsPeerTable((proxy,)), contexts, counters, on_requests)
    port, udp_port = server.listen(("127.0.0.1", 0))[1], free_port(socket.SOCK_DGRAM)
    text = f"""
        ListenUDP 127.0.0.1:{udp_port}
        client 127.0.0.1 {{
            type udp
            secret "{SECRET}"
        }}
        server kdc {{
            type tls
            host 127.0.0.1
            port {port}
            secret radsec
            StatusServer on
        }}
        realm * {{
            server kdc
        }}
    """
    issued = authority.issue("proxy", ["proxy.visited.example"])
    client = RadiusClient(Counters())
    with radsecproxy(tmp_path, authority, issued, text):
        await until(lambda: server.connections == 1, 15)
        proxied = Server(("127.0.0.1", udp_port))
        secret = Secret(SECRET.encode())
        responses = await asyncio.gather(
            *(client.exchange(1, ATTRIBUTES, secret, proxied) for _ in range(100))
        )
        assert {response.code for response in responses} == {11}
        assert all(response.attributes[1:] == REPLY for response in responses)
        await until(lambda: counters[names.STATUS_SERVER] >= 1, 60)  # each 25 s or so
        await asyncio.sleep(0.2)
        assert server.connections == 1
        assert counters[names.RADSEC_OPENED] == 1
    assert {each.client.name for each in heard} == {"proxy"}
    assert len(heard) == 100
    assert set(ATTRIBUTES) <= set(heard[0].request.attributes)
    assert counters[names.MALFORMED] + counters[names.BAD_AUTHENTICATOR] == 0
    client.close()
    await server.close()


async def test_our_client_asks_radsecproxy(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    udp_counters, counters = Counters(), Counters()

    def on_requests(transactions: list[Transaction]) -> None:
        for transaction in transactions:
            transaction.respond(2, REPLY)

    behind = RadiusServer(
        ClientTable([Client("proxy", ip_network("127.0.0.1/32"), (Secret(SECRET.encode()),))]),
        udp_counters,
        on_requests,
    )
    udp_port = behind.listen(("127.0.0.1", 0)).address[1]
    port = free_port(socket.SOCK_STREAM)
    text = f"""
        ListenTLS 127.0.0.1:{port}
        client ha {{
            type tls
            host 127.0.0.1
            secret radsec
            CertificateNameCheck off
            MatchCertificateAttribute SubjectAltName:DNS:/^ha\\.home\\.example$/
        }}
        server home {{
            type udp
            host 127.0.0.1
            port {udp_port}
            secret "{SECRET}"
        }}
        realm * {{
            server home
        }}
    """
    issued = authority.issue("proxy", ["127.0.0.1"])
    address: Address = ("127.0.0.1", port)
    client = RadsecClient(
        [RadsecTarget(TlsPeer("proxy", frozenset({ip_address("127.0.0.1")})), address)],
        load_contexts(authority.files(authority.issue("ha", ["ha.home.example"])), BOTH),
        counters,
        watchdog=Watchdog(idle_s=0.3),
    )
    with radsecproxy(tmp_path, authority, issued, text):
        responses = await asyncio.gather(
            *(client.exchange(1, ATTRIBUTES, deadline_s=15) for _ in range(100))
        )
        assert {response.code for response in responses} == {2}
        assert (await client.exchange(12, ())).code == 2
        await asyncio.sleep(1)  # three watchdogs, each answered
        assert counters[names.RADSEC_CLIENT_LOST] == 0
    assert udp_counters[names.REQUESTS] == 100
    await client.close()
    behind.close()
