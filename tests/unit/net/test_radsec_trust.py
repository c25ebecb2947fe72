"""Who gets into a server of RADIUS over TLS, and who stays when its trust changes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from aaa.net.tls import TlsContexts, load_contexts
from aaa.radius import counters as names
from aaa.radius.counters import Counters
from aaa.radius.tls_peers import TlsPeerTable
from tests.unit.net.authority import Authority, Issued, bundle
from tests.unit.net.radsec import (
    HA,
    HOME_AGENT,
    KDC,
    Parties,
    Raw,
    ask,
    connect_and_ask,
    peer,
    request,
    until,
    user,
)

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
LAST_WEEK = datetime.now(UTC) - timedelta(days=7)


async def test_names_are_matched_in_any_case_and_addresses_as_addresses(parties: Parties) -> None:
    v6 = peer("by address", "2001:db8::7")
    served = parties.serve(peers=(HOME_AGENT, v6))
    for san, expected in (("HA.Home.EXAMPLE", HOME_AGENT), ("2001:db8:0:0::7", v6)):
        contexts = parties.contexts(parties.authority.issue("c", [san]))
        await parties.client(served.address, contexts=contexts).exchange(1, user("x"))
        assert served.heard[-1].client == expected


def _of_another_authority(parties: Parties) -> Issued:
    return Authority(parties.folder, "Other CA").issue("c", [HA])


REFUSED: dict[str, Callable[[Parties], Issued]] = {
    "another authority": _of_another_authority,
    "an authority of the same name": lambda p: Authority(p.folder, p.authority.name).issue(
        "c", [HA]
    ),
    "expired": lambda p: p.authority.issue("c", [HA], until=LAST_WEEK),
    "not for clients": lambda p: p.authority.issue(
        "c", [HA], usages=[ExtendedKeyUsageOID.SERVER_AUTH]
    ),
    "another name": lambda p: p.authority.issue("c", ["other.example"]),
    "common name only": lambda p: p.authority.issue("c", [], common_name=HA),
    "common name beside another": lambda p: p.authority.issue("c", ["x.example"], common_name=HA),
    "a wildcard": lambda p: p.authority.issue("c", ["*.home.example"]),
    "a longer name": lambda p: p.authority.issue("c", [f"{HA}.example"]),
    "an address in letters": lambda p: p.authority.issue("c", ["x.example", "192.0.2.8"]),
    "the names of two peers": lambda p: p.authority.issue("c", [HA, "192.0.2.9"]),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_is_not_configured_gets_nothing(
    parties: Parties, kind: str, version: ssl.TLSVersion
) -> None:
    served = parties.serve(peers=(HOME_AGENT, peer("second", "192.0.2.9")))
    good = parties.client_contexts().client
    issued = REFUSED[kind](parties)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(parties.folder / "Test-CA.pem")
    context.load_verify_locations(cadata=parties.authority.pem.decode())
    context.load_cert_chain(issued.certificate_file, issued.key_file)
    context.maximum_version = good.maximum_version = version
    try:
        raw = await Raw.connect(served.address, context)
        raw.send(request(1))
        assert await raw.is_closed()
        await raw.close()
    except OSError:
        assert version is ssl.TLSVersion.TLSv1_2  # there the handshake itself fails
    refused = (names.RADSEC_HANDSHAKE_FAILED, names.RADSEC_UNKNOWN_PEER)
    await until(lambda: sum(served.counters[name] for name in refused) == 1)
    assert (served.heard, served.server.connections) == ([], 0)
    # The same, with the right certificate.
    raw = await Raw.connect(served.address, good)
    raw.send(request(1))
    assert (await raw.packet()).code == 2
    await raw.close()


async def test_without_a_certificate_nobody_gets_in(parties: Parties) -> None:
    served = parties.serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=parties.authority.pem.decode())
    raw = await Raw.connect(served.address, context)
    raw.send(request(1))
    assert await raw.is_closed()
    await raw.close()
    await until(lambda: served.counters[names.RADSEC_HANDSHAKE_FAILED] == 1)
    assert served.heard == []


async def test_tls_1_1_is_refused(parties: Parties) -> None:
    """For its version: tests/unit/net/test_tls.py shows the reason, which asyncio does not send."""
    served = parties.serve()
    context = parties.client_contexts().client
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ConnectionResetError):
        await Raw.connect(served.address, context)
    assert served.counters[names.RADSEC_HANDSHAKE_FAILED] == 1


async def test_a_resumed_session_is_not_taken_for_a_verified_one(parties: Parties) -> None:
    served = parties.serve()
    context = parties.client_contexts().client
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool, int]:
        with (
            socket.create_connection(served.address) as plain,
            context.wrap_socket(plain, server_hostname=KDC, session=session) as secured,
        ):
            secured.sendall(request(1))
            return secured.session, bool(secured.session_reused), len(secured.recv(4096))

    session, reused, answered = await asyncio.to_thread(connect, None)
    assert not reused
    assert answered
    _, reused, answered = await asyncio.to_thread(connect, session)
    # Either OpenSSL has no session to resume, or we do not want it.
    assert reused == (not answered)


async def test_a_reload_closes_whom_it_would_not_let_in(parties: Parties) -> None:
    """One peer of each authority; then the first authority is trusted no more."""
    newer = Authority(parties.folder, "Newer CA")
    both = bundle(parties.folder / "both.pem", parties.authority, newer)
    own = parties.authority.issue("kdc", [KDC])

    def trusting(authorities: str) -> TlsContexts:
        files = parties.authority.files(own)
        return load_contexts(
            type(files)(files.certificate, files.key, parties.folder / authorities)
        )

    second = peer("second", "second.example")
    served = parties.serve(contexts=trusting(both.name), peers=(HOME_AGENT, second))
    mine = parties.client_contexts()
    theirs = parties.contexts(newer.issue("second", ["second.example"]))
    old = await connect_and_ask(served.address, mine.client)
    new = await connect_and_ask(served.address, theirs.client)
    table = TlsPeerTable((HOME_AGENT, second))
    served.server.reload(trusting(both.name), table)
    await asyncio.sleep(0.05)
    assert (served.server.connections, served.counters[names.RADSEC_REVOKED]) == (2, 0)
    served.server.reload(trusting(newer.file.name), table)
    assert await old.is_closed()
    assert served.counters[names.RADSEC_REVOKED] == 1
    new.send(request(7))
    assert (await new.packet()).identifier == 7
    with pytest.raises((OSError, EOFError)):
        await connect_and_ask(served.address, mine.client)
    # And by the table of peers.
    served.server.reload(trusting(newer.file.name), TlsPeerTable((HOME_AGENT,)))
    assert await new.is_closed()
    for raw in (old, new):
        await raw.close()


async def test_a_revocation_list_closes_and_keeps_out(parties: Parties) -> None:
    authority = parties.authority
    own, good, bad = (authority.issue(name, [san]) for name, san in _ISSUED)
    second = peer("second", "second.example")
    empty = authority.revoke("empty")
    served = parties.serve(
        contexts=parties.contexts(own, revocations=empty), peers=(HOME_AGENT, second)
    )
    stays = await connect_and_ask(served.address, parties.contexts(good).client)
    goes = await connect_and_ask(served.address, parties.contexts(bad).client)
    listed = parties.contexts(own, revocations=authority.revoke("listed", bad))
    served.server.reload(listed, TlsPeerTable((HOME_AGENT, second)))
    assert await goes.is_closed()
    stays.send(request(5))
    assert (await stays.packet()).identifier == 5
    with pytest.raises((OSError, EOFError)):
        await connect_and_ask(served.address, parties.contexts(bad).client)
    again = await connect_and_ask(served.address, parties.contexts(good).client)
    for raw in (stays, goes, again):
        await raw.close()


_ISSUED = (("kdc", KDC), ("good", HA), ("bad", "second.example"))


SERVERS_REFUSED: dict[str, Callable[[Parties], Issued]] = {
    "another authority": lambda p: Authority(p.folder, "Other CA").issue("s", [KDC]),
    "expired": lambda p: p.authority.issue("s", [KDC], until=LAST_WEEK),
    "not for servers": lambda p: p.authority.issue("s", [KDC], usages=[CLIENT_AUTH]),
    "another name": lambda p: p.authority.issue("s", ["other.example"]),
    "common name only": lambda p: p.authority.issue("s", [], common_name=KDC),
    "a wildcard": lambda p: p.authority.issue("s", ["*.home.example"]),
    "the address dialled": lambda p: p.authority.issue("s", ["127.0.0.1", "localhost"]),
}


@pytest.mark.parametrize("kind", SERVERS_REFUSED)
async def test_a_server_that_is_not_meant_hears_nothing(parties: Parties, kind: str) -> None:
    issued = SERVERS_REFUSED[kind](parties)
    wrong = parties.serve(contexts=parties.contexts(issued))
    right = parties.serve()
    counters = Counters()
    client = parties.client(wrong.address, right.address, counters=counters)
    assert await asyncio.gather(*ask(client, "a")) == ["a"]
    assert (wrong.heard, right.names) == ([], ["a"])
    assert wrong.counters[names.STATUS_SERVER] == 0
    refused = (names.RADSEC_CLIENT_WRONG_NAME, names.RADSEC_CLIENT_FAILED)
    assert sum(counters[name] for name in refused) >= 1


async def test_a_reload_leaves_a_server_that_is_trusted_no_more(parties: Parties) -> None:
    first = parties.serve()
    newer = Authority(parties.folder, "Newer CA")
    second = parties.serve(contexts=parties.contexts(newer.issue("kdc2", [KDC])))
    own = parties.authority.files(parties.authority.issue("ha", [HA]))
    counters = Counters()
    client = parties.client(
        first.address, second.address, contexts=load_contexts(own), counters=counters
    )
    assert await asyncio.gather(*ask(client, "a")) == ["a"]
    client.reload(load_contexts(own))
    assert await asyncio.gather(*ask(client, "b")) == ["b"]
    first.answering = False
    tasks = ask(client, "c")
    await first.hears(3)
    client.reload(load_contexts(replace(own, authorities=newer.file)))
    assert await asyncio.gather(*tasks) == ["c"]
    assert (first.names, second.names) == (["a", "b", "c"], ["c"])
    assert counters[names.RADSEC_CLIENT_REVOKED] == 1
