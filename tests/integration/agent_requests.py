"""Who talks RADIUS with a real `aaa agent`: an accounting server, and a home that ends sessions."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from aaa.demo.configurations import free_address
from aaa.net.mobile_ip import MobileIpSocket
from aaa.net.transactions import Transaction
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius.accounting import AccountingRequest, decode_accounting_request
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.dynauth import (
    DynamicAnswer,
    DynamicRequest,
    decode_dynamic_answer,
    encode_dynamic_request,
)
from aaa.radius.packet import (
    ACCOUNTING_RESPONSE,
    DISCONNECT_REQUEST,
    Attributes,
    decode,
    encode_request,
    verify_response,
)
from aaa.radius.ports import ACCOUNTING
from aaa.roles.mobile_node import Heard, MobileNodeState, Registered, build_request
from aaa.roles.mobile_node_terms import MnTerms
from aaa.serve.mobile_node import Retransmission, exchange
from aaa.serve.radius_server import RadiusServer
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Secret
from tests.integration.domains import Domains

PATIENCE = Retransmission(timeout_s=4, retries=3)
GRACE_S = 0.5  # how long silence is listened to


@dataclass
class AccountingServer:
    """Answers and keeps what a foreign agent sends, unless it is to be silent."""

    secret: Secret
    answering: bool = True
    records: asyncio.Queue[AccountingRequest] = field(default_factory=asyncio.Queue)
    octets: list[bytes] = field(default_factory=list)  # all that was heard
    heard: int = 0
    server: RadiusServer = field(init=False)
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        client = Client("fa1", ip_network("127.0.0.0/8"), (self.secret,))
        self.server = RadiusServer(
            ClientTable([client]), Counters(), self._on_requests, port=ACCOUNTING
        )
        self.address = self.server.listen(("127.0.0.1", 0)).address

    def _on_requests(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            self.heard += 1
            self.octets.append(transaction.request.octets)
            if not self.answering:
                transaction.forget()
                continue
            record = decode_accounting_request(transaction.request, DEFAULT_VENDOR_ID)
            transaction.respond(ACCOUNTING_RESPONSE, ())
            self.records.put_nowait(record)

    async def take(self, status: AccountingStatus) -> AccountingRequest:
        """The next record, which must be of that status."""
        record = await asyncio.wait_for(self.records.get(), 20)
        assert record.status is status, record
        return record

    def close(self) -> None:
        self.server.close()


@dataclass
class Asker:
    """Sends Disconnect- and CoA-Requests as octets, and keeps all of them and what comes back."""

    to: Address
    secret: Secret
    source: str = "127.0.0.1"
    octets: list[bytes] = field(default_factory=list)
    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    endpoint: UdpEndpoint = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = UdpEndpoint.open((self.source, 0), self._on_batch)
        self._identifier = 0

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, _ in batch:
            self.octets.append(octets)
            self.heard.put_nowait(octets)

    def send(self, octets: bytes) -> None:
        self.octets.append(octets)
        self.endpoint.send_many([(octets, self.to)])

    def wire(self, code: int, attributes: Attributes, secret: Secret | None = None) -> bytes:
        self._identifier += 1
        return encode_request(code, self._identifier, bytes(16), attributes, secret or self.secret)

    async def ask(self, request: DynamicRequest) -> DynamicAnswer:
        attributes = encode_dynamic_request(request, DEFAULT_VENDOR_ID)
        return await self.ask_raw(self.wire(request.code, attributes))

    async def ask_raw(self, octets: bytes) -> DynamicAnswer:
        self.send(octets)
        answer = await asyncio.wait_for(self.heard.get(), 5)
        response = verify_response(
            decode(answer), octets[4:20], self.secret, request_code=octets[0]
        )
        return decode_dynamic_answer(response)

    async def is_dropped(self, octets: bytes) -> bool:
        self.send(octets)
        await asyncio.sleep(GRACE_S)
        return self.heard.empty()

    def close(self) -> None:
        self.endpoint.close()


@dataclass
class Agent:
    """The domains with an agent that accounts to us and listens to us."""

    domains: Domains
    accounting: AccountingServer
    asker: Asker
    heard: Heard

    @property
    def keys_file(self) -> Path:
        return self.domains.folder / "agent-keys.json"

    async def held(self, spis: set[int]) -> None:
        """Until the file of keys has exactly these associations."""
        until = time.monotonic() + 10
        while True:
            found = {item["spi"] for item in json.loads(self.keys_file.read_text())["associations"]}
            if found == spis:
                return
            assert time.monotonic() < until, found
            await asyncio.sleep(0.05)

    def dropped(self) -> list[dict[str, Any]]:
        return [item for item in self.domains.installed() if "dropped" in item]


def configure_agent(domains: Domains, accounting: AccountingServer) -> Address:
    """`agent.toml` with [keys], accounting and dynamic authorization; where the last listens."""
    listen = free_address()
    text = (
        'state_file = "installed.jsonl"\nsession_file = "sessions.json"\n'
        f'dynamic_authorization_listen = "{_text(listen)}"\n'
    )
    domains.edit("agent.toml", 'state_file = "installed.jsonl"\n', text)
    domains.edit(
        "agent.toml",
        'secret_file = "fa1.secret"\n',
        'secret_file = "fa1.secret"\ntimeout_s = 0.5\nretries = 1\naccounting = true\n'
        f'accounting_server = "{_text(accounting.address)}"\n'
        '\n[keys]\nfile = "agent-keys.json"\n',
    )
    return listen


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


class Visitor:
    """A mobile node."""

    def __init__(self, enrolment: Enrolment) -> None:
        self.state = MobileNodeState.enrolled(enrolment)
        self.answers: list[Registered] = []

    async def register(self, agent: Agent, *, lifetime_s: int = 600) -> object:
        """What it is answered: Registered, Deregistered, or a denial."""
        self.state, pending = build_request(
            self.state, agent.heard, lifetime_s=lifetime_s, now=time.time(), entropy=os.urandom
        )
        async with MobileIpSocket.open(agent.domains.ports["agent"]) as link:
            self.state, answer = await exchange(
                link, self.state, pending, PATIENCE, terms=MnTerms(), vendor_id=DEFAULT_VENDOR_ID
            )
        if isinstance(answer, Registered):
            self.answers.append(answer)
        return answer

    def secrets(self) -> list[bytes]:
        """KEY0, KEY1 and KEY3 of each registration."""
        keys = [key for one in self.answers for key in (one.mn_ha.keys, one.mn_fa.keys)]
        return [self.state.enrolment.key0.reveal(), *(key.reveal() for key in keys)]


def asked_of(record: AccountingRequest, code: int = DISCONNECT_REQUEST) -> DynamicRequest:
    """What home asks about the session that accounting told it of."""
    return DynamicRequest(
        code=code,
        realm="home.example",
        class_id=record.classes[0],
        spis=record.spis,
        event_timestamp=int(time.time()),
        nas_identifier=record.nas_identifier,
        nas_address=record.nas_address,
        operator_realm="visited.example",
    )
