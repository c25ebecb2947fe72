"""Many mobile nodes that register once each, and whether each key is at exactly its holders."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aaa.net.mobile_ip import MobileIpSocket
from aaa.net.udp import Address
from aaa.roles.mobile_node import Heard, MobileNodeState, Registered
from aaa.serve.mobile_node import Retransmission, StateFile, register_once
from kdc.crypto.key0 import fingerprint_key
from kdc.model import Enrolment, Pair
from kdc.store import associations, migrate
from kdc.store.associations import StoredAssociation
from kdc.store.database import administration
from tests.conftest import PostgresServer

AT_ONCE = 32
PATIENCE = Retransmission(timeout_s=2, retries=5)


class _Memory(StateFile):
    """The state of a node that nobody restarts."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._state = MobileNodeState.enrolled(enrolment)

    def load(self) -> MobileNodeState:
        return self._state

    def store(self, state: MobileNodeState) -> None:
        self._state = state


class _Counting(MobileIpSocket):
    """Knows how often each request has been sent."""

    def __init__(self, foreign_agent: Address) -> None:
        super().__init__(foreign_agent)
        self.sends: Counter[bytes] = Counter()

    def send(self, octets: bytes) -> None:
        self.sends[octets] += 1
        super().send(octets)


@dataclass(frozen=True)
class Visit:
    """One registration: how long it took, and what it needed beside the first datagram."""

    answer: Registered
    began: float  # Unix seconds
    took_s: float
    retransmissions: int  # the same octets again
    new_requests: int  # after a 133: the first came too late


@dataclass
class Visitors:
    """The nodes of `enrolments` at one foreign agent, at most `AT_ONCE` under way."""

    enrolments: Iterable[Enrolment]
    agent: Address
    patience: Retransmission = PATIENCE
    visits: list[Visit] = field(default_factory=list)
    _limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def register(self, heard: Heard) -> float:
        """All of them; the seconds that it took.  Fails unless each is accepted."""
        began = time.monotonic()
        await asyncio.gather(*(self._visit(enrolment, heard) for enrolment in self.enrolments))
        return time.monotonic() - began

    async def _visit(self, enrolment: Enrolment, heard: Heard) -> None:
        async with self._limit, _Counting.open(self.agent) as link:
            assert isinstance(link, _Counting)
            began, from_then = time.time(), time.monotonic()
            answer = await register_once(
                link, _Memory(enrolment), heard, lifetime_s=600, retransmission=self.patience
            )
            assert isinstance(answer, Registered), answer
            again = sum(link.sends.values()) - len(link.sends)
            took_s = time.monotonic() - from_then
            self.visits.append(Visit(answer, began, took_s, again, len(link.sends) - 1))

    @property
    def summary(self) -> str:
        """How many, how slow, and how many needed more than one datagram."""
        times = sorted(visit.took_s for visit in self.visits)
        again = sum(visit.retransmissions > 0 for visit in self.visits)
        anew = sum(visit.new_requests > 0 for visit in self.visits)
        return (
            f"{len(times)} accepted, median {times[len(times) // 2]:.3f} s, slowest"
            f" {times[-1]:.3f} s, {again} sent again, {anew} asked anew"
        )


def stored_associations(postgres: PostgresServer, database_name: str) -> list[StoredAssociation]:
    """What home has committed."""
    with administration(postgres.conninfo(database_name)) as connection:
        keyring = migrate.load_keyring(connection, postgres.kek)
        return list(associations.list_all(connection, keyring))


def check_agreement(
    answers: Iterable[Registered],
    stored: Iterable[StoredAssociation],
    installed: Iterable[dict[str, Any]],
) -> None:
    """Each key at exactly its holders: KEY1 MN and home, KEY2 FA and home, KEY3 MN and FA.

    `installed` are lines of an agent's state file.
    """
    at_home = {item.spi: item for item in stored}
    at_agent = {item["spi"]: item for item in installed}
    answers = list(answers)
    assert len(at_home) == 3 * len(answers) and len(at_agent) == 2 * len(answers)
    fingerprints: set[str | None] = set()
    for answer in answers:
        key1, key3 = fingerprint_key(answer.mn_ha.keys), fingerprint_key(answer.mn_fa.keys)
        assert at_home[answer.mn_ha.spi].fingerprint == key1
        assert answer.mn_ha.spi not in at_agent
        assert at_agent[answer.mn_fa.spi]["fingerprint"] == key3
        assert at_home[answer.mn_fa.spi].fingerprint is None
        fingerprints |= {key1, key3}
    for item in at_home.values():
        if item.pair is Pair.FA_HA:
            assert at_agent[item.spi]["fingerprint"] == item.fingerprint
            fingerprints.add(item.fingerprint)
    assert len(fingerprints) == 3 * len(answers), "two keys are alike"
