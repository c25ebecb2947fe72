"""`aaa foreign` between a real client and a home of the test's own, over loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aaa.config import ForeignConfig
from aaa.demo.configurations import free_address
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    STATUS_SERVER,
    VerifiedRequest,
    decode,
    encode_request,
    encode_response,
    proxy_states,
    verify_request,
)
from aaa.serve.foreign import serve_foreign
from kdc.model import Secret
from tests.integration.radclient import needs_radclient
from tests.unit.radius.requests import ATTRIBUTES

AGENT_SECRET = Secret(b"agent and foreign")
HOME_SECRET = Secret(b"foreign and home!")
REQUEST_FROM = {  # what tests.unit.radius.requests says it is
    "fa_nai": "fa1@visited.example",
    "nas_address": "198.51.100.7",
    "nas_identifier": "fa1",
}
GRACE_S = 0.3  # how long silence is listened to


@dataclass
class Home:
    """The next hop: takes what comes, answers when told, and a Status-Server at once."""

    requests: asyncio.Queue[tuple[VerifiedRequest, Address]] = field(default_factory=asyncio.Queue)
    endpoint: UdpEndpoint = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = UdpEndpoint.open(("127.0.0.1", 0), self._on_batch)

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            request = verify_request(decode(octets), HOME_SECRET)
            if request.code == STATUS_SERVER:
                self.endpoint.send_many(
                    [(encode_response(ACCESS_ACCEPT, request, (), HOME_SECRET), source)]
                )
            else:
                self.requests.put_nowait((request, source))

    async def take(self) -> tuple[VerifiedRequest, Address]:
        return await asyncio.wait_for(self.requests.get(), 5)

    def answer(self, request: VerifiedRequest, source: Address, *, secret: Secret) -> None:
        octets = encode_response(ACCESS_ACCEPT, request, ((25, b"class"),), secret)
        self.endpoint.send_many([(octets, source)])


@dataclass
class Raw:
    """A client that sends octets as they are and hears whatever comes back."""

    proxy: Address
    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    endpoint: UdpEndpoint = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = UdpEndpoint.open(("127.0.0.1", 0), self._on_batch)

    def _on_batch(self, batch: list[Datagram]) -> None:
        for octets, _ in batch:
            self.heard.put_nowait(octets)

    def send(self, octets: bytes) -> None:
        self.endpoint.send_many([(octets, self.proxy)])

    async def hear(self) -> bytes:
        return await asyncio.wait_for(self.heard.get(), 5)

    async def silence(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.heard.get(), GRACE_S)


@dataclass
class Proxy:
    address: Address
    home: Home
    stop: asyncio.Event
    task: asyncio.Task[None]
    client: RadiusClient
    raw: Raw

    @property
    def server(self) -> Server:
        return Server(self.address, timeout_s=5, retries=0)


def _free_port() -> int:
    return free_address()[1]


def _configuration(
    listen: str, *homes: Address, realm: str = "visited.example", **client: Any
) -> ForeignConfig:
    return ForeignConfig.model_validate(
        {
            "foreign": {"listen": (listen,), "realm": realm},
            "client": (
                {
                    "name": "fa1",
                    "address": "127.0.0.1/32",
                    "secret_file": AGENT_SECRET,
                    **(client if "realms" in client else REQUEST_FROM | client),
                },
            ),
            "home_server": tuple(
                {
                    "name": f"home{number}",
                    "address": f"{home[0]}:{home[1]}",
                    "secret_file": HOME_SECRET,
                    "realms": ("home.example",),
                    "timeout_s": 0.5,
                    "retries": 3,
                }
                for number, home in enumerate(homes)
            ),
        }
    )


@contextlib.asynccontextmanager
async def _serving(
    config: ForeignConfig,
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None]]]:
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve_foreign(config, stop=stop, ready=ready.set))
    await asyncio.wait(
        {task, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    try:
        assert ready.is_set(), "serve_foreign ended before it was ready"
        yield stop, task
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


@contextlib.asynccontextmanager
async def _proxy(**settings: Any) -> AsyncIterator[Proxy]:
    home, address = Home(), ("127.0.0.1", _free_port())
    config = _configuration(f"127.0.0.1:{address[1]}", home.endpoint.address, **settings)
    raw, radius = Raw(address), RadiusClient(Counters())
    try:
        async with _serving(config) as (stop, task):
            yield Proxy(address, home, stop, task, radius, raw)
    finally:
        radius.close()
        raw.endpoint.close()
        home.endpoint.close()


@contextlib.asynccontextmanager
async def _second_home(proxy: Proxy) -> AsyncIterator[tuple[Home, Address]]:
    """Another proxy, which has a second home behind the first one's."""
    second, address = Home(), ("127.0.0.1", _free_port())
    config = _configuration(
        f"127.0.0.1:{address[1]}", proxy.home.endpoint.address, second.endpoint.address
    )
    try:
        async with _serving(config):
            yield second, address
    finally:
        second.endpoint.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with _proxy() as running:
        yield running


