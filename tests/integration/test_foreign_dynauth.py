"""`aaa foreign` between homes and agents of the test's own: accounting up, requests of homes down.

All over real sockets.  What each decision is has its tests at the role; here is what becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from aaa.config import ForeignConfig
from aaa.demo.configurations import free_address
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.transactions import Transaction
from aaa.net.udp import Address
from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.dynauth import DynamicRequest, encode_dynamic_request
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    COA_ACK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    Attributes,
    VerifiedResponse,
    proxy_states,
)
from aaa.radius.ports import ACCOUNTING, DYNAMIC_AUTHORIZATION, Port
from aaa.serve.foreign import serve_foreign
from aaa.serve.radius_server import RadiusServer
from kdc.accounting import AccountingStatus
from kdc.model import Secret

VENDOR = 32473
AGENT_SECRET = Secret(b"agent and foreign")
HOME_SECRET = Secret(b"foreign and home!")
REPORT = AccountingRequest(
    status=AccountingStatus.START,
    session_id=b"1",
    nas_identifier=b"fa1",
    user_name=b"m-0123456789abcdef@home.example",
    classes=(b"8 octets",),
    spis=(4096,),
)


@dataclass
class Party:
    """A RADIUS server of the test's own on one port: keeps what comes, answers as it is told."""

    port: Port
    secret: Secret
    answer: Callable[[Transaction], None]
    address: Address
    heard: list[Transaction] = field(default_factory=list)
    server: RadiusServer = field(init=False)

    def __post_init__(self) -> None:
        table = ClientTable([Client("proxy", ip_network("127.0.0.0/8"), (self.secret,))])
        self.server = RadiusServer(table, Counters(), self._on_requests, port=self.port)
        self.server.listen(self.address)

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            self.heard.append(transaction)
            self.answer(transaction)


def _records(transaction: Transaction) -> None:
    transaction.respond(ACCOUNTING_RESPONSE, ())


def _obeys(transaction: Transaction) -> None:
    acks = {DISCONNECT_REQUEST: DISCONNECT_ACK, COA_REQUEST: COA_ACK}
    transaction.respond(acks[transaction.request.code], ())


def _is_silent(transaction: Transaction) -> None:
    transaction.forget()


@dataclass
class World:
    accounting: Address
    dynauth: Address
    home: Party
    agent: Party
    client: RadiusClient = field(default_factory=lambda: RadiusClient(Counters()))

    async def report(self, report: AccountingRequest, *, timeout_s: float = 5) -> VerifiedResponse:
        return await self.client.exchange(
            ACCOUNTING_REQUEST,
            encode_accounting_request(report, VENDOR),
            AGENT_SECRET,
            Server(self.accounting, timeout_s, retries=0),
        )

    async def ask(
        self,
        *added: tuple[int, bytes],
        secret: Secret = HOME_SECRET,
        timeout_s: float = 5,
        **changes: Any,
    ) -> tuple[VerifiedResponse, int | None]:
        """The proxy's answer to a home, and its Error-Cause."""
        request = replace(_disconnect(), **changes)
        reply = await self.client.exchange(
            request.code,
            (*encode_dynamic_request(request, VENDOR), *added),
            secret,
            Server(self.dynauth, timeout_s, retries=0),
        )
        causes = [int.from_bytes(value, "big") for kind, value in reply.attributes if kind == 101]
        return reply, causes[0] if causes else None


def _disconnect() -> DynamicRequest:
    return DynamicRequest(
        code=DISCONNECT_REQUEST,
        realm="home.example",
        class_id=b"8 octets",
        spis=(4096, 4097),
        event_timestamp=int(time.time()),
        nas_identifier=b"fa1",
        nas_address=IPv4Address("198.51.100.7"),
        operator_realm="visited.example",
    )


