"""What a KDC gives a home agent over TLS, and what it refuses one that was broken into."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from aaa.net.radius_client import RadiusClient, Server
from aaa.radius.attributes import cut, decode_key_reply, encode_access_request, encode_key_request
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_REQUEST, VerifiedResponse
from kdc.errors import RemoteError
from kdc.model import DEFAULT_VENDOR_ID, Identification, Mode, Nai, Pair, Secret, Suite
from kdc.records import (
    NO_TICKET,
    Admission,
    Carrier,
    Denied,
    Fate,
    Issued,
    Settled,
    Terms,
    Ticket,
)
from kdc.store import migrate
from kdc.store.database import administration
from kdc.ticket import derive_ticket_key, make_ticket
from kdc.wire.keydist import (
    AdmitRequest,
    DenyRequest,
    GrantRequest,
    KeyRequest,
    NotAdmitted,
    RepeatRequest,
    encode_key_request_message,
)
from kdc.wire.keydist_items import Refusal, State
from kdc.wire.registration import RegistrationRequest
from tests.integration.home_agent_role import REALM, PlayedHomeAgent
from tests.integration.split import Node, SplitHome, run_kdc
from tests.integration.test_split import SEMISTATEFUL, STATELESS

MUTATIONS = 3000
AT_ONCE = 64
KEY_REPLY = 8
Settleable = GrantRequest | DenyRequest | RepeatRequest


@asynccontextmanager
async def playing(
    split: SplitHome, name: str = "ha1", *, kdc: str = "kdc1", **options: Any
) -> AsyncIterator[PlayedHomeAgent]:
    client = split.key_client(options.pop("certificate", name), kdc, **options)
    try:
        yield PlayedHomeAgent(client, name)
    finally:
        await client.close()


def encoded(request: KeyRequest) -> bytes:
    return encode_key_request_message(request, DEFAULT_VENDOR_ID)


def without_signature(response: VerifiedResponse) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    return response.code, tuple((kind, value) for kind, value in response.attributes if kind != 80)


def everything(split: SplitHome) -> list[str]:
    """Every row that an issuing process may write."""
    rows = []
    with psycopg.connect(split.postgres.conninfo(split.database_name)) as connection:
        for table in ("key0_records", "key0_spis", "registrations", "associations"):
            found = connection.execute(f"SELECT t::text FROM {table} AS t").fetchall()
            rows += sorted(f"{table} {row[0]}" for row in found)
    return rows


def revision(split: SplitHome, node: Node) -> int:
    with psycopg.connect(split.postgres.conninfo(split.database_name)) as connection:
        row = connection.execute(
            "SELECT r.revision FROM key0_records AS r JOIN subscribers AS s"
            " ON s.id = r.subscriber_id WHERE s.nai = %s",
            (str(node.state.enrolment.nai),),
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_keys_are_lent_only_for_records_of_ones_own_address(split: SplitHome) -> None:
    first, second = (Node(enrolment, 1) for enrolment in split.subscribers(2))
    await split.launch("kdc1")
    before = everything(split)
    async with playing(split) as ours, playing(split, "ha2") as other:
        structured = ours.hear(first)
        genuine = structured.request.octets
        spi_at = structured.request.mhae.covered_octets - 4
        unknown = genuine[:spi_at] + (0x10000).to_bytes(4, "big") + genuine[spi_at + 4 :]
        wrong = genuine[:-1] + bytes((genuine[-1] ^ 1,))
        refused = [
            without_signature(await asker.send(encoded(AdmitRequest(octets))))
            for asker, octets in (
                (other, genuine),
                (ours, unknown),
                (ours, wrong),
                (other, unknown),
                (other, wrong),
                (ours, genuine[:40]),
            )
        ]
        assert len(set(refused)) == 1 and refused[0][0] == ACCESS_ACCEPT
        assert len(refused[0][1]) == 1, "one attribute, which says nothing of the cause"
        assert await other.ask(AdmitRequest(genuine)) == NotAdmitted()
        grant = await ours.judge(structured)
        # The other home agent has learned all of it, but for the record it is not the one.
        denied = Refusal(Denied(131, challenge=False, at=grant.judged.identification.unix), *_ZERO)
        for request in (
            grant,
            dataclasses.replace(grant, home_agent_nai=Nai.parse(f"ha2@{REALM}")),
            DenyRequest(grant.state, denied),
            RepeatRequest(grant.state, "visited.example"),
        ):
            assert await other.ask(request) is Fate.CONFLICT
        assert everything(split) == before
        settled = await ours.ask(grant)
        assert isinstance(settled, Settled) and isinstance(settled.outcome, Issued)
        admission = await ours.ask(AdmitRequest(genuine))
        assert isinstance(admission, Admission)
        after = State(grant.state.spi, grant.state.revision + 1, admission.ticket)
        written = everything(split)
        assert await other.ask(RepeatRequest(after, "visited.example")) is Fate.CONFLICT
        again = await ours.ask(RepeatRequest(after, "visited.example"))
        assert isinstance(again, Settled)
        # An exchange that is shown again tells no more than the first time.
        assert [a.secret for a in _issued(again)] == [a.secret for a in _issued(settled)]
        assert everything(split) == written
        # A suspended subscriber is as unknown as any.
        name = str(second.state.enrolment.nai)
        split.kdc("subscriber", "suspend", name, "--no-wait", "--config", "kdc1.toml")
        answer = await ours.send(encoded(AdmitRequest(ours.hear(second).request.octets)))
        assert without_signature(answer) == refused[0]


_ZERO = (None, None, 0)  # no digest, no identification, no rounds


def _issued(settled: Settled) -> tuple[Any, ...]:
    assert isinstance(settled.outcome, Issued)
    return settled.outcome.associations


async def test_a_record_that_the_hop_cannot_carry_is_denied_alone(split: SplitHome) -> None:
    busy, wide, plain = (Node(enrolment, 1) for enrolment in split.subscribers(3))
    await split.launch("kdc1")
    with psycopg.connect(split.postgres.conninfo(split.database_name)) as connection:
        record = (
            "SELECT r.id FROM key0_records AS r JOIN subscribers AS s ON s.id = r.subscriber_id"
            " WHERE s.nai = %s"
        )
        connection.execute(
            "UPDATE key0_records SET accepted_at = array(SELECT 1900000000 + n / 100"
            f" FROM generate_series(1, 3000) AS n) WHERE id = ({record})",
            (str(busy.state.enrolment.nai),),
        )
        connection.execute(
            "UPDATE subscribers SET roam = array(SELECT n || '.example' FROM"
            " generate_series(1, 300) AS n) WHERE nai = %s",
            (str(wide.state.enrolment.nai),),
        )
    async with playing(split) as ours:
        asked = [AdmitRequest(ours.hear(node).request.octets) for node in (busy, wide, plain)]
        first, second, third = await asyncio.gather(*map(ours.ask, asked))
    assert isinstance(first, Admission) and first.record is not None
    assert len(first.record.accepted_at) == 3000
    assert second is Fate.REFUSED
    assert isinstance(third, Admission)
    split.stop("kdc1")
    assert "kdc.reply_too_long=1" in split.log("kdc1")


async def test_certificates_of_others_get_no_connection(split: SplitHome) -> None:
    """Another authority's of the right name, and our authority's of a name that nobody knows."""
    (node,) = (Node(enrolment, 1) for enrolment in split.subscribers(1))
    await split.launch("kdc1")
    run_kdc(split.folder, "tls", "authority", "others", "--name", "others.example")
    run_kdc(split.folder, "tls", "issue", "others", "ha1", "--san", "ha1.home.example")
    # It would believe the KDC's certificate, so that what fails is the KDC's own judgement.
    (split.folder / "others/ca.pem").write_bytes((split.folder / "tls/ca.pem").read_bytes())
    run_kdc(split.folder, "tls", "issue", "tls", "ha9", "--san", "ha9.home.example")
    for certificate, folder in (("ha1", "others"), ("ha9", "tls"), ("kdc2", "tls")):
        async with playing(
            split, certificate=certificate, authority=folder, deadline_s=2.0
        ) as stranger:
            with pytest.raises(NoAnswer):
                await stranger.send(encoded(AdmitRequest(stranger.hear(node).request.octets)))
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    for context in (None, bare):  # no TLS, and TLS without any certificate
        reader, writer = await asyncio.open_connection(*split.ports["kdc1"], ssl=context)
        writer.write(b"\x0c\x00\x00\x14" + bytes(16))
        with contextlib.suppress(OSError):  # refused by an alert, or closed with octets unread
            assert await asyncio.wait_for(reader.read(), 15) == b""
        writer.transport.abort()
    async with playing(split) as ours:
        assert isinstance(await ours.ask(AdmitRequest(ours.hear(node).request.octets)), Admission)
    split.stop("kdc1")
    assert "radsec.unknown_peer=" in split.log("kdc1")


async def test_a_key_request_over_udp_gets_no_keys(split: SplitHome) -> None:
    (node,) = (Node(enrolment, 1) for enrolment in split.subscribers(1))
    await split.launch("kdc1", "ha1", "home")
    before = everything(split)
    async with playing(split) as ours:
        structured = ours.hear(node)
    ask = encoded(AdmitRequest(structured.request.octets))
    bare = encode_key_request(ask, home_agent="ha1", realm=REALM, vendor_id=DEFAULT_VENDOR_ID)
    genuine = structured.request.octets
    forged = genuine[:-1] + bytes((genuine[-1] ^ 1,))
    tampered = dataclasses.replace(structured.access, registration_request=forged)
    beside = (
        *encode_access_request(tampered, DEFAULT_VENDOR_ID),
        *cut(7, ask, DEFAULT_VENDOR_ID),
    )
    client = RadiusClient(Counters())
    try:
        for name, secret in (("home", "visited"), ("ha1", "ha1")):
            for attributes in (bare, beside):
                reply = await client.exchange(
                    ACCESS_REQUEST,
                    attributes,
                    Secret(split.secret(f"{secret}.secret")),
                    Server(split.ports[name], timeout_s=10, retries=1),
                )
                assert reply.code == ACCESS_REJECT
                assert all(kind != 26 for kind, _ in reply.attributes)
                with pytest.raises(RemoteError):
                    decode_key_reply(reply, DEFAULT_VENDOR_ID)
    finally:
        client.close()
    assert everything(split) == before
    assert {split.stop(name) for name in ("ha1", "home")} == {0}


# --- terms that no home agent which works would name ------------------------------------------

Change = Callable[[GrantRequest], GrantRequest]


def _first(**changes: Any) -> Change:
    """Of pair 1, which an exchange was made for."""
    return _of(Pair.MN_HA, **changes)


def _of(pair: Pair, **changes: Any) -> Change:
    def change(grant: GrantRequest) -> GrantRequest:
        terms = tuple(
            dataclasses.replace(t, **changes) if t.pair is pair else t for t in grant.terms
        )
        assert terms != grant.terms
        return dataclasses.replace(grant, terms=terms)

    return change


def _all(change: Callable[[tuple[Terms, ...]], tuple[Terms, ...]]) -> Change:
    return lambda grant: dataclasses.replace(grant, terms=change(grant.terms))


def _judged(**changes: Any) -> Change:
    return lambda grant: dataclasses.replace(
        grant, judged=dataclasses.replace(grant.judged, **changes)
    )


def _later(seconds: int) -> Change:
    def change(grant: GrantRequest) -> GrantRequest:
        at = grant.judged.identification
        return _judged(identification=Identification(at.second + seconds, at.low))(grant)

    return change


def _replaced(**changes: Any) -> Change:
    return lambda grant: dataclasses.replace(grant, **changes)


def _replaced_state(**changes: Any) -> Change:
    return lambda grant: dataclasses.replace(
        grant, state=dataclasses.replace(grant.state, **changes)
    )


def _shorter(grant: GrantRequest) -> GrantRequest:
    z = grant.terms[0].z
    assert z is not None
    return _first(z=Secret(z.reveal()[:-1]))(grant)


GCM, CHACHA = Suite(3, 20), Suite(3, 28)
IMPOSSIBLE: dict[str, Change] = {
    "an unknown suite": _of(Pair.FA_HA, suites=(Suite(3, 99),)),
    "an unknown suite where an exchange was made": _first(suites=(Suite(9, 9),)),
    "another suite than was answered": _first(suites=(CHACHA,)),
    "no suite": _of(Pair.FA_HA, suites=()),
    "a protocol twice": _of(Pair.FA_HA, suites=(GCM, CHACHA)),
    "NULL without authentication": _of(Pair.FA_HA, suites=(Suite(2, 11),)),
    "a pair twice": _all(lambda terms: (*terms, terms[0])),
    "pair 4 only": _all(lambda terms: (dataclasses.replace(terms[1], pair=Pair.MN_SMM),)),
    "no pair": _all(lambda terms: ()),
    "one pair missing": _all(lambda terms: terms[:-1]),
    "lifetime 0": _of(Pair.MN_FA, lifetime_s=0),
    "a lifetime above what was granted": _of(Pair.MN_FA, lifetime_s=601),
    "an endless lifetime": _of(Pair.FA_HA, lifetime_s=2**32 - 1),
    "a lifetime that is malformed": _judged(lifetime_s=0xFFFF),
    "a lifetime above what was answered": lambda grant: _first(lifetime_s=3601)(
        _judged(lifetime_s=5000)(grant)
    ),
    "a deregistration with associations": _judged(lifetime_s=0),
    "z too short": _shorter,
    "z empty": _first(z=Secret(b"")),
    "z missing": _first(z=None),
    "z for a raw key that is longer": _first(mode=Mode.STATELESS, derivation=0),
    "z where none is made": _of(Pair.MN_FA, z=Secret(bytes(32))),
    "mixed without an exchange": _of(Pair.MN_FA, derivation=3),
    "stateless without an exchange": _of(Pair.FA_HA, mode=Mode.STATELESS),
    "a stateful derivation of a semi-stateful key": _of(Pair.FA_HA, mode=Mode.SEMISTATEFUL),
    "a semi-stateful derivation of a stateful key": _of(Pair.FA_HA, derivation=2),
    "a derivation that does not exist": _of(Pair.FA_HA, mode=Mode.SEMISTATEFUL, derivation=77),
    "an exchange that the terms deny": _first(derivation=0),
    "offered garbage": _first(offered=b"\xff" * 40),
    "answered garbage": _first(answered=b"\x01\x01\x00\x05\x00"),
    "answered nothing": _first(answered=b""),
    "offered nothing": _first(offered=b""),
    "garbage of the FA's": _of(Pair.MN_FA, offered=b"\0", answered=b"\0"),
    "payloads of another pair": _all(
        lambda terms: (
            terms[0],
            dataclasses.replace(
                terms[1], offered=terms[0].offered, answered=terms[0].answered, derivation=3
            ),
            *terms[2:],
        )
    ),
    "a carrier that was not answered": _of(Pair.MN_FA, carrier=Carrier.KE_C),
    "a clear carrier": _of(Pair.FA_HA, carrier=Carrier.KE_SECRET),
    "another home agent's name": _replaced(home_agent_nai=Nai.parse(f"ha2@{REALM}")),
    "another realm": _replaced(realm="other.example"),
    "a realm that is none": _replaced(realm="\0"),
    "an operator of another realm": _replaced(operator_realm="other.example"),
    "an operator that no column holds": _replaced(operator_realm="a\0b"),
    "a public key of low order": _replaced(fa_public_key=b"\0\x20" + b"\0\0\1\0" + bytes(32)),
    "a public key cut short": _replaced(fa_public_key=bytes(5)),
    "an identification of tomorrow": _later(86400),
    "an identification of yesterday": _later(-86400),
    "an identification beyond all columns": _judged(identification=Identification(2**64 - 1, 0)),
    "an identification of the year 1900": _judged(identification=Identification(0, 0)),
}
CONFLICTING: dict[str, Change] = {
    "an SPI that nobody has": _replaced_state(spi=0x10000),
    "an SPI below 256": _replaced_state(spi=0),
    "an SPI beyond all": _replaced_state(spi=2**32 - 1),
    "another revision": _replaced_state(revision=2**63),
}


async def test_impossible_grants_are_refused_one_by_one(split: SplitHome) -> None:
    """All at once over one connection, each beside a good one: no batch falls with its worst."""
    cases = IMPOSSIBLE | CONFLICTING
    nodes = [Node(enrolment, n) for n, enrolment in enumerate(split.subscribers(2 * len(cases)))]
    await split.launch("kdc1")
    async with playing(split) as ours:
        grants = await _together(ours.judge(ours.hear(node)) for node in nodes)
        bad, good = grants[: len(cases)], grants[len(cases) :]
        asked = [
            request
            for change, own, fine in zip(cases.values(), bad, good, strict=True)
            for request in (change(own), fine)
        ]
        replies = await asyncio.gather(*(ours.ask(request) for request in asked))
        told = dict(zip(cases, replies[::2], strict=True))
        assert told == dict.fromkeys(IMPOSSIBLE, Fate.REFUSED) | dict.fromkeys(
            CONFLICTING, Fate.CONFLICT
        )
        assert all(isinstance(reply, Settled) for reply in replies[1::2])
        assert split.count() == (len(cases), 3 * len(cases))
        # A refusal has changed nothing: the same record, at the same revision, is granted now.
        replies = await asyncio.gather(*(ours.ask(grant) for grant in bad))
        assert all(isinstance(reply, Settled) for reply in replies)
        assert split.count() == (2 * len(cases), 6 * len(cases))
    assert split.stop("kdc1") == 0
    assert "Traceback" not in split.log("kdc1")


async def _together(awaited: Any) -> list[Any]:
    return list(await asyncio.gather(*awaited))


async def test_impossible_denials_are_refused_one_by_one(split: SplitHome) -> None:
    (enrolment,) = split.subscribers(1)
    node = Node(enrolment, 1)
    await split.launch("kdc1")
    async with playing(split) as ours:
        grant = await ours.judge(ours.hear(node))
        at, seen = grant.judged.identification.unix, grant.judged.identification
        digest = grant.judged.digest

        def deny(denied: Denied, *rest: Any) -> DenyRequest:
            return DenyRequest(grant.state, Refusal(denied, *rest))

        good = Denied(129, challenge=True, at=at)
        bad = [
            deny(Denied(0, challenge=False, at=at), digest, seen, 0),  # a grant in disguise
            deny(Denied(130, challenge=False, at=at), digest, None, 0),  # never kept
            deny(Denied(255, challenge=True, at=at), digest, None, 0),
            deny(Denied(129, challenge=True, at=2**40), digest, seen, 0),
            deny(Denied(129, challenge=True, at=0), digest, seen, 0),
            deny(Denied(129, challenge=True, at=at, state=b"12345678"), digest, seen, 0),
            deny(Denied(129, challenge=True, at=at, counter_proposal=b"?"), digest, seen, 0),
            deny(Denied(133, challenge=False, at=at), digest, None, 0),
            deny(Denied(131, challenge=True, at=at), None, None, 0),
            deny(Denied(131, challenge=False, at=at), digest, None, 0),
            deny(Denied(131, challenge=False, at=at), None, seen, 0),
            deny(good, None, seen, 0),
            deny(good, b"short", seen, 0),
            deny(good, digest, seen, 2),
            deny(good, digest, Identification(seen.second + 10**6, 0), 1),
            deny(good, digest, Identification(2**63, 0), 1),
        ]
        before = everything(split)
        replies = await asyncio.gather(*(ours.ask(request) for request in bad))
        assert replies == [Fate.REFUSED] * len(bad)
        assert everything(split) == before
        settled = await ours.ask(deny(good, digest, seen, 1))
        assert isinstance(settled, Settled) and isinstance(settled.outcome, Denied)
        assert settled.outcome.code == 129 and len(settled.outcome.state) == 8
    assert split.stop("kdc1") == 0


# --- what no node has asked for -----------------------------------------------------------------


def _ticketed(request: Settleable, ticket: Ticket) -> Settleable:
    return dataclasses.replace(request, state=dataclasses.replace(request.state, ticket=ticket))


def _three(grant: GrantRequest) -> tuple[Settleable, ...]:
    """A grant, a denial and a repetition of one record, under one ticket."""
    seen = grant.judged.identification
    denied = Denied(129, challenge=True, at=seen.unix)
    return (
        grant,
        DenyRequest(grant.state, Refusal(denied, grant.judged.digest, seen, 1)),
        RepeatRequest(grant.state, "visited.example"),
    )


async def _admitted(agent: PlayedHomeAgent, request: RegistrationRequest) -> Admission:
    admission = await agent.ask(AdmitRequest(request.octets))
    assert isinstance(admission, Admission)
    return admission


async def test_nothing_is_settled_without_the_ticket_of_its_request(split: SplitHome) -> None:
    """A home agent that was broken into knows SPI and revision, and has tickets for other calls."""
    node, neighbour = (Node(enrolment, n) for n, enrolment in enumerate(split.subscribers(2)))
    await split.launch("kdc1")
    async with playing(split) as ours, playing(split, "ha1b") as twin:
        heard = ours.hear(node)
        grant = await ours.judge(heard)
        true, unspent = grant.state.ticket, (await _admitted(ours, heard.request)).record
        assert unspent is not None and len(unspent.unspent) == 4
        of_the_twin = (await _admitted(twin, heard.request)).ticket
        of_another_record = (await ours.judge(ours.hear(neighbour))).state.ticket
        wrong = {
            "zeros": NO_TICKET,
            "another record's": of_another_record,
            "another peer's": of_the_twin,
            "one bit of the MAC": dataclasses.replace(true, mac=_flipped(true.mac)),
            "one bit of the digest": dataclasses.replace(
                true, request_digest=_flipped(true.request_digest)
            ),
            "one bit of the identification": dataclasses.replace(
                true, identification=_flipped(true.identification)
            ),
            "made younger": dataclasses.replace(true, admitted_at=true.admitted_at + 1),
        }
        before = everything(split)
        for name, ticket in wrong.items():
            for request in _three(grant):
                assert await ours.ask(_ticketed(request, ticket)) is Fate.REFUSED, name
        # The SPIs that the node has not used yet, of which the record tells.
        for spi in unspent.unspent:
            for request in _three(_replaced_state(spi=spi)(grant)):
                if spi != grant.state.spi:
                    assert await ours.ask(request) is Fate.REFUSED
        # One call of the node's is no licence for a later one of the home agent's own.
        for seconds in (-1, 1, 60):
            assert await ours.ask(_later(seconds)(grant)) is Fate.REFUSED
        assert everything(split) == before
        assert isinstance(await ours.ask(grant), Settled)
        # A ticket of the revision before.
        settled = everything(split)
        for request in _three(_replaced_state(revision=grant.state.revision + 1)(grant)):
            assert await ours.ask(request) is Fate.REFUSED
        # The node's last request shown again gives a ticket, but none to grant once more.
        again = (await _admitted(ours, heard.request)).ticket
        state = State(grant.state.spi, grant.state.revision + 1, again)
        assert await ours.ask(_replaced(state=state)(grant)) is Fate.REFUSED
        assert await ours.ask(_later(1)(_replaced(state=state)(grant))) is Fate.REFUSED
        assert everything(split) == settled
    assert split.stop("kdc1") == 0
    assert "kdc.wrong_ticket=" in split.log("kdc1") and true.mac.hex() not in split.log("kdc1")


async def test_an_old_ticket_is_a_conflict(split: SplitHome) -> None:
    """Made here with the database's own key, as if the request had been admitted earlier."""
    (node,) = (Node(enrolment, 1) for enrolment in split.subscribers(1))
    await split.launch("kdc1")
    with administration(split.postgres.conninfo(split.database_name)) as connection:
        keyring = migrate.load_keyring(connection, split.postgres.kek)
    key = derive_ticket_key(keyring.identity_key)
    async with playing(split) as ours:
        heard = ours.hear(node)
        grant = await ours.judge(heard)
        admission = await _admitted(ours, heard.request)
        record, clock = admission.record, admission.clock
        assert record is not None
        assert admission.ticket == make_ticket(key, "ha1", record, heard.request, clock=clock)
        before = everything(split)
        for age in (31, 3600, -60):
            ticket = make_ticket(key, "ha1", record, heard.request, clock=clock - age)
            for request in _three(grant):
                assert await ours.ask(_ticketed(request, ticket)) is Fate.CONFLICT
        assert everything(split) == before
        ticket = make_ticket(key, "ha1", record, heard.request, clock=clock - 20)
        assert isinstance(await ours.ask(_ticketed(grant, ticket)), Settled)
    assert split.stop("kdc1") == 0
    assert "kdc.old_ticket=" in split.log("kdc1")


