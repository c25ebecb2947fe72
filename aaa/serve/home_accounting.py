"""Accounting at a home (RFC 2866): stored first, answered then, and otherwise not at all.

There is no negative answer: whoever hears nothing sends again, and the same request twice is one
row.  How a record is kept is kdc.store.accounting's affair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aaa.exchange import Peer
from aaa.net.transactions import Transaction
from aaa.radius.accounting import AccountingRequest, decode_accounting_request
from aaa.radius.counters import Counters
from aaa.radius.packet import ACCOUNTING_RESPONSE
from aaa.roles.home_aaa import Accounted, judge_accounting
from aaa.serve.batches import Batches
from kdc.accounting import AccountingRecord, printable
from kdc.errors import Malformed, RemoteError
from kdc.model import Nai, shared_nai
from kdc.store.accounting import Recorded

MAXIMUM_WAITING: Final = 8192
CLASS_OCTETS: Final = 8  # of a registration's Class; a proxy may have added others

RECORDED: Final = "home.accounting.recorded"
DROPPED: Final = "home.accounting.dropped"  # one counter for each reason

Record = Callable[[Sequence[AccountingRecord]], Awaitable[list[Recorded]]]
_Item = tuple[Transaction, AccountingRecord]


class HomeAccounting:
    """Takes verified Accounting-Requests and answers them once `record` has stored them.

    `peers` may be replaced at any time.
    """

    def __init__(
        self,
        record: Record,
        peers: Mapping[str, Peer],
        counters: Counters,
        *,
        realm: str,
        vendor_id: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.peers = peers
        self._record = record
        self._counters = counters
        self._realm, self._vendor_id = realm, vendor_id
        self._clock = clock
        self._batches: Batches[_Item] = Batches(self._store, _peer_of)

    def on_requests(self, transactions: list[Transaction]) -> None:
        """Takes what a drained socket or connection had; the batch begins at once."""
        for transaction in transactions:
            try:
                record = self._read(transaction)
            except Malformed:
                self._drop(transaction, "malformed")
                continue
            if isinstance(record, str):
                self._drop(transaction, record)
            elif not self._batches.has_room(transaction.client.name, MAXIMUM_WAITING):
                self._drop(transaction, "overload")
            else:
                self._batches.add((transaction, record))
        self._batches.start()

    def _read(self, transaction: Transaction) -> AccountingRecord | str:
        """What is to be stored, or why nothing is; raises `Malformed`."""
        asked = decode_accounting_request(transaction.request, self._vendor_id)
        peer = self.peers[transaction.client.name]
        judged = judge_accounting(
            peer,
            user_realm=_realm(asked.user_name),
            fa_realm=None if asked.fa_nai is None else shared_nai(asked.fa_nai).realm,
            operator_name=asked.operator_name,
            realm=self._realm,
        )
        if not isinstance(judged, Accounted):
            return judged
        return _record_of(asked, peer.name, judged.operator_realm, self._clock())

    async def _store(self, batch: list[_Item]) -> None:
        """Durable before visible: what is not known to be stored is not answered."""
        try:
            results = await self._record([record for _, record in batch])
        except RemoteError:
            for transaction, _ in batch:
                self._drop(transaction, "database")
            return
        except BaseException:
            for transaction, _ in batch:  # else they would stay in progress for ever
                self._drop(transaction, "mistake")
            raise
        for (transaction, _), result in zip(batch, results, strict=True):
            if result is Recorded.RECORDED:
                self._counters.add(RECORDED)
                transaction.respond(ACCOUNTING_RESPONSE, ())
            else:
                self._drop(transaction, "refused")

    def _drop(self, transaction: Transaction, reason: str) -> None:
        self._counters.add(f"{DROPPED}.{reason}")
        transaction.forget()

    async def drain(self) -> None:
        """Waits until everything taken has been stored or given up."""
        while self._batches.running:
            await asyncio.wait(self._batches.running)


def _peer_of(item: _Item) -> str:
    return item[0].client.name


def _realm(name: bytes | None) -> str | None:
    """The realm of a name, lowered; None for none, and for text that is no NAI."""
    if name is None:
        return None
    try:
        nai: Nai = shared_nai(name)
    except Malformed:
        return None
    return nai.realm or None


def _record_of(
    asked: AccountingRequest, peer: str, operator_realm: str | None, received_at: float
) -> AccountingRecord:
    """Raises `Malformed` for what no row holds."""
    ours = [value for value in asked.classes if len(value) == CLASS_OCTETS]
    class_id = next(iter((*ours, *asked.classes)), None)
    return AccountingRecord(
        peer=peer,
        status=asked.status,
        event_time=asked.event_time(received_at),
        session_id=_text(asked.session_id) or "",
        nas_identifier=_text(asked.nas_identifier),
        nas_address=asked.nas_address,
        class_id=class_id,
        spis=asked.spis,
        user_name=_text(asked.user_name),
        operator_realm=operator_realm,
        fa_nai=_text(asked.fa_nai),
        session_time_s=asked.session_time_s,
        input_octets=asked.input_octets,
        output_octets=asked.output_octets,
        input_packets=asked.input_packets,
        output_packets=asked.output_packets,
        terminate_cause=asked.terminate_cause,
    )


def _text(octets: bytes | None) -> str | None:
    return None if octets is None else printable(octets)