def _configuration(ports: dict[str, Address], **client: Any) -> ForeignConfig:
    texts = {name: f"{host}:{port}" for name, (host, port) in ports.items()}
    agent = {
        "name": "fa1",
        "address": "127.0.0.1/32",
        "secret_file": AGENT_SECRET,
        "fa_nai": "fa1@visited.example",
        "nas_address": "198.51.100.7",
        "nas_identifier": "fa1",
        "dynamic_authorization": texts["agent"],
    }
    return ForeignConfig.model_validate(
        {
            "foreign": {
                "listen": (texts["listen"],),
                "accounting_listen": (texts["accounting"],),
                "dynamic_authorization_listen": (texts["dynauth"],),
                "realm": "visited.example",
            },
            "client": ({k: v for k, v in (agent | client).items() if v is not None},),
            "home_server": (
                {
                    "name": "home",
                    "address": "127.0.0.1:9",
                    "accounting": texts["home"],
                    "secret_file": HOME_SECRET,
                    "realms": ("home.example", "second.example"),
                    "timeout_s": 0.3,
                },
                {
                    "name": "another",
                    "address": "127.0.0.9:9",
                    "secret_file": Secret(b"another home's 16"),
                    "realms": ("another.example",),
                },
            ),
        }
    )


@contextlib.asynccontextmanager
async def _world(**client: Any) -> AsyncIterator[World]:
    ports = {n: free_address() for n in ("listen", "accounting", "dynauth", "home", "agent")}
    home = Party(ACCOUNTING, HOME_SECRET, _records, ports["home"])
    agent = Party(DYNAMIC_AUTHORIZATION, AGENT_SECRET, _obeys, ports["agent"])
    world = World(ports["accounting"], ports["dynauth"], home, agent)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        serve_foreign(_configuration(ports, **client), stop=stop, ready=ready.set)
    )
    started = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), task
        yield world
    finally:
        started.cancel()
        stop.set()
        await asyncio.wait_for(task, 10)
        world.client.close()
        home.server.close()
        agent.server.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with _world() as running:
        yield running


def _without(attributes: Attributes, *kinds: int) -> Attributes:
    return tuple(a for a in attributes if a[0] not in kinds)


async def test_accounting_reaches_the_home_in_our_name_and_its_answer_the_agent(
    world: World,
) -> None:
    reply = await world.report(REPORT)
    assert reply.code == ACCOUNTING_RESPONSE
    (heard,) = world.home.heard
    attributes = heard.request.attributes
    assert _without(attributes, 80, 126, 33) == encode_accounting_request(REPORT, VENDOR)
    assert [v for k, v in attributes if k == 126] == [b"1visited.example"]
    assert len(proxy_states(attributes)) == 1
    assert proxy_states(reply.attributes) == ()


async def test_without_the_home_there_is_no_answer_and_with_it_there_is(world: World) -> None:
    world.home.answer = _is_silent
    with pytest.raises(NoAnswer):
        await world.report(REPORT, timeout_s=3)
    assert len(world.home.heard) > 1, "sent only once"
    world.home.answer = _records
    assert (await world.report(REPORT)).code == ACCOUNTING_RESPONSE


async def test_what_an_agent_says_of_itself_goes_to_every_home(world: World) -> None:
    """It has no realm; the home that nobody hears keeps nothing from the one that answers."""
    begins = AccountingRequest(status=AccountingStatus.ACCOUNTING_ON, nas_identifier=b"fa1")
    assert (await world.report(begins)).code == ACCOUNTING_RESPONSE
    assert len(world.home.heard) == 1
    world.home.answer = _is_silent
    with pytest.raises(NoAnswer):
        await world.report(begins, timeout_s=3)
    with pytest.raises(NoAnswer):
        await world.report(replace(begins, nas_identifier=b"fa2"), timeout_s=0.3)


@pytest.mark.parametrize(
    "change",
    [
        {"nas_identifier": b"fa2"},
        {"nas_address": IPv4Address("198.51.100.8")},
        {"fa_nai": b"fa2@visited.example"},
        {"user_name": b"m-0123456789abcdef@nowhere.example"},
        {"user_name": None},
    ],
)
async def test_accounting_in_anothers_name_goes_nowhere(
    world: World, change: dict[str, Any]
) -> None:
    with pytest.raises(NoAnswer):
        await world.report(replace(REPORT, **change), timeout_s=0.3)
    assert not world.home.heard


async def test_a_disconnect_reaches_the_agent_and_its_answer_the_home(world: World) -> None:
    reply, cause = await world.ask((33, b"home's own"))
    assert (reply.code, cause) == (DISCONNECT_ACK, None)
    assert proxy_states(reply.attributes) == (b"home's own",)
    (heard,) = world.agent.heard
    asked = encode_dynamic_request(replace(_disconnect(), operator_realm=None), VENDOR)
    got = _without(heard.request.attributes, 80, 33, 55)
    assert got == _without(asked, 55), "the operator's name is for proxies alone"
    assert len(proxy_states(heard.request.attributes)) == 2
    reply, _ = await world.ask(code=COA_REQUEST)
    assert reply.code == COA_ACK