async def test_any_kdc_of_the_database_takes_a_ticket(split: SplitHome) -> None:
    first, second = (Node(enrolment, n) for n, enrolment in enumerate(split.subscribers(2)))
    await split.launch("kdc1", "kdc2")
    async with playing(split) as one, playing(split, kdc="kdc2") as two:
        grant = await one.judge(one.hear(first))
        assert isinstance(await two.ask(grant), Settled)
        grant = await two.judge(two.hear(second))
        denial = _three(grant)[1]
        assert await one.ask(_ticketed(denial, NO_TICKET)) is Fate.REFUSED
        assert isinstance(await one.ask(denial), Settled)
    assert {split.stop(name) for name in ("kdc1", "kdc2")} == {0}


def _flipped(octets: bytes) -> bytes:
    return octets[:-1] + bytes((octets[-1] ^ 1,))


# --- mutated requests -------------------------------------------------------------------------


def _mutated(rng: random.Random, octets: bytes) -> bytes:
    """Octets flipped, cut, doubled, moved or lengthened, at times several of these."""
    data = bytearray(octets)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) or 1)
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes((rng.randrange(256),))
            case 1:
                data[at : at + 1] = bytes((data[at] ^ (1 << rng.randrange(8)),)) if data else b""
            case 2:
                del data[at:]
            case 3:
                del data[at : at + rng.randrange(1, 9)]
            case 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 5:
                data[at:at] = data[at : at + rng.randrange(1, 64)]
            case _:
                data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff"))
    return bytes(data[:3500])


