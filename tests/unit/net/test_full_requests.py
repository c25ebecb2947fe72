"""Requests that their Proxy-States fill, at each kind of port; real sockets.

They are echoed (RFC 2865 §5.33), so that what is added to an answer may find no room: whoever sends
such a request must not take the answers of those behind it in the same batch with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from aaa.exchange import Peer
from aaa.net.transactions import Transaction
from aaa.net.udp import Datagram, UdpEndpoint
from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.dynauth import encode_dynamic_request
from aaa.radius.packet import (
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    COA_NAK,
    COA_REQUEST,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    STATUS_SERVER,
    Attributes,
    VerifiedResponse,
    decode,
    encode_request,
    proxy_states,
    verify_response,
)
from aaa.radius.ports import ACCOUNTING, AUTHENTICATION, DYNAMIC_AUTHORIZATION, Port
from aaa.radius.wire_forms import RADIUS_1_0, RADIUS_1_1, WireForm
from aaa.roles.foreign_aaa_dynauth import VisitedDomain
from aaa.serve.door import Door
from aaa.serve.dynamic_authorization import DynamicAuthorization
from aaa.serve.foreign_accounting import AccountingProxy
from aaa.serve.foreign_dynauth import DynamicAuthorizationProxy
from aaa.serve.forwarding import Forwarder
from aaa.serve.home_accounting import HomeAccounting
from aaa.serve.peer_requests import Patience, PeerRequests
from aaa.serve.pools import open_pools
from aaa.serve.radius_server import RadiusServer
from kdc.accounting import AccountingRecord, AccountingStatus
from kdc.model import Secret
from kdc.store.accounting import Recorded
from tests.unit.serve.test_agent_sessions import IDENTITY, Stage, asked

SECRET = Secret(b"sixteen octets!!")
VENDOR = 32473
REPORT = encode_accounting_request(
    AccountingRequest(AccountingStatus.START, session_id=b"1", nas_identifier=b"fa1"), VENDOR
)
Handler = Callable[[list[Transaction]], None]
Ask = Callable[[Sequence[bytes], int], Awaitable[dict[int, VerifiedResponse]]]


def filled(code: int, attributes: Attributes = ()) -> bytes:
    """A request of exactly 4,096 octets."""
    signature = 0 if code == ACCOUNTING_REQUEST else 18
    room = 4096 - 20 - signature - sum(len(value) + 2 for _, value in attributes)
    states = []
    while room:
        octets = room if room <= 255 else min(255, room - 2)
        states.append((33, bytes(octets - 2)))
        room -= octets
    wire = encode_request(code, 1, bytes(16), (*attributes, *states), SECRET)
    assert len(wire) == 4096
    return wire


def most(code: int, attributes: Attributes = ()) -> bytes:
    """A request of 200 attributes, most of them empty Proxy-States."""
    count = 200 - len(attributes) - (code != ACCOUNTING_REQUEST)
    return encode_request(code, 2, bytes(16), (*attributes, *[(33, b"")] * count), SECRET)


def short(code: int, attributes: Attributes = ()) -> bytes:
    return encode_request(code, 3, bytes(16), attributes, SECRET)


@contextmanager
def served(port: Port, handler: Handler) -> Iterator[Ask]:
    """Sends requests as one batch; their answers by identifier, each with the Proxy-States."""
    clients = ClientTable([Client("visited", ip_network("127.0.0.0/8"), (SECRET,))])
    server = RadiusServer(clients, Counters(), handler, port=port)
    address = server.listen(("127.0.0.1", 0)).address
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def on_batch(batch: list[Datagram]) -> None:
        for octets, _ in batch:
            heard.put_nowait(octets)

    client = UdpEndpoint.open(("127.0.0.1", 0), on_batch)

    async def ask(requests: Sequence[bytes], count: int) -> dict[int, VerifiedResponse]:
        client.send_many([(request, address) for request in requests])
        by_identifier = {request[1]: request for request in requests}
        answers = {}
        for _ in range(count):
            octets = await asyncio.wait_for(heard.get(), 5)
            request = decode(by_identifier[octets[1]])
            answer = verify_response(
                decode(octets), request.authenticator, SECRET, request_code=request.code
            )
            assert proxy_states(answer.attributes) == proxy_states(request.attributes)
            answers[answer.identifier] = answer
        assert len(answers) == count and heard.empty()
        return answers

    try:
        yield ask
    finally:
        server.close()
        client.close()


def causes(answers: dict[int, VerifiedResponse]) -> dict[int, tuple[int, list[int]]]:
    """Code and Error-Causes by identifier."""
    return {
        number: (
            answer.code,
            [int.from_bytes(value, "big") for kind, value in answer.attributes if kind == 101],
        )
        for number, answer in answers.items()
    }


async def test_accounting_at_a_home() -> None:
    async def record(batch: Sequence[AccountingRecord]) -> list[Recorded]:
        return [Recorded.RECORDED] * len(batch)

    peers = {"visited": Peer("visited", frozenset({"visited.example"}))}
    home = HomeAccounting(record, peers, Counters(), realm="home.example", vendor_id=VENDOR)
    requests = [make(ACCOUNTING_REQUEST, REPORT) for make in (filled, most, short)]
    with served(ACCOUNTING, home.on_requests) as ask:
        assert set(await ask(requests, 3)) == {1, 2, 3}
    with served(ACCOUNTING, home.on_requests) as ask:
        nothing_else = [most(ACCOUNTING_REQUEST), short(ACCOUNTING_REQUEST, REPORT)]
        assert set(await ask(nothing_else, 1)) == {3}


async def test_accounting_through_a_foreign_aaa() -> None:
    """It is refused, which accounting has no answer for; what stands behind it is answered."""
    counters = Counters()
    pools = open_pools({}, (), counters)
    proxy = AccountingProxy(
        {"visited": Peer("visited", frozenset())},
        lambda realm: None,
        (),
        Forwarder(pools, counters, "foreign.accounting", Door(counters)),
        realm="visited.example",
        vendor_id=VENDOR,
    )
    with served(ACCOUNTING, proxy.on_requests) as ask:
        requests = [filled(ACCOUNTING_REQUEST, REPORT), most(ACCOUNTING_REQUEST, REPORT)]
        assert set(await ask([*requests, short(STATUS_SERVER)], 1)) == {3}
    assert counters["foreign.accounting.dropped.realm"] == 2
    pools.close()


@pytest.mark.parametrize(
    ("code", "nak"), [(DISCONNECT_REQUEST, DISCONNECT_NAK), (COA_REQUEST, COA_NAK)]
)
async def test_dynamic_authorization_through_a_foreign_aaa(code: int, nak: int) -> None:
    requests = PeerRequests({}, Counters(), Patience(1, 0.1, 0))
    proxy = DynamicAuthorizationProxy(
        VisitedDomain("visited.example", ()),
        lambda server, realm: False,
        requests,
        Counters(),
        vendor_id=VENDOR,
    )
    with served(DYNAMIC_AUTHORIZATION, proxy.on_requests) as ask:
        answers = await ask([make(code) for make in (filled, most, short)], 3)
    assert causes(answers) == {1: (nak, []), 2: (nak, []), 3: (nak, [402])}
    proxy.close()


async def test_dynamic_authorization_at_an_agent(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    agent = DynamicAuthorization(IDENTITY, stage.sessions, stage.counters)
    unknown = encode_dynamic_request(asked(0, COA_REQUEST, state=b"state"), VENDOR)
    with served(DYNAMIC_AUTHORIZATION, agent.on_requests) as ask:
        answers = await ask([make(COA_REQUEST, unknown) for make in (filled, most, short)], 3)
    await stage.close()
    assert causes(answers) == dict.fromkeys((1, 2, 3), (COA_NAK, [503]))
    assert all((24, b"state") in answer.attributes for answer in answers.values())
    with served(DYNAMIC_AUTHORIZATION, agent.on_requests) as ask:
        answers = await ask([make(COA_REQUEST) for make in (filled, most, short)], 3)
    assert causes(answers) == {1: (COA_NAK, []), 2: (COA_NAK, []), 3: (COA_NAK, [402])}


@pytest.mark.parametrize("port", [AUTHENTICATION, ACCOUNTING], ids=lambda port: str(port.name))
async def test_status_server(port: Port) -> None:
    with served(port, lambda transactions: None) as ask:
        answers = await ask([make(STATUS_SERVER) for make in (filled, most, short)], 3)
    assert {answer.code for answer in answers.values()} == {port.status_answer}


@pytest.mark.parametrize("form", [RADIUS_1_0, RADIUS_1_1], ids=lambda form: str(form.version))
@pytest.mark.parametrize("code", [ACCESS_REQUEST, ACCOUNTING_REQUEST, COA_REQUEST, STATUS_SERVER])
def test_over_tls_what_adds_nothing_always_fits(form: WireForm, code: int) -> None:
    """RADIUS/1.1 has no Message-Authenticator, and so room for one attribute more."""
    answer = {ACCESS_REQUEST: 3, ACCOUNTING_REQUEST: 5, COA_REQUEST: 45, STATUS_SERVER: 2}[code]
    signed = form is RADIUS_1_0 and code != ACCOUNTING_REQUEST
    attributes = tuple([(33, b"")] * (200 - signed))
    wire = form.encode_request(code, 7, attributes, bytes)
    request = form.verify_request(form.decode(wire))
    octets = form.encode_response(answer, request, ())
    assert proxy_states(form.decode(octets, signed=False).attributes) == (b"",) * (200 - signed)