@pytest.fixture
async def proxy_before_us() -> AsyncIterator[Proxy]:
    realms = ("visited.example", "partner.example")
    async with _proxy(realm="own.example", realms=realms) as running:
        yield running


def _wire(identifier: int = 7, *added: tuple[int, bytes]) -> bytes:
    attributes = (*ATTRIBUTES, *added)
    return encode_request(ACCESS_REQUEST, identifier, bytes(range(16)), attributes, AGENT_SECRET)


async def test_forwarded_with_our_name_and_answered_with_the_homes_attributes(
    proxy: Proxy,
) -> None:
    given = ((126, b"1evil.example"), *ATTRIBUTES, (33, b"agent's own"))
    exchange = asyncio.create_task(
        proxy.client.exchange(ACCESS_REQUEST, given, AGENT_SECRET, proxy.server)
    )
    request, source = await proxy.home.take()
    forwarded = [a for a in request.attributes if a[0] not in (80, 126, 33)]
    assert tuple(forwarded) == ATTRIBUTES
    assert [v for k, v in request.attributes if k == 126] == [b"1visited.example"]
    assert proxy_states(request.attributes)[0] == b"agent's own"
    assert len(proxy_states(request.attributes)) == 2
    proxy.home.answer(request, source, secret=HOME_SECRET)
    reply = await exchange
    assert reply.code == ACCESS_ACCEPT
    assert reply.attributes[1:] == ((25, b"class"), (33, b"agent's own"))


async def test_a_retransmission_hears_the_same_octets_and_the_home_hears_one(
    proxy: Proxy,
) -> None:
    proxy.raw.send(_wire())
    request, source = await proxy.home.take()
    proxy.raw.send(_wire())  # in progress: dropped
    await proxy.raw.silence()
    proxy.home.answer(request, source, secret=HOME_SECRET)
    first = await proxy.raw.hear()
    for _ in range(3):
        proxy.raw.send(_wire())
        assert await proxy.raw.hear() == first
    await proxy.raw.silence()
    repeats = [proxy.home.requests.get_nowait() for _ in range(proxy.home.requests.qsize())]
    assert all(again.octets == request.octets for again, _ in repeats)


async def test_replies_that_are_not_the_homes_are_ignored_until_the_right_one(
    proxy: Proxy,
) -> None:
    proxy.raw.send(_wire())
    request, source = await proxy.home.take()
    proxy.home.answer(request, source, secret=Secret(b"not the secret!!"))
    others = tuple(a for a in request.attributes if a[0] != 33)
    for states in ((), ((33, b"another"),), ((33, b"a"), (33, b"b"))):
        altered = VerifiedRequest(
            1, request.identifier, request.authenticator, others + states, b"", 0
        )
        proxy.home.answer(altered, source, secret=HOME_SECRET)
    proxy.home.endpoint.send_many([(b"\x02", source), (request.octets, source)])
    await proxy.raw.silence()
    proxy.home.answer(request, source, secret=HOME_SECRET)
    assert decode(await proxy.raw.hear()).code == ACCESS_ACCEPT


async def test_a_realm_that_nobody_serves(proxy: Proxy) -> None:
    given = tuple((k, b"@nowhere.example" if k == 1 else v) for k, v in ATTRIBUTES)
    reply = await proxy.client.exchange(ACCESS_REQUEST, given, AGENT_SECRET, proxy.server)
    assert reply.code == ACCESS_REJECT
    assert reply.attributes[1:] == ((101, (502).to_bytes(4, "big")),)
    assert proxy.home.requests.empty()