def _reordered(rng: random.Random, octets: bytes) -> bytes:
    """The same row of CVSEs in another order, one of them doubled or gone."""
    head, rest, items = octets[:4], octets[4:], []
    while rest:
        length = 4 + int.from_bytes(rest[2:4], "big")
        items.append(rest[:length])
        rest = rest[length:]
    rng.shuffle(items)
    chosen = rng.randrange(len(items))
    items[chosen : chosen + 1] = [items[chosen]] * rng.choice((0, 1, 2))
    return head + b"".join(items)


async def test_mutated_key_requests_leave_the_kdc_as_it_was(split: SplitHome) -> None:
    """Thousands of them over one connection: each is answered, and the next good one is served."""
    nodes = [Node(enrolment, n) for n, enrolment in enumerate(split.subscribers(48))]
    late = Node(split.subscribers(1, name="late")[0], 1)
    await split.launch("kdc1")
    rng = random.Random(20040)
    limit = asyncio.Semaphore(AT_ONCE)
    async with playing(split) as ours:
        bases: list[bytes] = []
        for number, node in enumerate(nodes):
            terms = {0: SEMISTATEFUL, 1: STATELESS}.get(number % 3)
            structured = ours.hear(node, terms=terms) if terms else ours.hear(node)
            grant = await ours.judge(structured)
            at = grant.judged.identification
            denied = Denied(129, challenge=True, at=at.unix)
            refusal = Refusal(denied, grant.judged.digest, at, 1)
            requests: tuple[KeyRequest, ...] = (
                AdmitRequest(structured.request.octets),
                grant,
                grant,
                DenyRequest(grant.state, refusal),
                RepeatRequest(grant.state, "visited.example"),
            )
            bases += map(encoded, requests)

        async def send(octets: bytes) -> int:
            async with limit:
                return (await ours.send(octets)).code  # raises where nothing is answered

        changed = [
            (_reordered if rng.random() < 0.1 else _mutated)(rng, rng.choice(bases))
            for _ in range(MUTATIONS)
        ]
        codes = await asyncio.gather(*map(send, changed))
        assert set(codes) == {ACCESS_ACCEPT, ACCESS_REJECT}
        assert min(map(codes.count, set(codes))) > MUTATIONS // 20, "all of them read alike"
        assert split.processes["kdc1"].poll() is None
        grant = await ours.judge(ours.hear(late))
        assert isinstance(await ours.ask(grant), Settled)
    _check_what_was_stored(split)
    assert split.stop("kdc1") == 0
    log = split.log("kdc1")
    assert "Traceback" not in log and "exception" not in log.lower(), log[-2000:]
    assert "kdc.malformed=" in log


def _check_what_was_stored(split: SplitHome) -> None:
    """A mutation may still be a registration; then it is one that a receiver would take."""
    by_class: dict[str, list[Any]] = {}
    for item in split.stored():
        by_class.setdefault(item.class_id, []).append(item)
        assert item.suites and 1 <= item.lifetime_s <= 65534 and item.derivation <= 3
        assert (item.keys is not None) == (item.pair in (Pair.MN_HA, Pair.FA_HA))
    assert by_class
    for items in by_class.values():
        pairs = [item.pair for item in items]
        assert len(set(pairs)) == len(pairs) and {Pair.MN_HA, Pair.MN_FA, Pair.FA_HA} <= set(pairs)
