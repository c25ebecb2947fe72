"""The sessions of a foreign agent at work: keys for other software, accounting, what home ends.

Which session is meant and when it is over is decided in aaa.roles.foreign_agent_sessions; this file
tells those who have to know.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from aaa.radius import accounting as attributes
from aaa.radius.accounting import AccountingRequest
from aaa.radius.counters import Counters
from aaa.radius.dynauth import DynamicRequest
from aaa.roles.foreign_agent import Delivery, FaIdentity, Relayed
from aaa.roles.foreign_agent_sessions import Ended, Ending, Session, SessionTable
from aaa.serve.accounting import Accounting
from aaa.serve.bindings import Bindings, Home
from aaa.serve.installed_log import InstalledLog
from aaa.serve.key_file import KeyFile
from aaa.serve.key_outlet import SaOutlet
from aaa.serve.session_file import decode_sessions, encode_sessions
from kdc.accounting import AccountingStatus
from kdc.errors import ACCEPTED, LocalError
from kdc.keyuse.table import Endpoint, Grant
from kdc.keyuse.traffic import Party
from kdc.model import Secret

SESSION_ENDED: Final = "agent.session_ended"  # one counter for each ending
NUMBER_OCTETS: Final = 8
LONGEST_SLEEP_S: Final = 5.0  # a clock that is set forward is noticed after that
FAREWELL_S: Final = 5.0  # how long the last records may take

# RFC 2866 §5.10
_CAUSES: Final = {
    Ending.DEREGISTERED: attributes.USER_REQUEST,
    Ending.EXPIRED: attributes.SESSION_TIMEOUT_REACHED,
    Ending.REPLACED: attributes.NAS_REQUEST,  # for a reason that is no error
    Ending.REVOKED: attributes.ADMIN_RESET,
    Ending.DISPLACED: attributes.PORT_PREEMPTED,
    Ending.SHUTDOWN: attributes.ADMIN_REBOOT,
}

log = structlog.get_logger("aaa.agent")


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of what becomes of a session; `accounting` is None where nobody counts.

    `session_file` follows the sessions, so that the next process knows them.
    """

    outlet: SaOutlet
    installed: InstalledLog
    accounting: Accounting | None = None
    session_file: Path | None = None


