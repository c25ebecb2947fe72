"""The process `kdc serve`: a KDC that home agents in other processes ask over TLS, and only so.

It keeps KEY0 and the database; a home agent gets the keys of one exchange, after the request that
it shows has been verified here, and only for records of its own address.  What it decides is
settled only where a home agent that works could have decided so (kdc.decisions), and only about a
request that a KDC has just verified for it (kdc.ticket).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import structlog

from aaa.config import KdcConfig, load_kdc_server
from aaa.net.radsec_server import RadsecServer
from aaa.net.radsec_transactions import RadsecTransaction
from aaa.radius.attributes import decode_key_request, encode_key_reply
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import ACCESS_ACCEPT, ACCESS_REJECT
from aaa.radius.tls_peers import TlsPeer
from aaa.roles.home_agent_request import verify_request
from aaa.serve.batches import Batches
from aaa.serve.housekeeping import keep_house
from aaa.serve.process import on_hangup, run, split_address
from aaa.serve.radsec import peer_table, read_contexts
from kdc.center import KeyDistributionCenter
from kdc.decisions import check_decision
from kdc.distribution import LocalKeyDistribution
from kdc.errors import AuthenticationFailed, LocalError, RemoteError
from kdc.model import Nai, Secret
from kdc.records import (
    Admission,
    Decision,
    DenyDecision,
    Fate,
    GrantDecision,
    Record,
    RepeatDecision,
    Settled,
    VerifiedRegistration,
)
from kdc.store import Store
from kdc.ticket import OldTicket, WrongTicket, make_ticket, verify_ticket
from kdc.wire.keydist import (
    AdmitRequest,
    DenyRequest,
    GrantRequest,
    KeyReply,
    KeyRequest,
    NotAdmitted,
    RepeatRequest,
    decode_key_request_message,
    encode_key_reply_message,
)
from kdc.wire.registration import RegistrationRequest, decode_request

DRAIN_S: Final = 10.0
ADMITTED: Final = "kdc.admitted"
NOT_ADMITTED: Final = "kdc.not_admitted"
SETTLED: Final = "kdc.settled"
UNSETTLED: Final = "kdc.unsettled"  # one counter for each fate
OLD_TICKET: Final = "kdc.old_ticket"
WRONG_TICKET: Final = "kdc.wrong_ticket"  # an attack, or KDCs that name a peer differently
MALFORMED: Final = "kdc.malformed"
TOO_LONG: Final = "kdc.reply_too_long"

log = structlog.get_logger("aaa.kdc")
Asked = tuple[RadsecTransaction, KeyRequest]
Settleable = GrantRequest | DenyRequest | RepeatRequest


@dataclass(frozen=True, slots=True)
class ServedHomeAgent:
    """Which records a peer may ask for, and what it is called in what it grants."""

    address: IPv4Address
    nai: Nai


class KdcServer:
    """Answers Key-Requests in batches; `home_agents` has what each peer may ask, by its name."""

    def __init__(
        self,
        service: LocalKeyDistribution,
        home_agents: Mapping[str, ServedHomeAgent],
        counters: Counters,
        *,
        realm: str,
        vendor_id: int,
        ticket_key: Secret,
    ) -> None:
        self._service = service
        self._home_agents = home_agents
        self._counters = counters
        self._realm = realm
        self._vendor_id = vendor_id
        self._ticket_key = ticket_key
        self._batches: Batches[Asked] = Batches(self._run, lambda asked: asked[0].client.name)

    def on_requests(self, transactions: list[RadsecTransaction]) -> None:
        for transaction in transactions:
            try:
                payload = decode_key_request(transaction.request, self._vendor_id)
                request = decode_key_request_message(payload, self._vendor_id)
            except (MalformedPacket, RemoteError):
                self._counters.add(MALFORMED)
                transaction.respond(ACCESS_REJECT, ())
            else:
                self._batches.add((transaction, request))
        self._batches.start()

    async def _run(self, batch: list[Asked]) -> None:
        admits = [(t, r) for t, r in batch if isinstance(r, AdmitRequest)]
        settles = [(t, r) for t, r in batch if not isinstance(r, AdmitRequest)]
        try:
            await self._admit(admits)
            await self._settle(settles)
        finally:
            for transaction, _ in batch:
                transaction.forget()  # of those that a bug has left without an answer

    async def _admit(self, asked: list[tuple[RadsecTransaction, AdmitRequest]]) -> None:
        """Step 5: K(use, SPI) for each request that verifies under it, and for no other."""
        read: list[tuple[RadsecTransaction, RegistrationRequest]] = []
        for transaction, ask in asked:
            try:
                read.append((transaction, decode_request(ask.registration, self._vendor_id)))
            except RemoteError:
                self._answer(transaction, NotAdmitted())
        if not read:
            return
        admissions = await self._service.admit([request for _, request in read])
        for (transaction, request), admission in zip(read, admissions, strict=True):
            self._answer(transaction, self._lend(transaction.client, request, admission))

    def _lend(
        self, peer: TlsPeer, request: RegistrationRequest, admission: Admission | Fate
    ) -> KeyReply:
        if isinstance(admission, Fate):
            return admission
        try:
            record = verify_request(request, admission.record, admission.keys, now=admission.clock)
        except AuthenticationFailed:
            return NotAdmitted()
        if not self._serves(peer, record):
            return NotAdmitted()
        ticket = make_ticket(self._ticket_key, peer.name, record, request, clock=admission.clock)
        return Admission(record, admission.keys, admission.clock, ticket=ticket)

    def _serves(self, peer: TlsPeer, record: Record) -> bool:
        return record.home_agent == self._home_agents[peer.name].address

    async def _settle(self, asked: list[tuple[RadsecTransaction, Settleable]]) -> None:
        """Steps 7 and 8: the records are loaded anew, so that any KDC process may be asked."""
        if not asked:
            return
        admissions = await self._service.admit_spis([ask.state.spi for _, ask in asked])
        decided: list[tuple[RadsecTransaction, Decision]] = []
        for (transaction, ask), admission in zip(asked, admissions, strict=True):
            decision = self._decide(transaction.client, ask, admission)
            if isinstance(decision, Fate):
                self._answer(transaction, decision)
            else:
                decided.append((transaction, decision))
        fates = await self._service.settle([decision for _, decision in decided])
        for (transaction, _), fate in zip(decided, fates, strict=True):
            self._answer(transaction, fate)

    def _decide(
        self, peer: TlsPeer, ask: Settleable, admission: Admission | Fate
    ) -> Decision | Fate:
        """The decision about the record as it is now; in conflict if it is not what was judged."""
        if isinstance(admission, Fate):
            return admission
        record = admission.record
        if record is None or not record.active or not self._serves(peer, record):
            return Fate.CONFLICT  # judged anew, it is refused
        if record.expires_at is not None and record.expires_at <= admission.clock:
            return Fate.CONFLICT
        if record.revision != ask.state.revision:
            return Fate.CONFLICT
        decision = decision_of(ask, admission, record)
        try:
            verify_ticket(self._ticket_key, ask.state.ticket, peer.name, decision)
            check_decision(
                decision,
                home_agent_nai=self._home_agents[peer.name].nai,
                realm=self._realm,
            )
        except OldTicket:
            self._counters.add(OLD_TICKET)
            return Fate.CONFLICT
        except RemoteError as error:
            if isinstance(error, WrongTicket):
                self._counters.add(WRONG_TICKET)
            return Fate.REFUSED
        return decision

    def _answer(self, transaction: RadsecTransaction, reply: KeyReply) -> None:
        match reply:
            case Admission():
                self._counters.add(ADMITTED)
            case NotAdmitted():
                self._counters.add(NOT_ADMITTED)
            case Settled():
                self._counters.add(SETTLED)
            case Fate():
                self._counters.add(f"{UNSETTLED}.{reply.value}")
        try:
            attributes = encode_key_reply(
                encode_key_reply_message(reply, self._vendor_id), self._vendor_id
            )
            transaction.respond(ACCESS_ACCEPT, attributes)
        except LocalError:
            self._counters.add(TOO_LONG)
            if isinstance(reply, Admission):
                self._answer(transaction, Fate.REFUSED)  # a record that this hop cannot carry
            else:
                # Committed, and longer than a packet: as a reply that was lost (PROTOCOL 5.5).
                transaction.forget()


def decision_of(ask: Settleable, admission: Admission, record: Record) -> Decision:
    """What a home agent has decided, joined with the record that it was judged by."""
    spi = ask.state.spi
    match ask:
        case GrantRequest():
            judged = ask.judged
            verified = VerifiedRegistration(
                record=record,
                spi=spi,
                identification=judged.identification,
                lifetime_s=judged.lifetime_s,
                fa_nai=ask.fa_nai,
                nas_address=ask.nas_address,
                operator_realm=ask.operator_realm,
                care_of_address=judged.care_of_address,
                fa_public_key=ask.fa_public_key,
                home_agent_nai=ask.home_agent_nai,
                realm=ask.realm,
                terms=ask.terms,
            )
            return GrantDecision(admission, verified, judged.digest)
        case DenyRequest():
            refusal = ask.refusal
            return DenyDecision(
                admission,
                record,
                spi,
                refusal.denied,
                refusal.digest,
                refusal.last_seen,
                refusal.rounds,
            )
        case RepeatRequest():
            return RepeatDecision(admission, record, spi, ask.fa_realm)


async def serve_kdc(
    config: KdcConfig, *, stop: asyncio.Event, ready: Callable[[], None] | None = None
) -> None:
    """Serves until `stop`, then answers what it has taken in and returns.

    Raises `LocalError` (database, KEK, schema, certificates) before it has bound any address.
    """
    counters = Counters()
    section = config.kdc
    contexts = read_contexts(config.tls)
    async with Store.opened(
        config.database,
        entropy=os.urandom,
        overlap_s=section.overlap_s,
        dynamic_addresses=section.dynamic_addresses,
    ) as store:
        server = KdcServer(
            LocalKeyDistribution(store, KeyDistributionCenter(os.urandom)),
            {a.name: ServedHomeAgent(a.address, a.nai) for a in config.home_agent},
            counters,
            realm=section.realm,
            vendor_id=section.vendor_id,
            ticket_key=store.ticket_key,
        )
        peers = peer_table(config.home_agent)
        radsec = RadsecServer(peers, contexts, counters, server.on_requests)
        on_hangup(lambda: radsec.reload(read_contexts(config.tls), peers), log)
        housekeeping = asyncio.create_task(keep_house(store, config.database, counters, log))
        try:
            for address in section.listen:
                bound = radsec.listen(split_address(address))
                log.info("listening", address=":".join(map(str, bound)))
            if ready is not None:
                ready()
            await stop.wait()
            radsec.stop_receiving()
            await radsec.drain(DRAIN_S)
        finally:
            housekeeping.cancel()
            await radsec.close()
            log.info("counters", **counters.snapshot())


def main(config: Path) -> int:
    """`kdc serve`, which finds this by its entry point: kdc knows nothing of aaa."""
    settings = load_kdc_server(config)
    return run(lambda stop: serve_kdc(settings, stop=stop), settings.log)
