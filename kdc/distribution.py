"""Key distribution as a service: admits requests and settles decisions, a batch at a time.

What a home agent asks of its KDC is `KeyDistribution`; here is the KDC that has the database in its
own process.  One item's fate is never another's (DESIGN section 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from kdc.center import KeyDistributionCenter, Prepared
from kdc.errors import RoamkeyError, Unavailable
from kdc.model import HomeAddressKind
from kdc.records import (
    UNSPENT_SPIS,
    Admission,
    Decision,
    Fate,
    GrantDecision,
    RecordChange,
    RepeatDecision,
    Settled,
)
from kdc.store import (
    CommitRefused,
    CommitResult,
    CommitUnknown,
    DatabaseUnavailable,
    SpiTaken,
    Store,
)
from kdc.wire.registration import RegistrationRequest

_PREPARED_A_TURN: Final = 32


class KeyDistribution(Protocol):
    """What a home agent asks of its KDC, in process or over TLS."""

    async def admit(self, requests: Sequence[RegistrationRequest]) -> list[Admission | Fate]:
        """Step 5 for a batch: an admission for each, or `Fate.UNAVAILABLE`."""
        ...

    async def settle(self, decisions: Sequence[Decision]) -> list[Settled | Fate]:
        """Steps 7 and 8 for a batch: what is settled here is committed."""
        ...


class LocalKeyDistribution:
    """The KDC on its own database."""

    def __init__(self, store: Store, center: KeyDistributionCenter) -> None:
        self._store = store
        self._center = center

    async def admit(self, requests: Sequence[RegistrationRequest]) -> list[Admission | Fate]:
        return await self.admit_spis([request.mhae.spi for request in requests])

    async def admit_spis(self, spis: Sequence[int]) -> list[Admission | Fate]:
        """As `admit`, by the SPIs alone."""
        # Step 5
        try:
            loaded = await self._store.load(spis)
        except DatabaseUnavailable:
            return [Fate.UNAVAILABLE] * len(spis)
        return [
            self._center.admit(loaded.records.get(spi), spi, clock=loaded.clock) for spi in spis
        ]

    async def settle(self, decisions: Sequence[Decision]) -> list[Settled | Fate]:
        try:
            await self._reserve(decisions)
        except DatabaseUnavailable:
            return [Fate.UNAVAILABLE] * len(decisions)
        # Step 7
        prepared = await self._prepare(decisions)
        changes = [
            item.change
            for item in prepared
            if isinstance(item, Prepared) and item.change is not None
        ]
        clock = max((d.admission.clock for d in decisions), default=0.0)
        # Step 8
        fates = iter(await self._commit(changes, clock))
        repeated = await self._fates_of_repeats(decisions)
        settled: list[Settled | Fate] = []
        for decision, item in zip(decisions, prepared, strict=True):
            if isinstance(item, Fate):
                settled.append(item)
            else:
                fate = repeated[_judged(decision)] if item.change is None else next(fates)
                settled.append(item.settled if fate is None else fate)
        return settled

    async def _fates_of_repeats(
        self, decisions: Sequence[Decision]
    ) -> dict[tuple[int, int], Fate | None]:
        """By record and revision; None where the outcome is still the record's last one.

        Nothing is committed for a repeat, so that no compare-and-set tells that its keys have been
        revoked since it was judged: the last look at the record comes after all that takes time.
        """
        judged = {_judged(each) for each in decisions if isinstance(each, RepeatDecision)}
        if not judged:
            return {}
        try:
            unchanged = await self._store.find_unchanged(judged)
        except DatabaseUnavailable:
            return dict.fromkeys(judged, Fate.UNAVAILABLE)
        return {each: None if each in unchanged else Fate.CONFLICT for each in judged}

    async def _reserve(self, decisions: Sequence[Decision]) -> None:
        """Numbers for the whole batch; raises `DatabaseUnavailable`."""
        spending = [d for d in decisions if not isinstance(d, RepeatDecision)]
        granted = [d for d in spending if isinstance(d, GrantDecision)]
        await self._store.reserve(
            key0=UNSPENT_SPIS * len(spending),
            associations=[
                decision.admission.clock + terms.lifetime_s
                for decision in granted
                for terms in decision.verified.terms
            ],
            addresses=sum(
                decision.record.home_address_kind is HomeAddressKind.DYNAMIC for decision in granted
            ),
        )

    async def _prepare(self, decisions: Sequence[Decision]) -> list[Prepared | Fate]:
        prepared: list[Prepared | Fate] = []
        for index, decision in enumerate(decisions):
            if index % _PREPARED_A_TURN == _PREPARED_A_TURN - 1:
                await asyncio.sleep(0)  # the socket and the other batches go on meanwhile
            try:
                prepared.append(
                    self._center.prepare(decision, self._store.allocator, self._store.cui_key)
                )
            except Unavailable:
                prepared.append(Fate.UNAVAILABLE)
            except RoamkeyError:
                prepared.append(Fate.REFUSED)  # terms of another process that make no keys
        return prepared

    async def _commit(self, changes: Sequence[RecordChange], clock: float) -> list[Fate | None]:
        """The fate of each change; None is committed."""
        try:
            results = await self._store.commit(changes, clock=clock)
        except (SpiTaken, CommitRefused) as error:
            if len(changes) == 1:
                return [Fate.CONFLICT if isinstance(error, SpiTaken) else Fate.REFUSED]
            # One item is poison, or has a number that was taken meanwhile; alone it fails alone.
            return [fate for change in changes for fate in await self._commit([change], clock)]
        except CommitUnknown:
            return [Fate.UNKNOWN] * len(changes)
        except DatabaseUnavailable:
            return [Fate.UNAVAILABLE] * len(changes)
        return [None if r is CommitResult.COMMITTED else Fate.CONFLICT for r in results]


def _judged(decision: Decision) -> tuple[int, int]:
    """The record and its revision."""
    return decision.record.record_id, decision.record.revision