class AgentSessions:
    """From the grant of a registration to its end, inside the event loop."""

    def __init__(
        self,
        identity: FaIdentity,
        told: Told,
        counters: Counters,
        *,
        interim_s: float | None = None,
        clock: Callable[[], float] = time.time,
        table: SessionTable | None = None,
    ) -> None:
        self._identity = identity
        self._told = told
        self._counters = counters
        self._interim_s = interim_s
        self._clock = clock
        self._table = table if table is not None else SessionTable()
        self._bindings = Bindings()
        self._interims: dict[str, tuple[float, Session]] = {}  # by number, the next one first
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = False
        self._file: KeyFile | None = None
        if told.session_file is not None:
            self._file = KeyFile(told.session_file, self._snapshot, counters, what="sessions")

    def __len__(self) -> int:
        return len(self._table)

    def open(self) -> None:
        """At the start: takes over what an earlier process left, whose accounting is over.

        Raises `LocalError` if the file is another user's or its folder open to others.
        """
        self._is_open = True
        stored = self._file.read() if self._file is not None else None
        if self._told.accounting is not None:
            self._told.accounting.begin(self._of_agent(AccountingStatus.ACCOUNTING_ON))
        if stored is not None:
            try:
                self._take_over(decode_sessions(stored))
            except LocalError as error:
                log.warning("the file of sessions is replaced", reason=str(error))
        self._changed()

    def _take_over(self, stored: Iterable[Session]) -> None:
        """To be counted anew: a session of accounting ends with the process that counts it."""
        now = self._clock()
        live = [session for session in stored if session.expires_at > now]
        for session in live:
            self._bindings.restore(session.binding, session.sender)
        for session in live:
            number = os.urandom(NUMBER_OCTETS).hex()
            self._table.install(replace(session, number=number, began_at=now), now=now)
        for session in self._table.current():
            self._begin(session, now)

    def _snapshot(self) -> Callable[[], Secret]:
        sessions = self._table.all()
        return lambda: encode_sessions(sessions)

    def _changed(self) -> None:
        if self._file is not None:
            self._file.changed()

    # --- from a mobile node's registration ---

    def hand_on(self, relayed: Relayed, delivery: Delivery) -> None:
        """A reply to this node: KEY2 and KEY3 for other software, and a session or its end."""
        request, sender = relayed.request, relayed.sender[0]
        home = Home(request.realm.realm, request.home_agent)
        if delivery.associations:
            self._grant(relayed, delivery, home)
        elif delivery.code == ACCEPTED:
            binding = self._bindings.deregister(sender, home)
            if binding is not None:
                self._told.outlet.deregistered(binding)
                self._hear(self._table.deregister(binding, now=self._clock()))

    def _grant(self, relayed: Relayed, delivery: Delivery, home: Home) -> None:
        assert delivery.home_address is not None
        assert delivery.alias is not None
        sender, identity, now = relayed.sender[0], self._identity, self._clock()
        self._hear(self._table.advance(now=now))  # else what it forgets is the binding made here
        binding = self._bindings.install(sender, home, delivery.home_address)
        endpoints = {
            Party.MOBILE_NODE: Endpoint(delivery.alias, delivery.home_address),
            Party.FOREIGN_AGENT: Endpoint(identity.nai, identity.care_of_address),
            Party.HOME_AGENT: Endpoint(delivery.home_agent_nai, relayed.request.home_agent),
        }
        self._told.outlet.installed(
            Grant(binding, delivery.associations, endpoints, delivery.alias)
        )
        session = Session(
            number=os.urandom(NUMBER_OCTETS).hex(),
            realm=home.realm,
            class_id=delivery.class_id,
            spis=tuple(item.spi for item in delivery.associations),
            binding=binding,
            sender=sender,
            alias=delivery.alias,
            began_at=now,
            expires_at=now + delivery.lifetime_s,
        )
        is_new = not self._table.is_known(session)
        self._hear(self._table.install(session, now=now))
        if is_new:
            self._begin(session, now)

    def _begin(self, session: Session, now: float) -> None:
        self._account(AccountingStatus.START, session)
        if self._interim_s is not None:
            self._interims[session.number] = (now + self._interim_s, session)
        self._changed()
        self._schedule()

    def was_revoked(self, relayed: Relayed, delivery: Delivery) -> bool:
        """Whether home has ended what this reply grants: one that comes twice grants nothing."""
        realm = relayed.request.realm.realm
        return bool(delivery.associations) and self._table.was_revoked(
            realm, delivery.class_id, now=self._clock()
        )

    # --- from home (RFC 5176) ---

    def find(self, request: DynamicRequest) -> Session | None:
        """The current session that a request means."""
        return self._table.find(
            request.realm, request.class_id, request.spis, number=_number(request)
        )

    def disconnect(self, request: DynamicRequest) -> bool:
        """Ends the associations that home names; False if they are not here.

        With the last of them the session is over and the binding ends.
        """
        revoked, ended = self._table.revoke(
            request.realm,
            request.class_id,
            request.spis,
            now=self._clock(),
            number=_number(request),
        )
        self._hear(ended)
        if revoked is None:
            return False
        self._drop(revoked.session, revoked.spis, Ending.REVOKED)
        if revoked.is_over and revoked.was_current:
            self._conclude(revoked.session, Ending.REVOKED)
        self._schedule()
        return True

    # --- what has ended ---

    def _hear(self, ended: Iterable[Ended]) -> None:
        for item in ended:
            if item.ending is Ending.DISPLACED:
                # What home could not revoke any more is not kept.
                self._drop(item.session, item.spis, item.ending)
            if item.was_current:
                self._conclude(item.session, item.ending)

    def _drop(self, session: Session, spis: Iterable[int], ending: Ending) -> None:
        for spi in spis:
            self._told.outlet.revoked(spi, binding=session.binding)
        self._told.installed.write_dropped(session, spis, ending.value)
        self._changed()

    def _conclude(self, session: Session, ending: Ending) -> None:
        self._counters.add(f"{SESSION_ENDED}.{ending.value}")
        log.info(
            "session ended",
            reason=ending.value,
            spis=session.spis,
            class_id=session.class_id.hex(),
        )
        self._interims.pop(session.number, None)
        if ending in (Ending.REVOKED, Ending.DISPLACED, Ending.EXPIRED):
            self._bindings.forget(session.binding)
        self._account(AccountingStatus.STOP, session, cause=_CAUSES[ending])
        self._changed()

    # --- accounting (RFC 2866) ---

    def _account(
        self, status: AccountingStatus, session: Session, *, cause: int | None = None
    ) -> None:
        if self._told.accounting is None:
            return
        now, identity = self._clock(), self._identity
        lasted_s = max(int(now - session.began_at), 0)
        self._told.accounting.submit(
            AccountingRequest(
                status=status,
                session_id=session.number.encode(),
                nas_identifier=identity.nas_identifier,
                nas_address=identity.address,
                user_name=session.alias.octets,
                classes=(session.class_id,) if session.class_id else (),
                spis=session.spis,
                fa_nai=identity.nai.octets,
                event_timestamp=int(now),
                session_time_s=None if status is AccountingStatus.START else lasted_s,
                terminate_cause=cause,
            )
        )

    def _of_agent(self, status: AccountingStatus, *, cause: int | None = None) -> AccountingRequest:
        """Accounting-On and -Off: RFC 2866 §5.13 wants an Acct-Session-Id in them as well."""
        return AccountingRequest(
            status=status,
            session_id=os.urandom(NUMBER_OCTETS).hex().encode(),
            nas_identifier=self._identity.nas_identifier,
            nas_address=self._identity.address,
            fa_nai=self._identity.nai.octets,
            event_timestamp=int(self._clock()),
            terminate_cause=cause,
        )

    # --- time ---

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = [due for due, _ in list(self._interims.values())[:1]]
        if (deadline := self._table.next_deadline()) is not None:
            deadlines.append(deadline)
        if deadlines:
            wait_s = min(max(min(deadlines) - self._clock(), 0.0), LONGEST_SLEEP_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        self._hear(self._table.advance(now=now))
        while self._interims and self._interim_s is not None:
            number, (due, session) = next(iter(self._interims.items()))
            if due > now:
                break
            del self._interims[number]
            self._interims[number] = (now + self._interim_s, session)
            self._account(AccountingStatus.INTERIM_UPDATE, session)
        self._schedule()

    async def close(self) -> None:
        """Every session is over for its accounting; its keys, and the file, are as they were."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_open:
            return
        if self._file is not None:
            await self._file.close()
        if self._told.accounting is not None:
            self._hear(self._table.end_all())
            farewell = self._of_agent(AccountingStatus.ACCOUNTING_OFF)
            await self._told.accounting.close(farewell, within_s=FAREWELL_S)


def _number(request: DynamicRequest) -> str | None:
    """The session named by an Acct-Session-Id, which need not be there."""
    return None if request.session_id is None else request.session_id.decode("utf-8", "replace")
