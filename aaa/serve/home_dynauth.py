"""Dynamic authorization from a home (RFC 5176): takes what is due from the outbox and sends it.

Several nodes share the work by leases; one that dies in the middle leaves its part to the others.
What is due, and for how long, kdc.store.disconnects says.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, Protocol

import structlog

from aaa.radius.counters import Counters
from aaa.radius.dynauth import (
    DynamicAnswer,
    DynamicRequest,
    ErrorCause,
    check_event_timestamp,
    decode_dynamic_answer,
    encode_dynamic_request,
)
from aaa.radius.packet import COA_REQUEST, DISCONNECT_REQUEST
from aaa.serve.home_clients import KnownClients
from aaa.serve.peer_requests import Patience, PeerRequests
from kdc.errors import LocalError, RemoteError
from kdc.store import Store, disconnects
from kdc.store.disconnects import Claimed, DisconnectKind, DisconnectState

# A proxy has less for its agent, so that a retransmission of ours is a second try of its own.
PATIENCE: Final = Patience(deadline_s=6.0, timeout_s=1.5, retries=2)
LEASE_S: Final = 8.0  # longer than that; what has no answer waits for the rest of it
ASK_EVERY_S: Final = 0.5
AT_ONCE: Final = 256
AT_ONCE_OF_REALM: Final = 16  # from that number on, the others of a realm wait
_FINISH_TRIES: Final = 3

SENT: Final = "home.dynauth.sent"
RESULT: Final = "home.dynauth"  # one counter for each result: home.dynauth.acked
NO_ANSWER: Final = "home.dynauth.no_answer"
PASSING: Final = "home.dynauth.passing"
UNRECORDED: Final = "home.dynauth.unrecorded"

# RFC 5176 §3.5: trouble of the moment on the other side; asked again until it is too late.
_PASSING: Final = frozenset(
    {ErrorCause.OTHER_PROXY_PROCESSING_ERROR, ErrorCause.RESOURCES_UNAVAILABLE}
)
_CODES: Final = {
    DisconnectKind.DISCONNECT: DISCONNECT_REQUEST,
    DisconnectKind.COA: COA_REQUEST,
}

log = structlog.get_logger("aaa.home")


class Outbox(Protocol):
    """What is due, shared with other nodes; both raise `RemoteError` while it is not reachable."""

    async def claim(self, realms: Collection[str], limit: int) -> list[Claimed]:
        """Takes what goes to one of these realms, for `LEASE_S`."""

    async def finish(
        self, disconnect_id: int, state: DisconnectState, error_cause: int | None
    ) -> bool:
        """False where another node has taken it meanwhile."""


class StoredOutbox:
    """That of the database; `node` is a name that no other process has."""

    def __init__(self, store: Store, node: str) -> None:
        self._store, self._node = store, node

    async def claim(self, realms: Collection[str], limit: int) -> list[Claimed]:
        return await disconnects.claim(
            self._store,
            self._node,
            realms=realms,
            limit=limit,
            per_realm=AT_ONCE_OF_REALM,
            lease_s=LEASE_S,
        )

    async def finish(
        self, disconnect_id: int, state: DisconnectState, error_cause: int | None
    ) -> bool:
        return await disconnects.finish(self._store, self._node, disconnect_id, state, error_cause)


class DynamicAuthorization:
    """Sends what is due to those who may speak for the realm that it goes to.

    `clients` may be replaced at any time.  Only what this node has a way to is taken: a peer whose
    connection is at another node is that one's.
    """

    def __init__(  # noqa: PLR0913 - what it works with, and what a test replaces
        self,
        outbox: Outbox,
        clients: KnownClients,
        requests: PeerRequests,
        counters: Counters,
        *,
        realm: str,
        vendor_id: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clients = clients
        self._outbox = outbox
        self._requests = requests
        self._counters = counters
        self._realm, self._vendor_id = realm, vendor_id
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], str] = {}  # and the realm of each

    async def run(self) -> None:
        """Until cancelled; while the database is away, all of it waits."""
        away = False
        while True:
            try:
                taken = await self.take()
            except RemoteError:
                if not away:
                    log.warning("dynamic authorization waits: the database is not reachable")
                away, taken = True, 0
            else:
                away = False
            if not taken:
                await asyncio.sleep(ASK_EVERY_S)

    async def take(self) -> int:
        """Begins what is due and finds room; how many that were.  Raises `RemoteError`."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        # Without any realm as well: that is how what comes too late is marked as such.
        claimed = await self._outbox.claim(self._realms(), room)
        for each in claimed:
            task = asyncio.get_running_loop().create_task(self._work(each))
            self._under_way[task] = each.realm
            task.add_done_callback(self._on_done)
        return len(claimed)

    def _realms(self) -> frozenset[str]:
        """Those of all whom this node can ask now, and of whom it has not asked much already.

        Without the second, one realm that does not answer would use up the time of all others.
        """
        peers = self.clients.peers.values()
        busy = Counter(self._under_way.values())
        return frozenset(
            realm
            for peer in peers
            if self._requests.reaches(peer.name)
            for realm in peer.realms
            if busy[realm] < AT_ONCE_OF_REALM
        )

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if not task.cancelled():
            task.result()  # a bug is told to the loop's handler, not swallowed

    async def _work(self, claimed: Claimed) -> None:
        """One request; without a result the lease runs out and it is anybody's again."""
        try:
            async with asyncio.timeout(max(claimed.remaining_s, 0)):
                answer = await self._ask(claimed, _octets(claimed.nas_identifier))
                if answer.error_cause == ErrorCause.NAS_IDENTIFICATION_MISMATCH:
                    # The identifier is accounting's word; the address is that of the registration,
                    # and a wrong word must not keep a session.
                    answer = await self._ask(claimed, None)
        except RemoteError:
            self._counters.add(NO_ANSWER)
            log.warning("dynamic authorization: no answer", id=claimed.id, realm=claimed.realm)
            return
        except LocalError:
            await self._finish(claimed, DisconnectState.FAILED, None)  # no packet holds it, ever
            return
        except TimeoutError:
            return  # too late; the next claim of any node says so in the database
        state = result_of(answer, claimed)
        if state is None:
            self._counters.add(PASSING)
        else:
            await self._finish(claimed, state, answer.error_cause)

    async def _ask(self, claimed: Claimed, nas_identifier: bytes | None) -> DynamicAnswer:
        """Raises `NoAnswer`, `Unavailable`, `MalformedPacket`, `Stale` and `LocalError`.

        A new attempt is a new packet with its own Event-Timestamp, a retransmission is the same
        octets (RFC 5176 §6.3).
        """
        names = list(filter(self._requests.reaches, self.clients.names_of(claimed.realm)))
        # RFC 5176 §2.3: where one has failed, the next one is asked.
        peer = names[(claimed.attempts - 1) % len(names)] if names else ""
        request = DynamicRequest(
            code=_CODES[claimed.kind],
            realm=self._realm,
            class_id=claimed.class_id,
            spis=claimed.spis,
            event_timestamp=int(self._clock()),
            nas_identifier=nas_identifier,
            nas_address=claimed.nas_address,
            operator_realm=claimed.operator_realm,
        )
        attributes = encode_dynamic_request(request, self._vendor_id)
        self._counters.add(SENT)
        response = await self._requests.exchange(peer, request.code, attributes)
        answer = decode_dynamic_answer(response)
        if answer.event_timestamp is not None:
            check_event_timestamp(answer.event_timestamp, self._clock())
        return answer

    async def _finish(
        self, claimed: Claimed, state: DisconnectState, error_cause: int | None
    ) -> None:
        """Keeps the result; where the database is away, the request goes out once more later."""
        for attempt in range(_FINISH_TRIES):
            if attempt:
                await asyncio.sleep(ASK_EVERY_S)
            try:
                await self._outbox.finish(claimed.id, state, error_cause)
            except RemoteError:
                continue
            self._counters.add(f"{RESULT}.{state.value}")
            log.info(
                "dynamic authorization",
                id=claimed.id,
                kind=claimed.kind.value,
                realm=claimed.realm,
                result=state.value,
                error_cause=error_cause,
            )
            return
        self._counters.add(UNRECORDED)

    async def drain(self) -> None:
        """Waits for what is under way; each ends by its own timeout."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        self._requests.close()


def result_of(answer: DynamicAnswer, claimed: Claimed) -> DisconnectState | None:
    """What an answer makes of a request; None where it is worth asking again.

    "Session Context Not Found" to a Disconnect-Request that is not our first one is success: an
    earlier one has ended the session, and its answer was lost.
    """
    if answer.acknowledged:
        return DisconnectState.ACKED
    if answer.error_cause in _PASSING:
        return None
    gone = answer.error_cause == ErrorCause.SESSION_CONTEXT_NOT_FOUND
    if gone and claimed.kind is DisconnectKind.DISCONNECT and claimed.attempts > 1:
        return DisconnectState.ACKED
    return DisconnectState.NAKED


def _octets(nas_identifier: str | None) -> bytes | None:
    r"""As the NAS sent it; None for one with octets that do not print, kept as `\xNN`."""
    if nas_identifier is None or "\\" in nas_identifier:
        return None
    return nas_identifier.encode()
