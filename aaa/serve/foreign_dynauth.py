"""Dynamic authorization through a foreign AAA: a home's request goes to the agent and back.

Where the agent does not answer, nothing is said: the home asks again, and the agent may be back by
then; a NAK of ours would end it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from aaa.net.observing import OVER_LIMIT, UNOBSERVED, Observer
from aaa.net.transactions import Transaction
from aaa.proxying import Forward, take_reply
from aaa.radius.addressing import decode_addressing
from aaa.radius.attributes import ERROR_CAUSE
from aaa.radius.counters import Counters
from aaa.radius.errors import MalformedPacket, NoAnswer
from aaa.radius.packet import COA_NAK, COA_REQUEST, DISCONNECT_NAK, DISCONNECT_REQUEST
from aaa.roles.foreign_aaa_dynauth import (
    INVALID_REQUEST,
    RESOURCES_UNAVAILABLE,
    UNSUPPORTED_EXTENSION,
    Asker,
    Discard,
    Nak,
    VisitedDomain,
    route_dynauth,
)
from aaa.serve.peer_requests import PeerRequests
from kdc.errors import LocalError, ReplyRefused, Unavailable

REFUSED: Final = "foreign.dynauth.refused"  # by a NAK; one counter for each reason
DROPPED: Final = "foreign.dynauth.dropped"  # one counter for each reason
FORWARDED: Final = "foreign.dynauth.forwarded"
ANSWERED: Final = "foreign.dynauth.answered"
# Of one home server: the identifiers of the way to an agent are shared with all other homes.
MAXIMUM_UNDER_WAY: Final = 256
_NAKS: Final = {DISCONNECT_REQUEST: DISCONNECT_NAK, COA_REQUEST: COA_NAK}


class DynamicAuthorizationProxy:
    """Between the homes, by the names of their servers, and the agents of the visited domain.

    `is_home(server, realm)` says whether a server is one of a lowered realm's.
    """

    def __init__(
        self,
        domain: VisitedDomain,
        is_home: Callable[[str, str], bool],
        requests: PeerRequests,
        counters: Counters,
        *,
        vendor_id: int,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._domain = domain
        self._is_home = is_home
        self._requests = requests
        self._counters = counters
        self._vendor_id = vendor_id
        self._observer = observer
        self._under_way: set[asyncio.Task[None]] = set()
        self._of_home: Counter[str] = Counter()

    def on_requests(self, transactions: list[Transaction]) -> None:
        """Takes verified Disconnect- and CoA-Requests of home servers."""
        for transaction in transactions:
            self._on_request(transaction)

    def _on_request(self, transaction: Transaction) -> None:
        decision = self._decide(transaction)
        if isinstance(decision, Discard):
            self._counters.add(f"{DROPPED}.{decision.reason}")
            transaction.forget()
        elif isinstance(decision, Nak):
            self._refuse(transaction, decision)
        else:
            self._start(transaction, decision)

    def _refuse(self, transaction: Transaction, nak: Nak) -> None:
        """Without the Error-Cause where the Proxy-States of the request leave it no room."""
        self._counters.add(f"{REFUSED}.{nak.reason}")
        cause = (ERROR_CAUSE, nak.error_cause.to_bytes(4, "big"))
        for attributes in ((cause,), ()):
            try:
                transaction.respond(_NAKS[transaction.request.code], attributes)
            except LocalError:
                continue
            return
        transaction.forget()

    def _start(self, transaction: Transaction, forward: Forward) -> None:
        name = transaction.client.name
        self._counters.add(FORWARDED)
        self._of_home[name] += 1
        task = asyncio.get_running_loop().create_task(self._forward(transaction, forward))
        self._under_way.add(task)
        task.add_done_callback(partial(self._on_done, name))

    def _on_done(self, name: str, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._of_home[name] -= 1

    def _decide(self, transaction: Transaction) -> Forward | Nak | Discard:
        attributes, name = transaction.request.attributes, transaction.client.name
        try:
            decision = route_dynauth(
                decode_addressing(attributes, self._vendor_id),
                attributes,
                domain=self._domain,
                asker=Asker(name, partial(self._is_home, name)),
                now=time.time(),
                entropy=os.urandom,
            )
        except MalformedPacket:
            return Nak("malformed", INVALID_REQUEST)
        if isinstance(decision, Forward) and not self._requests.may_reach(decision.pool):
            return Nak("agent_without", UNSUPPORTED_EXTENSION)
        if isinstance(decision, Forward) and self._of_home[name] >= MAXIMUM_UNDER_WAY:
            self._observer.noticed(OVER_LIMIT, name)
            return Nak("overload", RESOURCES_UNAVAILABLE)
        return decision

    async def _forward(self, transaction: Transaction, forward: Forward) -> None:
        """There and back; the code and Error-Cause of the answer are the agent's."""
        code = transaction.request.code
        try:
            reply = await self._requests.exchange(forward.pool, code, forward.attributes)
            transaction.respond(reply.code, take_reply(reply.attributes, forward))
        except (NoAnswer, Unavailable):
            self._counters.add(f"{DROPPED}.no_answer")
            transaction.forget()
        except (ReplyRefused, LocalError):
            self._counters.add(f"{DROPPED}.reply")
            transaction.forget()
        except BaseException:
            # Cancelled, or a bug: else the request would stay in progress for ever.
            transaction.forget()
            raise
        else:
            self._counters.add(ANSWERED)

    async def drain(self) -> None:
        """Waits for what is under way; each ends by its own timeout."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        self._requests.close()
