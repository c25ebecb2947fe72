"""The roaming hub: FreeRADIUS -> radsecproxy -> TLS -> home, and what each of them could read."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from aaa.demo.configurations import AGENTS
from aaa.exchange import AccessAccept
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.tls import load_contexts
from aaa.net.udp import Address
from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.attributes import decode_access_response, encode_access_request
from aaa.radius.counters import Counters
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
)
from aaa.roles.foreign_agent import Delivery, FaIdentity, ForeignAgent, Relayed
from aaa.roles.mobile_node import (
    Heard,
    MobileNodeState,
    Registered,
    accept_reply,
    build_request,
    next_spi,
)
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Nai, Pair, Secret
from tests.integration.domains import Domains
from tests.integration.freeradius import FreeRadius, NextHop, needs_freeradius
from tests.integration.loopback import (
    Dissection,
    LoopbackCapture,
    needs_tshark,
    write_capture,
)
from tests.integration.radsecproxy import DEBUG, free_port, needs_radsecproxy, radsecproxy
from tests.integration.recorder import Recorder, packets_in
from tests.integration.visits import stored_associations
from tests.secret_search import leaks
from tests.unit.net.authority import Authority

pytestmark = [needs_freeradius, needs_radsecproxy, needs_tshark]

NODES = 200
AT_ONCE = 16
TERMS = MnTerms()
UDP_SECRET = "between FreeRADIUS and radsecproxy"
HUB = "hub.visited.example"


@dataclass(frozen=True)
class Registration:
    """One node's, at both of its ends."""

    enrolment: Enrolment
    answer: Registered
    delivery: Delivery
    class_id: bytes
    asked: bytes  # the Registration Request
    told: bytes  # the reply that home sealed

    def secrets(self) -> Iterator[bytes]:
        """KEY0, KEY1, and the agent's KEY2 and KEY3."""
        yield self.enrolment.key0.reveal()
        yield self.answer.mn_ha.keys.reveal()
        for item in self.delivery.associations:
            yield item.keys.reveal()


class Agent:
    """fa1 in this process: its keys can be looked at, as no process shows them."""

    def __init__(self, server: Address, secret: Secret) -> None:
        address = IPv4Address(AGENTS["fa1"])
        nai = Nai.parse("fa1@visited.example")
        self._role = ForeignAgent(FaIdentity(nai, address, address, b"fa1"))
        self._role.rotate_key(now=time.time(), entropy=os.urandom)
        self._heard = Heard(self._role.announcement, address, address)
        self._server, self._secret = Server(server), secret
        self.client = RadiusClient(Counters())
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def register(self, enrolment: Enrolment) -> Registration:
        """Steps 1 to 12 of one node; fails unless it is accepted."""
        async with self._limit:
            node = MobileNodeState.enrolled(enrolment)
            _, offers = Negotiation().offer(TERMS, spi=next_spi(node), entropy=os.urandom)
            node, pending = build_request(
                node,
                self._heard,
                lifetime_s=600,
                now=time.time(),
                entropy=os.urandom,
                offers=offers,
            )
            relayed = self._role.on_request(pending.octets, (str(enrolment.nai), 434))
            assert isinstance(relayed, Relayed)
            attributes = encode_access_request(relayed.access, DEFAULT_VENDOR_ID)
            packet = await self.client.exchange(
                ACCESS_REQUEST, attributes, self._secret, self._server
            )
            response = decode_access_response(packet, DEFAULT_VENDOR_ID)
            assert isinstance(response, AccessAccept), response
            delivery = self._role.on_response(relayed, response)
        _, answer = accept_reply(node, pending, delivery.octets, now=time.time(), terms=TERMS)
        assert isinstance(answer, Registered), answer
        return Registration(
            enrolment,
            answer,
            delivery,
            response.class_id,
            pending.octets,
            response.registration_reply,
        )

    async def account(self, server: Address, registration: Registration) -> None:
        """The Start of its session; fails unless it is answered."""
        delivery = registration.delivery
        assert delivery.alias is not None
        start = AccountingRequest(
            status=AccountingStatus.START,
            session_id=registration.class_id.hex().encode(),
            nas_identifier=b"fa1",
            user_name=delivery.alias.octets,
            classes=(registration.class_id,),
            spis=tuple(item.spi for item in delivery.associations),
            event_timestamp=int(time.time()),
        )
        attributes = encode_accounting_request(start, DEFAULT_VENDOR_ID)
        async with self._limit:
            await self.client.exchange(ACCOUNTING_REQUEST, attributes, self._secret, Server(server))


@dataclass
class Hub:
    """Where everything of the way listens, and what there is to look at afterwards."""

    freeradius: FreeRadius
    udp: Address  # radsecproxy
    accounting: Address  # the same: FreeRADIUS takes no address twice
    tls: Address  # the recorder in front of home
    home: Address


def _configure(domains: Domains, authority: Authority) -> Hub:
    udp, accounting = (("127.0.0.1", free_port(socket.SOCK_DGRAM)) for _ in range(2))
    tls, home = (("127.0.0.1", free_port(socket.SOCK_STREAM)) for _ in range(2))
    issued = authority.issue("home", ["home.home.example"])
    file = domains.folder / "home.toml"
    file.write_text(
        file.read_text().replace("[home]\n", f'[home]\ntls_listen = ["127.0.0.1:{home[1]}"]\n')
        + f"""
[tls]
certificate_file = "{issued.certificate_file}"
key_file = "{issued.key_file}"
ca_file = "{authority.file}"

[[client]]
name = "hub"
san = ["{HUB}"]
realms = ["visited.example"]
"""
    )
    freeradius = FreeRadius(
        domains.folder / "hub",
        domains.secret("fa1.secret").decode(),
        [NextHop(udp, UDP_SECRET, accounting)],
        operator="visited.example",
        debug=True,
    )
    return Hub(freeradius, udp, accounting, tls, home)