async def test_the_agents_refusal_and_its_cause_pass(world: World) -> None:
    def refuses(transaction: Transaction) -> None:
        transaction.respond(DISCONNECT_NAK, ((101, (503).to_bytes(4, "big")),))

    world.agent.answer = refuses
    reply, cause = await world.ask()
    assert (reply.code, cause) == (DISCONNECT_NAK, 503)


async def test_an_agent_that_is_silent_leaves_the_home_without_an_answer(world: World) -> None:
    """It asks again, and is heard as soon as the agent is back."""
    world.agent.answer = _is_silent
    with pytest.raises(NoAnswer):
        await world.ask(timeout_s=3)
    assert len(world.agent.heard) == 3
    assert len({heard.request.octets for heard in world.agent.heard}) == 1
    world.agent.answer = _obeys
    reply, _ = await world.ask()
    assert reply.code == DISCONNECT_ACK


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"operator_realm": "other.example"}, 502),
        ({"operator_realm": None}, 502),
        ({"realm": "another.example"}, 502),  # another home's visitors
        ({"realm": "nowhere.example"}, 502),
        ({"nas_identifier": b"fa2"}, 403),
    ],
)
async def test_what_no_agent_gets_is_answered(
    world: World, change: dict[str, Any], cause: int
) -> None:
    reply, given = await world.ask(**change)
    assert (reply.code, given) == (DISCONNECT_NAK, cause)
    assert not world.agent.heard


async def test_every_realm_of_a_home_may_ask(world: World) -> None:
    reply, _ = await world.ask(realm="second.example")
    assert reply.code == DISCONNECT_ACK


async def test_what_is_old_or_not_authentic_hears_nothing(world: World) -> None:
    for change in (
        {"event_timestamp": int(time.time()) - 400},
        {"event_timestamp": int(time.time()) + 400},
        {"secret": Secret(b"not the secret!!")},
    ):
        with pytest.raises(NoAnswer):
            await world.ask(timeout_s=0.3, **change)
    assert not world.agent.heard


async def test_each_port_has_its_own_codes(world: World) -> None:
    """An Access-Request to the accounting port, a Disconnect from an agent: both unheard."""
    for code, secret, address in (
        (ACCESS_REQUEST, AGENT_SECRET, world.accounting),
        (DISCONNECT_REQUEST, AGENT_SECRET, world.accounting),
        (DISCONNECT_REQUEST, AGENT_SECRET, world.dynauth),
        (ACCOUNTING_REQUEST, HOME_SECRET, world.dynauth),
    ):
        with pytest.raises(NoAnswer):
            await world.client.exchange(
                code,
                encode_dynamic_request(_disconnect(), VENDOR),
                secret,
                Server(address, 0.2, retries=0),
            )
    assert not world.home.heard and not world.agent.heard


async def test_an_agent_that_takes_no_such_requests() -> None:
    async with _world(dynamic_authorization=None) as world:
        reply, cause = await world.ask()
        assert (reply.code, cause) == (DISCONNECT_NAK, 406)


async def test_a_proxy_before_us_gets_what_is_for_its_operators() -> None:
    """RFC 8559 §3.2: by the Operator-Name, which goes with it."""
    only = {"fa_nai": None, "nas_address": None, "nas_identifier": None}
    async with _world(realms=("hub.example",), **only) as world:
        reply, _ = await world.ask(operator_realm="hub.example", nas_identifier=b"their own")
        assert reply.code == DISCONNECT_ACK
        (heard,) = world.agent.heard
        assert [v for k, v in heard.request.attributes if k == 126] == [b"1hub.example"]
        _, cause = await world.ask()
        assert cause == 403  # no agent of our own realm
        report = replace(REPORT, operator_name=b"1hub.example", nas_identifier=b"their own")
        assert (await world.report(report)).code == ACCOUNTING_RESPONSE
        for wrong in (b"1visited.example", b"1another.example"):
            with pytest.raises(NoAnswer):
                await world.report(replace(report, operator_name=wrong), timeout_s=0.3)
        assert len(world.home.heard) == 1
