"""A next hop dies in the middle of the load and comes back: nobody's registration is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from aaa.demo.configurations import free_address, text_of
from aaa.net.udp import Address
from aaa.radius.packet import ACCESS_ACCEPT, ACCESS_REQUEST
from tests.integration.domains import Domains
from tests.integration.freeradius import FreeRadius, NextHop, needs_freeradius
from tests.integration.loopback import LoopbackCapture, needs_tshark
from tests.integration.visits import Visitors, check_agreement, stored_associations

pytestmark = [needs_freeradius, needs_tshark, pytest.mark.slow]

BEFORE, AFTER = 600, 400  # registrations around the death, and after the return
DIES_AFTER = 200
LONGEST_S = 5.0  # of one registration: our proxy's deadline is 2.5 s, an agent's next try 3 s
REVIVED_WITHIN_S = 30.0
NAMES = ("first", "second")


@dataclass
class Pair:
    """Two next hops of our proxy that can stand in for each other."""

    addresses: tuple[Address, Address]
    kill_first: Callable[[], None]
    revive_first: Callable[[], None]
    answering: Callable[[], Awaitable[None]]


def _two_freeradius(domains: Domains, ended: ExitStack) -> Pair:
    """Both go on to the one home."""
    secret = domains.secret("visited.secret").decode()
    domains.start("home")
    hubs = [
        FreeRadius(domains.folder / name, secret, [NextHop(domains.ports["home"], secret)])
        for name in NAMES
    ]
    for hub in hubs:
        hub.start()
        ended.callback(hub.kill)

    async def answering() -> None:
        await domains.wait_for("home", "visited.secret")
        for hub in hubs:
            await hub.wait()

    return Pair((hubs[0].address, hubs[1].address), hubs[0].kill, hubs[0].start, answering)


def _two_homes(domains: Domains, ended: ExitStack) -> Pair:
    """Two processes of the home on one database."""
    domains.ports["home2"] = free_address()
    text = (domains.folder / "home.toml").read_text()
    addresses = domains.ports["home"], domains.ports["home2"]
    text = text.replace(text_of(addresses[0]), text_of(addresses[1]))
    (domains.folder / "home2.toml").write_text(text)

    def start() -> None:
        domains.start("home")

    def kill() -> None:
        process = domains.processes.pop("home")
        process.kill()
        process.wait()

    async def answering() -> None:
        for name in ("home", "home2"):
            await domains.wait_for(name, "visited.secret")

    start()
    domains.start("home2", config="home2.toml", kind="home")
    return Pair(addresses, kill, start, answering)


def _pool(domains: Domains, addresses: tuple[Address, Address]) -> None:
    """foreign.toml with both, the first asked first."""
    file = domains.folder / "foreign.toml"
    before, _, _ = file.read_text().partition("[[home_server]]")
    servers = "".join(
        f"""
[[home_server]]
name = "{name}"
address = "{text_of(address)}"
secret_file = "visited.secret"
realms = ["home.example"]
probe_interval_s = 2
"""
        for name, address in zip(NAMES, addresses, strict=True)
    )
    file.write_text(before + servers)


async def _until(domains: Domains, line: str) -> None:
    """Until the proxy has logged it."""
    until = time.monotonic() + REVIVED_WITHIN_S
    while line not in domains.log("foreign"):
        assert time.monotonic() < until, domains.log("foreign")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("two", [_two_freeradius, _two_homes])
async def test_the_second_takes_over_and_the_first_returns(
    domains: Domains, ended: ExitStack, two: Callable[[Domains, ExitStack], Pair]
) -> None:
    enrolments = domains.provision(BEFORE + AFTER)
    hops = two(domains, ended)
    _pool(domains, hops.addresses)
    await hops.answering()
    for name in ("foreign", "agent"):
        domains.start(name)
    await domains.wait_for("foreign", "fa1.secret")
    proxy = domains.processes["foreign"].pid
    heard = await domains.advertised()
    ports = dict.fromkeys((*hops.addresses, domains.ports["foreign"]), "radius")
    capture = LoopbackCapture(domains.folder / "capture.pcapng", ports)
    ended.callback(capture.kill)
    around = Visitors(enrolments[:BEFORE], domains.ports["agent"])
    load = asyncio.create_task(around.register(heard))
    while len(around.visits) < DIES_AFTER:
        assert not load.done()
        await asyncio.sleep(0.005)
    hops.kill_first()
    assert len(around.visits) < BEFORE / 2
    died = time.time()
    took_s = await load
    print(f"\nin the middle of {took_s:.1f} s: {around.summary}")  # noqa: T201 - a measurement
    await _until(domains, "now=dead server=first was=suspect")
    hops.revive_first()
    await _until(domains, "now=alive server=first was=reviving")
    assert domains.processes["foreign"].pid == proxy
    returned = time.time()
    afterwards = Visitors(enrolments[BEFORE:], domains.ports["agent"])
    took_s = await afterwards.register(heard)
    print(f"afterwards {took_s:.1f} s: {afterwards.summary}")  # noqa: T201 - a measurement
    _check_kept(domains, around, afterwards)
    _check_wire(capture, hops, died, returned)


def _check_kept(domains: Domains, *loads: Visitors) -> None:
    """Everybody was accepted, for the first request that it made, and soon."""
    visits = [visit for load in loads for visit in load.visits]
    assert len(visits) == BEFORE + AFTER
    assert max(visit.took_s for visit in visits) < LONGEST_S
    assert not any(visit.new_requests for visit in visits)
    answers = [visit.answer for visit in visits]
    stored = stored_associations(domains.postgres, domains.database_name)
    check_agreement(answers, stored, domains.installed())


def _check_wire(capture: LoopbackCapture, hops: Pair, died: float, returned: float) -> None:
    """Who was asked when, and that Wireshark has no complaint."""
    capture.stop()
    wire = capture.read()
    assert wire.remarks() == []
    first, second = (
        [
            seen
            for seen in wire.radius
            if seen.destination == port and seen.packet.code == ACCESS_REQUEST
        ]
        for _, port in hops.addresses
    )
    before = {seen.packet.authenticator for seen in first if seen.at < returned}
    again = sum(seen.at < returned for seen in first) - len(before)
    answered = [
        seen
        for seen in wire.radius
        if seen.source == hops.addresses[0][1]
        and seen.packet.code == ACCESS_ACCEPT
        and seen.at < returned
    ]
    lost = len(before) - len(answered)
    print(f"{lost} lost with the first, sent to it {again} times again")  # noqa: T201
    assert lost > 0, "it did not die in the middle of anything"
    assert not [seen for seen in second if seen.at < died or seen.at > returned]
    assert len(second) > BEFORE / 2
    assert sum(seen.at > returned for seen in first) >= AFTER
