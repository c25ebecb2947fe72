"""Requests from the end that has accepted a connection: they go back the way the peer has come."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aaa.net import radsec_reverse
from aaa.net.observing import Hop, Unobserved
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_link import Watchdog
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import (
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    COA_ACK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    RADSEC_SECRET,
    encode_request,
    encode_response,
    verify_request,
)
from aaa.radius.ports import TLS
from kdc.errors import LocalError, Unavailable
from kdc.model import Secret
from tests.unit.net.radsec import (
    HOME_AGENT,
    Parties,
    Raw,
    Served,
    accepted,
    connect_and_ask,
    peer,
    request,
    until,
    user,
)

CLASS = 25
ENTRY = ((CLASS, b"registration"),)
VERSIONS = [pytest.param(("1.0",), id="1.0"), pytest.param(("1.0", "1.1"), id="1.1")]


class Reached:
    """A client with a connection, and what its server asks of it."""

    def __init__(self, client: RadsecClient, counters: Counters) -> None:
        self.client = client
        self.counters = counters
        self.heard: list[RadsecTransaction] = []
        self.answering = True
        client.on_requests = self.on_requests

    def on_requests(self, transactions: list[RadsecTransaction]) -> None:
        self.heard += transactions
        if self.answering:
            for each in transactions:
                code = DISCONNECT_ACK if each.request.code == DISCONNECT_REQUEST else COA_ACK
                each.respond(code, ENTRY)


async def _reached(
    parties: Parties, versions: tuple[str, ...] = ("1.0",)
) -> tuple[Served, Reached]:
    served = parties.serve(contexts=parties.server_contexts(versions), port=TLS)
    counters = Counters()
    client = parties.client(
        served.address, contexts=parties.client_contexts(versions), counters=counters
    )
    reached = Reached(client, counters)
    assert (await client.exchange(1, user("first"))).code == 2
    return served, reached


@pytest.mark.parametrize("versions", VERSIONS)
async def test_both_directions_at_once(parties: Parties, versions: tuple[str, ...]) -> None:
    served, reached = await _reached(parties, versions)
    assert served.server.has_connection(HOME_AGENT.name)

    async def back(number: int) -> int:
        code = DISCONNECT_REQUEST if number % 2 else COA_REQUEST
        response = await served.server.exchange(
            HOME_AGENT.name, code, (*ENTRY, (33, b"%d" % number)), 5
        )
        assert response.attributes[-2:] == (*ENTRY, (33, b"%d" % number))
        return response.code

    async def forth(number: int) -> int:
        return (await reached.client.exchange(1, user(str(number)))).code

    answers = await asyncio.gather(*map(back, range(200)), *map(forth, range(200)))
    assert answers == [COA_ACK, DISCONNECT_ACK] * 100 + [2] * 200
    assert served.server.connections == 1
    assert {each.client for each in reached.heard} == {next(iter(reached.client._upstreams)).peer}
    assert served.counters[names.CLIENT_UNEXPECTED] == 0
    assert served.counters[names.UNSUPPORTED] == reached.counters[names.UNSUPPORTED] == 0


@pytest.mark.parametrize("versions", VERSIONS)
async def test_accounting_takes_the_same_connection(
    parties: Parties, versions: tuple[str, ...]
) -> None:
    served, reached = await _reached(parties, versions)
    served.answer = lambda transaction: transaction.respond(ACCOUNTING_RESPONSE, ())
    response = await reached.client.exchange(ACCOUNTING_REQUEST, user("x"))
    assert response.code == ACCOUNTING_RESPONSE
    assert served.heard[-1].request.code == ACCOUNTING_REQUEST
    assert served.server.connections == 1


async def test_a_peer_without_a_connection_has_none(parties: Parties) -> None:
    served = parties.serve(port=TLS)
    assert not served.server.has_connection(HOME_AGENT.name)
    with pytest.raises(NoAnswer, match="no connection"):
        await served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 1)


async def test_the_connection_of_another_peer_is_not_taken(parties: Parties) -> None:
    other = peer("other", "other.example")
    served = parties.serve(peers=(HOME_AGENT, other), port=TLS)
    raw = await connect_and_ask(served.address, parties.client_contexts().client)
    assert served.server.has_connection(HOME_AGENT.name) and not served.server.has_connection(
        other.name
    )
    await raw.close()
    await until(lambda: not served.server.has_connection(HOME_AGENT.name))


async def test_nobody_takes_them_and_they_are_not_answered(parties: Parties) -> None:
    served, reached = await _reached(parties)
    reached.client.on_requests = None
    with pytest.raises(NoAnswer, match="in time"):
        await served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 0.1)
    assert reached.counters[names.UNSUPPORTED] == 1
    assert served.server.connections == 1


async def test_a_lost_connection_ends_what_was_asked(parties: Parties) -> None:
    served, reached = await _reached(parties)
    reached.answering = False
    task = asyncio.create_task(
        served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 5)
    )
    await until(lambda: len(reached.heard) == 1)
    await reached.client.close()
    with pytest.raises(NoAnswer, match="lost"):
        await task
    reached.heard[0].respond(DISCONNECT_ACK, ())  # late: nobody is there any more
    assert reached.counters[names.ABANDONED] == 1


async def test_a_server_that_asks_and_does_not_read_fills_no_memory(parties: Parties) -> None:
    served, reached = await _reached(parties)
    heard = 0

    def at_length(transactions: list[RadsecTransaction]) -> None:
        nonlocal heard
        for each in transactions:
            heard += 1
            each.respond(DISCONNECT_ACK, ((CLASS, bytes(253)),) * 15)

    reached.client.on_requests = at_length
    connection = accepted(served.heard[0])
    connection.stop_reading()
    (link,) = reached.client._upstreams[0].links
    transport = link._transport
    assert transport is not None
    for number in range(1, 8193):
        body = ((CLASS, number.to_bytes(4, "big")),)
        connection.send(
            encode_request(DISCONNECT_REQUEST, number % 256, bytes(16), body, RADSEC_SECRET)
        )
        if number % 256 == 0:
            await until(lambda: heard + reached.counters[names.OVERLOAD] == number)  # noqa: B023
    assert transport.get_write_buffer_size() < 4 * 1024 * 1024
    connection._read_again()  # it reads on, and is answered as before
    await until(lambda: transport.get_write_buffer_size() == 0)
    before = heard
    connection.send(encode_request(DISCONNECT_REQUEST, 9, bytes(16), ENTRY, RADSEC_SECRET))
    await until(lambda: heard == before + 1)


async def test_a_server_that_asks_and_answers_nothing_is_left(parties: Parties) -> None:
    served, counters = parties.serve(port=TLS), Counters()
    client = parties.client(
        served.address, counters=counters, watchdog=Watchdog(owed_s=0.2, answer_s=0.3)
    )
    Reached(client, counters)
    assert (await client.exchange(1, user("first"))).code == 2
    connection = accepted(served.heard[0])
    connection.stop_reading()
    owed = asyncio.create_task(client.exchange(1, user("second"), deadline_s=5))
    for number in itertools.cycle(range(256)):
        if counters[names.RADSEC_CLIENT_SILENT] or owed.done():
            break
        connection.send(encode_request(DISCONNECT_REQUEST, number, bytes(16), ENTRY, RADSEC_SECRET))
        await asyncio.sleep(0.02)
    assert (await owed).code == 2  # by the next connection
    assert counters[names.RADSEC_CLIENT_SILENT] == 1


async def test_what_does_not_fit_takes_no_identifier(parties: Parties) -> None:
    served, _ = await _reached(parties)
    for _ in range(300):
        with pytest.raises(LocalError):
            await served.server.exchange(HOME_AGENT.name, 40, ((1, bytes(254)),), 1)
    answer = await served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 5)
    assert answer.code == DISCONNECT_ACK


async def test_identifiers_run_out_and_come_back(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, reached = await _reached(parties)
    reached.answering = False

    asked = itertools.count()

    def ask(deadline_s: float) -> asyncio.Task[object]:
        # Octets alone tell such a request from an older one: its authenticator is a signature.
        entry = ((CLASS, b"%d" % next(asked)),)
        return asyncio.create_task(
            served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, entry, deadline_s)
        )

    tasks = [ask(0.3) for _ in range(256)]
    await until(lambda: len(reached.heard) == 256)
    with pytest.raises(Unavailable):
        await ask(0.3)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in outcomes} == {NoAnswer}
    with pytest.raises(Unavailable):  # an answer may still come
        await ask(0.3)
    reached.heard[0].respond(DISCONNECT_ACK, ())
    await until(lambda: served.counters[names.CLIENT_UNEXPECTED] == 1)
    for each in reached.heard[1:]:
        each.forget()
    reached.answering = True
    assert await ask(5)
    reached.answering = False
    with pytest.raises(NoAnswer):  # the only free one, again
        await ask(0.05)
    monkeypatch.setattr(radsec_reverse, "LATE_S", 0.0)
    reached.answering = True
    assert await ask(5)
    assert served.server.connections == 1


async def _asked_raw(parties: Parties) -> tuple[Served, Raw, asyncio.Task[object]]:
    served = parties.serve(port=TLS)
    raw = await connect_and_ask(served.address, parties.client_contexts().client)
    task: asyncio.Task[object] = asyncio.create_task(
        served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 2)
    )
    return served, raw, task


async def test_responses_are_verified_against_their_request(parties: Parties) -> None:
    served, raw, task = await _asked_raw(parties)
    asked = verify_request(await raw.packet(), RADSEC_SECRET)
    assert (asked.code, asked.attributes[1:]) == (DISCONNECT_REQUEST, ENTRY)
    forged = encode_response(DISCONNECT_ACK, asked, (), Secret(b"sixteen octets!!"))
    raw.send(forged)
    assert await raw.is_closed()
    with pytest.raises(NoAnswer, match="lost"):
        await task
    assert served.counters[names.BAD_AUTHENTICATOR] == 1
    await raw.close()


async def test_a_response_that_nobody_awaits_is_counted(parties: Parties) -> None:
    served, raw, task = await _asked_raw(parties)
    asked = verify_request(await raw.packet(), RADSEC_SECRET)
    octets = encode_response(DISCONNECT_NAK, asked, (), RADSEC_SECRET)
    raw.send(octets[:1] + b"\xf0" + octets[2:], octets, octets, request(3))
    assert (await raw.packet()).code == 2  # the connection goes on
    response = await task
    assert getattr(response, "code", None) == DISCONNECT_NAK
    assert served.counters[names.CLIENT_UNEXPECTED] == 2
    await raw.close()


async def test_the_two_directions_have_identifiers_of_their_own(parties: Parties) -> None:
    served, raw, task = await _asked_raw(parties)
    served.answering = False
    asked = verify_request(await raw.packet(), RADSEC_SECRET)
    raw.send(
        encode_request(1, asked.identifier, bytes(16), user("same"), RADSEC_SECRET),
        encode_response(DISCONNECT_ACK, asked, (), RADSEC_SECRET),
    )
    assert getattr(await task, "code", None) == DISCONNECT_ACK
    await served.hears(2)
    assert served.heard[-1].request.identifier == asked.identifier
    await raw.close()


async def test_a_code_of_no_port_is_passed_over(parties: Parties) -> None:
    """RFC 6613 §2.6.4: an unknown code alone does not close."""
    served = parties.serve(port=TLS)
    raw = await connect_and_ask(served.address, parties.client_contexts().client)
    raw.send(bytes([77, 1, 0, 20]) + bytes(16), request(9))
    assert (await raw.packet()).identifier == 9
    assert served.counters[names.UNSUPPORTED] == 1
    await raw.close()


@pytest.mark.parametrize("code", [ACCOUNTING_REQUEST, DISCONNECT_REQUEST, COA_REQUEST])
async def test_a_request_signed_over_its_authenticator_is_not_one(
    parties: Parties, code: int
) -> None:
    """Accounting and dynamic authorization are signed over zeros (RFC 2866 §3, RFC 5176 §3.4)."""
    served = parties.serve(port=TLS)
    raw = await connect_and_ask(served.address, parties.client_contexts().client)
    signed = encode_request(1, 2, bytes(range(16)), user("x"), RADSEC_SECRET)
    raw.send(bytes([code]) + signed[1:])
    assert await raw.is_closed()
    assert (len(served.heard), served.counters[names.BAD_AUTHENTICATOR]) == (1, 1)
    await raw.close()


class Onlooker(Unobserved):
    """Keeps what is shown: whose, which way, and the code."""

    on = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        self.seen.append((hop.name, what, octets[0]))


async def test_both_ends_show_what_goes_either_way(parties: Parties) -> None:
    served, counters = parties.serve(port=TLS), Counters()
    served.server.observer = accepting = Onlooker()
    onlooker = Onlooker()
    reached = Reached(
        parties.client(served.address, counters=counters, observer=onlooker), counters
    )
    assert (await reached.client.exchange(1, user("x"))).code == 2
    await served.server.exchange(HOME_AGENT.name, DISCONNECT_REQUEST, ENTRY, 5)
    shown = [("sent", 12), ("received", 2), ("sent", 1), ("received", 2)]
    shown += [("received", DISCONNECT_REQUEST), ("sent", DISCONNECT_ACK)]
    assert onlooker.seen == [("center", *each) for each in shown]
    other = {"sent": "received", "received": "sent"}
    assert accepting.seen == [("home agent", other[what], code) for what, code in shown]
