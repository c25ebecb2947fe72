"""Requests to peers by UDP while a secret is rotated: the peer may know either of the two."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from aaa.net.transactions import Transaction
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import DISCONNECT_ACK, DISCONNECT_REQUEST
from aaa.radius.ports import DYNAMIC_AUTHORIZATION
from aaa.serve.peer_requests import Patience, PeerAddress, PeerRequests
from aaa.serve.radius_server import RadiusServer
from kdc.model import Secret

OLD, NEW = Secret(b"before a rotation"), Secret(b"after the rotation")


def _acknowledge(transactions: list[Transaction]) -> None:
    for transaction in transactions:
        transaction.respond(DISCONNECT_ACK, ())


def _knows(*secrets: Secret) -> ClientTable:
    return ClientTable([Client("home", ip_network("127.0.0.1/32"), secrets)])


async def test_a_peer_that_has_not_yet_the_new_secret_is_asked_under_the_old_one() -> None:
    """And under the new one again as soon as it knows only that."""
    peer = RadiusServer(_knows(OLD), Counters(), _acknowledge, port=DYNAMIC_AUTHORIZATION)
    address = peer.listen(("127.0.0.1", 0)).address
    requests = PeerRequests(
        {"visited": PeerAddress(address, (NEW, OLD))}, Counters(), Patience(0.2, 0.1, 1)
    )
    try:
        with pytest.raises(NoAnswer):
            await requests.exchange("visited", DISCONNECT_REQUEST, ())
        for _ in range(2):
            answer = await requests.exchange("visited", DISCONNECT_REQUEST, ())
            assert answer.code == DISCONNECT_ACK
        peer.clients = _knows(NEW)
        with pytest.raises(NoAnswer):
            await requests.exchange("visited", DISCONNECT_REQUEST, ())
        assert (await requests.exchange("visited", DISCONNECT_REQUEST, ())).code == DISCONNECT_ACK
        requests.addresses = {"visited": PeerAddress(address, (NEW,))}  # the rotation is over
        assert (await requests.exchange("visited", DISCONNECT_REQUEST, ())).code == DISCONNECT_ACK
    finally:
        requests.close()
        peer.close()