@pytest.mark.parametrize(
    "name",
    [b"@home", b"home.example", b"@-.example", b"@home.example\x00", b"@\xff.example", b"a@b@c.d"],
)
async def test_a_name_that_cannot_be_routed_by_is_answered(proxy: Proxy, name: bytes) -> None:
    given = tuple((k, name if k == 1 else v) for k, v in ATTRIBUTES)
    reply = await proxy.client.exchange(ACCESS_REQUEST, given, AGENT_SECRET, proxy.server)
    assert reply.code == ACCESS_REJECT
    assert reply.attributes[1:] == ((101, (502).to_bytes(4, "big")),)
    assert proxy.home.requests.empty()


async def test_a_refusal_that_has_no_room_for_its_cause(proxy: Proxy) -> None:
    """199 Proxy-States and nothing else: all of them are echoed, and others are served on."""
    states = ((33, b"s"),) * 199
    reply = await proxy.client.exchange(ACCESS_REQUEST, states, AGENT_SECRET, proxy.server)
    assert (reply.code, reply.attributes[1:]) == (ACCESS_REJECT, states)
    reply = await proxy.client.exchange(STATUS_SERVER, (), AGENT_SECRET, proxy.server)
    assert reply.code == ACCESS_ACCEPT


async def test_a_proxy_before_us_may_say_what_it_is_configured_for(
    proxy_before_us: Proxy,
) -> None:
    proxy = proxy_before_us
    given = (*ATTRIBUTES, (126, b"1partner.example"))
    exchange = asyncio.create_task(
        proxy.client.exchange(ACCESS_REQUEST, given, AGENT_SECRET, proxy.server)
    )
    request, source = await proxy.home.take()
    assert [v for k, v in request.attributes if k == 126] == [b"1partner.example"]
    proxy.home.answer(request, source, secret=HOME_SECRET)
    assert (await exchange).code == ACCESS_ACCEPT
    for operator, answer in (
        (b"1stranger.example", ()),
        (b"1home.example", ()),
        (b"1own.example", ((101, (502).to_bytes(4, "big")),)),  # has come round
    ):
        given = (*ATTRIBUTES, (126, operator))
        reply = await proxy.client.exchange(ACCESS_REQUEST, given, AGENT_SECRET, proxy.server)
        assert reply.code == ACCESS_REJECT
        assert reply.attributes[1:] == answer
    assert proxy.home.requests.empty()


async def test_a_second_home_takes_over_within_the_clients_patience() -> None:
    """By the shorthand: two servers with one realm, in the order of the file."""
    async with _proxy() as proxy, _second_home(proxy) as (second, other):
        patient = Server(other, timeout_s=3, retries=0)
        exchange = asyncio.create_task(
            proxy.client.exchange(ACCESS_REQUEST, ATTRIBUTES, AGENT_SECRET, patient)
        )
        first, _ = await proxy.home.take()  # and says nothing
        request, source = await second.take()
        assert request.authenticator != first.authenticator  # a packet of its own
        unsigned = [[a for a in r.attributes if a[0] != 80] for r in (first, request)]
        assert unsigned[0] == unsigned[1]  # of the same request
        second.answer(request, source, secret=HOME_SECRET)
        assert (await exchange).code == ACCESS_ACCEPT


@pytest.mark.parametrize(
    "pinned",
    [
        {"fa_nai": "fa2@visited.example"},
        {"nas_address": "198.51.100.8"},
        {"nas_identifier": "fa2"},
    ],
)
async def test_an_agent_that_says_it_is_another(pinned: dict[str, str]) -> None:
    async with _proxy(**pinned) as proxy:
        reply = await proxy.client.exchange(ACCESS_REQUEST, ATTRIBUTES, AGENT_SECRET, proxy.server)
        assert reply.code == ACCESS_REJECT
        assert proxy.home.requests.empty()


