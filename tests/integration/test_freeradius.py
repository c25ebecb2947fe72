"""FreeRADIUS as a hop between a foreign agent and the home: on either side of our own proxy."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aaa.demo.configurations import free_address, text_of
from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.accounting import SESSION_ID, STATUS_TYPE
from aaa.radius.attributes import OPERATOR_NAME, USER_NAME
from aaa.radius.counters import Counters
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    proxy_states,
)
from aaa.roles.mobile_node import Heard
from aaa.serve.mobile_node import NoReply, Retransmission
from kdc.model import Secret
from tests.integration.domains import Domains
from tests.integration.freeradius import FreeRadius, NextHop, needs_freeradius
from tests.integration.loopback import LoopbackCapture, needs_tshark
from tests.integration.visits import Visitors, check_agreement, stored_associations

pytestmark = [needs_freeradius, needs_tshark]

NODES = 1000
ACCOUNTED = 50
LONGEST_S = 120.0


def _home(domains: Domains) -> NextHop:
    secret = domains.secret("visited.secret").decode()
    return NextHop(domains.ports["home"], secret, domains.ports.get("accounting"))


def _in_front(domains: Domains, ended: ExitStack, operator: str) -> FreeRadius:
    """Agent -> FreeRADIUS, which is the foreign AAA -> home."""
    secret = domains.secret("fa1.secret").decode()
    hub = FreeRadius(domains.folder / "hub", secret, [_home(domains)], operator=operator)
    ended.callback(hub.kill)
    domains.edit("agent.toml", text_of(domains.ports["foreign"]), text_of(hub.address))
    return hub


def _behind(domains: Domains, ended: ExitStack) -> FreeRadius:
    """Our proxy -> FreeRADIUS, its next hop -> home."""
    hub = FreeRadius(
        domains.folder / "hub", domains.secret("visited.secret").decode(), [_home(domains)]
    )
    ended.callback(hub.kill)
    domains.edit("foreign.toml", text_of(domains.ports["home"]), text_of(hub.address))
    return hub


async def _start(domains: Domains, hub: FreeRadius, *, proxy: bool) -> Heard:
    """Everything up and answering; what the agent advertises."""
    domains.start("home")
    hub.start()
    if proxy:
        domains.start("foreign")
    domains.start("agent")
    await domains.wait_for("home", "visited.secret")
    await hub.wait()
    if proxy:
        await domains.wait_for("foreign", "fa1.secret")
    return await domains.advertised()


def _capture(domains: Domains, ended: ExitStack, hub: FreeRadius) -> LoopbackCapture:
    ports = {domains.ports[name]: "radius" for name in ("home", "foreign")}
    ports |= {hub.address: "radius", domains.ports["agent"]: "mip"}
    capture = LoopbackCapture(domains.folder / "capture.pcapng", ports)
    ended.callback(capture.kill)
    return capture


def _check_keys(domains: Domains, visitors: Visitors) -> None:
    assert len(visitors.visits) == NODES
    stored = stored_associations(domains.postgres, domains.database_name)
    answers = [visit.answer for visit in visitors.visits]
    check_agreement(answers, stored, domains.installed())
    assert _operators(domains) == {"visited.example": NODES}


def _operators(domains: Domains) -> dict[str | None, int]:
    """Of how many registrations home knows which verified operator."""
    with psycopg.connect(domains.postgres.conninfo(domains.database_name)) as connection:
        query = "SELECT operator_realm, count(*) FROM registrations GROUP BY 1"
        return dict(connection.execute(query).fetchall())


def _check_wire(capture: LoopbackCapture, domains: Domains, *, hops: int) -> None:
    """Nothing malformed; each hop of RADIUS carried each registration; Proxy-States came back."""
    capture.stop()
    wire = capture.read()
    assert wire.remarks() == []
    codes = wire.codes()
    assert min(codes[ACCESS_REQUEST], codes[ACCESS_ACCEPT]) >= hops * NODES
    assert codes[ACCESS_REJECT] == 0
    home = domains.ports["home"][1]
    asked = wire.to(home, ACCESS_REQUEST)
    answered = wire.of(home, ACCESS_ACCEPT)
    assert {v for packet in asked for k, v in packet.attributes if k == OPERATOR_NAME} == {
        b"1visited.example"
    }
    sent, came = (
        {(packet.identifier, proxy_states(packet.attributes)) for packet in packets}
        for packets in (asked, answered)
    )
    assert sent == came and {len(states) for _, states in sent} == {hops - 1}  # each hop's own
    assert min(len(asked), len(answered)) >= NODES
    assert all(packet.message_authenticator_at for packet in asked + answered)


@pytest.mark.slow
async def test_freeradius_as_the_foreign_aaa_in_front_of_our_home(
    domains: Domains, ended: ExitStack
) -> None:
    """Agent -> FreeRADIUS, whose policy names the operator -> `aaa home`."""
    enrolments = domains.provision(NODES)
    hub = _in_front(domains, ended, "visited.example")
    heard = await _start(domains, hub, proxy=False)
    capture = _capture(domains, ended, hub)
    visitors = Visitors(enrolments, domains.ports["agent"])
    took_s = await visitors.register(heard)
    print(f"\n{took_s:.1f} s: {visitors.summary}")  # noqa: T201 - a measurement
    _check_keys(domains, visitors)
    _check_wire(capture, domains, hops=2)
    assert took_s < LONGEST_S


async def test_an_operator_for_whom_freeradius_may_not_speak_is_refused(
    domains: Domains, ended: ExitStack
) -> None:
    enrolments = domains.provision(1)
    hub = _in_front(domains, ended, "elsewhere.example")
    heard = await _start(domains, hub, proxy=False)
    visitors = Visitors(enrolments, domains.ports["agent"], Retransmission(retries=0))
    with pytest.raises(NoReply, match="67"):
        await visitors.register(heard)
    assert _operators(domains) == {} and domains.installed() == []


@pytest.mark.slow
async def test_freeradius_as_the_home_server_behind_our_proxy(
    domains: Domains, ended: ExitStack
) -> None:
    """Agent -> `aaa foreign` -> FreeRADIUS -> `aaa home`."""
    enrolments = domains.provision(NODES)
    hub = _behind(domains, ended)
    heard = await _start(domains, hub, proxy=True)
    capture = _capture(domains, ended, hub)
    visitors = Visitors(enrolments, domains.ports["agent"])
    took_s = await visitors.register(heard)
    print(f"\n{took_s:.1f} s: {visitors.summary}")  # noqa: T201 - a measurement
    _check_keys(domains, visitors)
    _check_wire(capture, domains, hops=3)
    assert took_s < LONGEST_S


async def test_freeradius_takes_accounting_to_our_home(domains: Domains, ended: ExitStack) -> None:
    """Each session's Start, by the agent through FreeRADIUS, is tied to its registration."""
    enrolments = domains.provision(ACCOUNTED)
    domains.ports["accounting"] = free_address()
    listening = f'accounting_listen = ["{text_of(domains.ports["accounting"])}"]'
    domains.edit("home.toml", "[home]\n", f"[home]\n{listening}\n")
    hub = _in_front(domains, ended, "visited.example")
    told = f'accounting = true\naccounting_server = "{text_of(hub.accounting)}"'
    domains.edit("agent.toml", "[radius]\n", f"[radius]\n{told}\n")
    heard = await _start(domains, hub, proxy=False)
    visitors = Visitors(enrolments, domains.ports["agent"])
    await visitors.register(heard)
    until = time.monotonic() + 20
    while len(sessions := _sessions(domains)) < ACCOUNTED:
        assert time.monotonic() < until, domains.log("agent") + hub.log()
        await asyncio.sleep(0.2)
    assert len({each["registration"] for each in sessions}) == ACCOUNTED
    assert all(each["registered"] for each in sessions)
    assert {each["operator_realm"] for each in sessions} == {"visited.example"}
    spis = {spi for each in sessions for spi in each["spis"]}
    assert spis == {line["spi"] for line in domains.installed()}


def _sessions(domains: Domains) -> list[dict[str, Any]]:
    printed = domains.kdc("session", "list", "--json", "--config", "home.toml")
    return [json.loads(line) for line in printed.splitlines()]


async def test_freeradius_signs_an_answer_to_accounting_over_zeros(
    tmp_path: Path, ended: ExitStack
) -> None:
    """As FreeRADIUS 3.2 does; RFC 2866 and RFC 2869 have no such signature at all."""
    secret = "between our proxy and FreeRADIUS"
    hub = FreeRadius(tmp_path / "hub", secret, [NextHop(free_address(), secret)])
    ended.callback(hub.kill)
    hub.start()
    await hub.wait()
    client = RadiusClient(Counters())
    ended.callback(client.close)
    start = ((STATUS_TYPE, bytes((0, 0, 0, 1))), (SESSION_ID, b"1"), (USER_NAME, b"n@o.example"))
    key = Secret(secret.encode())
    answer = await client.exchange(ACCOUNTING_REQUEST, start, key, Server(hub.accounting))
    assert answer.code == ACCOUNTING_RESPONSE and answer.message_authenticator_at
