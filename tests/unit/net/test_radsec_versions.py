"""RADIUS/1.1 beside 1.0: which one a connection has, and that all else is as before."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from aaa.net.radsec_upstream import ClientLimits
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import MESSAGE_AUTHENTICATOR
from aaa.radius.wire_forms import RADIUS_1_1
from tests.unit.net.radsec import KDC, Parties, Raw, accepted, answer, ask, request, until, user

OLD, NEW, BOTH = ("1.0",), ("1.1",), ("1.0", "1.1")
# RFC 9765 §3.3.2, the table; None: they do not come together.
AGREED = [
    (OLD, OLD, "1.0"),
    (OLD, BOTH, "1.0"),
    (OLD, NEW, None),
    (BOTH, OLD, "1.0"),
    (BOTH, BOTH, "1.1"),
    (BOTH, NEW, "1.1"),
    (NEW, OLD, None),
    (NEW, BOTH, "1.1"),
    (NEW, NEW, "1.1"),
]


@pytest.mark.parametrize(("client", "server", "version"), AGREED)
async def test_the_newest_that_both_speak(
    parties: Parties, client: tuple[str, ...], server: tuple[str, ...], version: str | None
) -> None:
    served = parties.serve(contexts=parties.server_contexts(server))
    counters = Counters()
    asking = parties.client(
        served.address, contexts=parties.client_contexts(client), counters=counters
    )
    if version is None:
        with pytest.raises(NoAnswer):
            await asking.exchange(1, user("x"), deadline_s=0.5)
        assert not served.heard
        assert counters[names.RADSEC_CLIENT_NO_VERSION] + served.counters[names.RADSEC_NO_VERSION]
        return
    response = await asking.exchange(1, user("x"))
    assert response.code == 2
    signed = response.attributes[0][0] == MESSAGE_AUTHENTICATOR
    assert signed == (version == "1.0")
    assert accepted(served.heard[0]).form.version == version


async def _raw(parties: Parties, served_at: tuple[str, int], *protocols: str) -> Raw:
    context = parties.client_contexts().client
    context.set_alpn_protocols(protocols)
    return await Raw.connect(served_at, context)


async def test_who_offers_nothing_speaks_1_0(parties: Parties) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    issued = parties.authority.issue("ha", ["ha.home.example"])
    bare.load_cert_chain(issued.certificate_file, issued.key_file)
    bare.load_verify_locations(parties.authority.file)
    raw = await Raw.connect(served.address, bare)
    raw.send(request(7))
    assert (await raw.packet()).identifier == 7
    await raw.close()


async def test_who_offers_nothing_is_closed_where_1_1_is_required(parties: Parties) -> None:
    served = parties.serve(contexts=parties.server_contexts(NEW))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    issued = parties.authority.issue("ha", ["ha.home.example"])
    bare.load_cert_chain(issued.certificate_file, issued.key_file)
    bare.load_verify_locations(parties.authority.file)
    raw = await Raw.connect(served.address, bare)
    assert await raw.is_closed()
    await raw.close()
    assert served.counters[names.RADSEC_NO_VERSION] == 1


async def test_1_1_needs_tls_1_3(parties: Parties) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    context = parties.client_contexts().client
    context.set_alpn_protocols(["radius/1.1", "radius/1.0"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with contextlib.suppress(OSError):  # reset before its end of the handshake, or after
        raw = await Raw.connect(served.address, context)
        assert await raw.is_closed()
        await raw.close()
    await until(lambda: served.server.connections == 0)
    assert served.counters[names.RADSEC_NO_VERSION] == 1


async def test_tokens_are_counted_on_and_no_message_authenticator_is_sent(
    parties: Parties,
) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    client = parties.client(served.address, contexts=parties.client_contexts(BOTH))
    for text in "abc":
        await client.exchange(1, user(text))
    tokens = [each.request.identifier for each in served.heard]
    assert tokens == [(tokens[0] + n) % 2**32 for n in range(3)]
    for each in served.heard:
        assert each.request.attributes == user(each.request.attributes[0][1].decode())


async def test_more_than_256_on_one_connection_answered_in_any_order(parties: Parties) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    served.answering = False
    client = parties.client(
        served.address,
        contexts=parties.client_contexts(BOTH),
        limits=ClientLimits(connections=1, deadline_s=20),
    )
    texts = [f"user {number}" for number in range(RADIUS_1_1.outstanding + 100)]
    tasks = ask(client, *texts)
    await served.hears(RADIUS_1_1.outstanding)
    await asyncio.sleep(0.1)
    assert len(served.heard) == RADIUS_1_1.outstanding  # the others wait for room
    served.answering = True
    for transaction in reversed(list(served.heard)):
        answer(transaction)
    assert await asyncio.gather(*tasks) == texts
    assert served.server.connections == 1


async def test_the_same_token_twice_is_two_requests(parties: Parties) -> None:
    """RFC 9765 §4.2.2: what TLS has delivered is no retransmission."""
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    raw = await _raw(parties, served.address, "radius/1.1")
    octets = RADIUS_1_1.encode_request(1, 9, user("x"), bytes)
    raw.send(octets, octets)
    await served.hears(2)
    await until(lambda: served.server.in_flight == 0)
    await raw.close()


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\x01\x00\x00\x13" + bytes(16), id="Length 19"),
        pytest.param(b"\x01\x00\x00\x16" + bytes(16) + b"\x01\x00", id="attribute length 0"),
    ],
)
async def test_a_malformed_packet_closes(parties: Parties, bad: bytes) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    raw = await _raw(parties, served.address, "radius/1.1")
    raw.send(RADIUS_1_1.encode_request(1, 9, user("x"), bytes), bad)
    assert await raw.is_closed()
    await raw.close()
    assert (len(served.heard), served.counters[names.MALFORMED]) == (0, 1)


async def test_a_lost_connection_is_replaced_and_what_was_sent_is_sent_again(
    parties: Parties,
) -> None:
    served = parties.serve(contexts=parties.server_contexts(BOTH))
    served.answering = False
    client = parties.client(served.address, contexts=parties.client_contexts(BOTH))
    tasks = ask(client, "a", "b")
    await served.hears(2)
    served.answering = True
    accepted(served.heard[0]).abort()
    assert await asyncio.gather(*tasks) == ["a", "b"]


async def test_a_server_that_shows_our_own_certificate_is_ourselves(parties: Parties) -> None:
    issued = parties.authority.issue("self", [KDC, "ha.home.example"])
    contexts = parties.contexts(issued)
    served = parties.serve(contexts=contexts)
    counters = Counters()
    client = parties.client(served.address, contexts=parties.contexts(issued), counters=counters)
    with pytest.raises(NoAnswer):
        await client.exchange(1, user("x"), deadline_s=0.5)
    assert counters[names.RADSEC_CLIENT_SELF] >= 1
    raw = await Raw.connect(served.address, parties.contexts(issued).client)
    assert await raw.is_closed()
    await raw.close()
    await until(lambda: served.counters[names.RADSEC_SELF] >= 1)
    assert not served.heard


async def test_a_status_server_of_200_proxy_states_has_them_back(parties: Parties) -> None:
    """There is no Message-Authenticator that would be one more."""
    served = parties.serve(contexts=parties.server_contexts(NEW))
    raw = await _raw(parties, served.address, "radius/1.1")
    states = ((33, b"x"),) * 200
    raw.send(RADIUS_1_1.encode_request(12, 1, states, bytes))
    assert (await raw.packet()).attributes == states
    await raw.close()