async def test_what_does_not_verify_is_dropped_and_counted() -> None:
    with capture_logs() as logged:
        async with _proxy() as proxy:
            wrong = encode_request(1, 7, bytes(16), ATTRIBUTES, Secret(b"another 16 octet"))
            proxy.raw.send(wrong)
            proxy.raw.send(b"\x01\x02\x03")
            proxy.raw.send(_wire()[:-1])
            stranger = UdpEndpoint.open(("127.0.0.2", 0), lambda batch: None)
            stranger.send_many([(_wire(), proxy.address)])
            await proxy.raw.silence()
            assert proxy.home.requests.empty()
            stranger.close()
    counted = logged[-1]
    assert counted["event"] == "counters"
    assert counted[names.BAD_AUTHENTICATOR] == 1
    assert counted[names.MALFORMED] == 2
    assert counted[names.UNKNOWN_CLIENT] == 1


async def test_no_answer_from_home_is_silence_and_the_next_try_is_worked_on(proxy: Proxy) -> None:
    short = Server(proxy.address, timeout_s=0.1, retries=0)
    with pytest.raises(NoAnswer):
        await proxy.client.exchange(ACCESS_REQUEST, ATTRIBUTES, AGENT_SECRET, short)
    sends = [await proxy.home.take() for _ in range(3)]  # after 0, 0.5 and 1.5 s of 2.5
    assert {request.octets for request, _ in sends} == {sends[0][0].octets}  # identical
    proxy.raw.send(_wire())
    request, source = await proxy.home.take()
    proxy.home.answer(request, source, secret=HOME_SECRET)
    assert decode(await proxy.raw.hear()).code == ACCESS_ACCEPT


async def test_stopping_answers_what_is_under_way_and_takes_nothing_new(proxy: Proxy) -> None:
    proxy.raw.send(_wire(7))
    request, source = await proxy.home.take()
    proxy.stop.set()
    for _ in range(10):  # turns of the loop, in one of which the server sees the event
        await asyncio.sleep(0)
    proxy.raw.send(_wire(8))
    proxy.home.answer(request, source, secret=HOME_SECRET)
    assert decode(await proxy.raw.hear()).identifier == 7
    await asyncio.wait_for(proxy.task, 10)
    await proxy.raw.silence()
    repeats = [proxy.home.requests.get_nowait()[0] for _ in range(proxy.home.requests.qsize())]
    assert all(again.octets == request.octets for again in repeats)  # none of the new one


async def test_status_server_is_answered_by_our_own_client(proxy: Proxy) -> None:
    reply = await proxy.client.exchange(STATUS_SERVER, (), AGENT_SECRET, proxy.server)
    assert reply.code == ACCESS_ACCEPT


async def _radclient(proxy: Proxy, command: str, text: str, *options: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "radclient", "-x", "-r", "1", "-t", "5", *options,
        f"127.0.0.1:{proxy.address[1]}", command, AGENT_SECRET.reveal().decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(text.encode()), 20)
    return process.returncode or 0, output.decode()


@needs_radclient
async def test_radclient_gets_status_server_answered(proxy: Proxy) -> None:
    status, output = await _radclient(proxy, "status", "Message-Authenticator = 0x00\n")
    assert status == 0, output
    assert "Received Access-Accept" in output


@needs_radclient
async def test_radclient_with_our_dictionary(proxy: Proxy, tmp_path: Path) -> None:
    ours = resources.files("aaa.radius") / "dictionary.roamkey"
    (tmp_path / "dictionary.roamkey").write_text(ours.read_text())
    (tmp_path / "dictionary").write_text(
        "$INCLUDE /usr/share/freeradius/dictionary\n$INCLUDE dictionary.roamkey\n"
    )
    text = (
        'Message-Authenticator = 0x00\nUser-Name = "@nowhere.example"\nNAS-Identifier = "fa1"\n'
        "NAS-IP-Address = 198.51.100.7\nChargeable-User-Identity = 0x00\n"
        'Roamkey-FA-NAI = "fa1@visited.example"\nRoamkey-Registration-Request = 0x0102\n'
    )
    _, output = await _radclient(proxy, "auth", text, "-D", str(tmp_path))
    assert "Received Access-Reject" in output
    assert "Error-Cause = Proxy-Request-Not-Routable" in output