def _proxying(hub: Hub) -> str:
    return f"""
        ListenUDP 127.0.0.1:{hub.udp[1]}
        ListenUDP 127.0.0.1:{hub.accounting[1]}
        client 127.0.0.1 {{
            type udp
            secret "{UDP_SECRET}"
        }}
        server home {{
            type tls
            host 127.0.0.1
            port {hub.tls[1]}
            secret radsec
            StatusServer on
        }}
        realm * {{
            server home
            accountingServer home
        }}
    """


def _check_keys(domains: Domains, registrations: list[Registration]) -> None:
    """KEY2 and KEY3 opened at the agent: they are those of home and of the node."""
    stored = stored_associations(domains.postgres, domains.database_name)
    at_home = {item.spi: item.keys for item in stored}
    assert len(at_home) == 3 * NODES
    for each in registrations:
        at_agent = {item.pair: item for item in each.delivery.associations}
        assert set(at_agent) == {Pair.MN_FA, Pair.FA_HA}
        assert at_agent[Pair.MN_FA].keys == each.answer.mn_fa.keys
        assert at_agent[Pair.FA_HA].keys == at_home[at_agent[Pair.FA_HA].spi]
        assert at_home[each.answer.mn_ha.spi] == each.answer.mn_ha.keys


@pytest.mark.slow
async def test_keys_open_at_the_agent_and_no_hop_could_read_them(
    domains: Domains, tmp_path: Path
) -> None:
    enrolments = domains.provision(NODES)
    authority = Authority(tmp_path)
    hub = _configure(domains, authority)
    recorder = Recorder()
    between = load_contexts(authority.files(authority.issue("both", ["127.0.0.1", HUB])))
    proxy = authority.issue("proxy", ["proxy.visited.example"])
    freeradius = hub.freeradius
    by_udp = (freeradius.address, freeradius.accounting, hub.udp, hub.accounting)
    captured = dict.fromkeys(by_udp, "radius") | {hub.tls: "tls"}
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    async with recorder.listening(hub.tls, hub.home, between):
        with (
            radsecproxy(tmp_path, authority, proxy, _proxying(hub), level=DEBUG) as proxy_log,
            ExitStack() as ended,
        ):
            freeradius.start()
            ended.callback(freeradius.kill)
            await freeradius.wait()
            capture = LoopbackCapture(tmp_path / "capture.pcapng", captured)
            ended.callback(capture.kill)
            agent = Agent(freeradius.address, Secret(domains.secret("fa1.secret")))
            ended.callback(agent.client.close)
            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                registering = [tasks.create_task(agent.register(each)) for each in enrolments]
            print(f"\n{time.monotonic() - began:.1f} s")  # noqa: T201 - a measurement
            registrations = [task.result() for task in registering]
            async with asyncio.TaskGroup() as tasks:
                for each in registrations:
                    tasks.create_task(agent.account(freeradius.accounting, each))
            capture.stop()
    _check_keys(domains, registrations)
    _check_sessions(domains, registrations)
    _check_wire(capture, recorder, tmp_path / "inside-tls.pcap")
    _check_silence(registrations, capture, recorder, freeradius.log(), proxy_log.read_bytes())


def _check_sessions(domains: Domains, registrations: list[Registration]) -> None:
    """Each is accounted for, over the same connection, and tied to its registration."""
    printed = domains.kdc("session", "list", "--json", "--config", "home.toml")
    sessions = [json.loads(line) for line in printed.splitlines()]
    assert {each["registration"] for each in sessions} == {
        each.class_id.hex() for each in registrations
    }
    assert all(each["registered"] and each["peer"] == "hub" for each in sessions)


def _check_wire(capture: LoopbackCapture, recorder: Recorder, inside: Path) -> None:
    """All registrations passed both sides of radsecproxy, and Wireshark has no complaint."""
    requests, responses = (packets_in(bytes(s)) for s in (recorder.requests, recorder.responses))
    write_capture(inside, (*requests, *responses))
    outside = capture.read()
    for wire, hops in ((outside, 2), (Dissection(inside), 1)):
        assert wire.remarks() == []
        codes = wire.codes()
        assert min(codes[ACCESS_REQUEST], codes[ACCESS_ACCEPT]) >= hops * NODES
        assert min(codes[ACCOUNTING_REQUEST], codes[ACCOUNTING_RESPONSE]) >= hops * NODES
        assert codes[ACCESS_REJECT] == 0
    assert recorder.connections == 1


def _check_silence(
    registrations: list[Registration],
    capture: LoopbackCapture,
    recorder: Recorder,
    freeradius_log: str,
    radsecproxy_log: bytes,
) -> None:
    """No key in any octet of any hop; what the search would find stands in each of them."""
    asked = [registrations[0].asked, registrations[-1].asked]
    told = [registrations[0].told, registrations[-1].told]
    # What is no secret is found by the same search, or it would find nothing.
    texts = {
        "around radsecproxy": (capture.octets, asked + told),
        "inside TLS, toward home": (bytes(recorder.requests), asked),
        "inside TLS, from home": (bytes(recorder.responses), told),
        "what FreeRADIUS prints": (freeradius_log.encode(), asked + told),
        "what radsecproxy logs": (radsecproxy_log, []),
    }
    secrets = [secret for each in registrations for secret in each.secrets()]
    assert len(secrets) == 4 * NODES
    for name, (text, public) in texts.items():
        assert not leaks(secrets, text), name
        assert all(leaks([octets], text) for octets in public), name
    assert radsecproxy_log.count(b"Access-Accept") >= NODES
