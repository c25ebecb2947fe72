"""A forwarded request on its way to the next hop and back, the same for both of our proxies."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Final

from aaa.net.observing import SHED
from aaa.net.transactions import Transaction
from aaa.proxying import Attributes, Forward, Refuse, take_reply
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_REJECT
from aaa.serve.door import Door
from aaa.serve.pools import Pools
from kdc.errors import LocalError, ReplyRefused, Unavailable

REFUSED: Final = "refused"  # one counter for each reason: home.refused.loop
DROPPED: Final = "dropped"  # refused, and by its code without an answer
NO_ANSWER: Final = "no_answer"
REPLY_DISCARDED: Final = "reply_discarded"
TOO_LONG: Final = "response_too_long"
OVERLOAD: Final = "shed"  # refused at once, for want of room on the way to the next hop
# Of one client: half of what may wait for a server over TLS, an eighth of the source ports toward
# one by UDP.  A client whose requests nobody answers must not take the way of all others.
MAXIMUM_UNDER_WAY: Final = 2048


class Forwarder:
    """The requests under way to `pools`, of any code; counters begin with `prefix`."""

    def __init__(
        self, pools: Pools, counters: Counters, prefix: str, door: Door | None = None
    ) -> None:
        """Without a `door` no refusal waits and nothing is told."""
        self._pools = pools
        self._counters = counters
        self._prefix = prefix
        self._door = door or Door(counters)
        self._under_way: set[asyncio.Task[None]] = set()
        self._of_client: Counter[str] = Counter()

    def start(
        self,
        transaction: Transaction,
        forward: Forward,
        *,
        key: bytes = b"",
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        """Sends it; the answer, when it comes, is the transaction's.

        Equal keys go to one server, in a pool by consistent hash.  `avoid` names servers that it
        must not go to.
        """
        name = transaction.client.name
        if self._of_client[name] >= MAXIMUM_UNDER_WAY:
            self._shed(transaction)
            return
        self._of_client[name] += 1
        self._tell(transaction, "forwarded to", forward.pool)
        task = asyncio.get_running_loop().create_task(
            self._forward(transaction, forward, key, avoid)
        )
        self._under_way.add(task)
        task.add_done_callback(partial(self._on_done, name))

    def _on_done(self, name: str, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._of_client[name] -= 1

    def _shed(self, transaction: Transaction) -> None:
        """Refused at once where that can be said: whoever finds no room is to know it."""
        self._counters.add(f"{self._prefix}.{OVERLOAD}")
        self._door.observer.noticed(SHED, transaction.client.name)
        self._tell(transaction, "refused:", OVERLOAD)
        refusal = Refuse.code(transaction.request.code)
        if refusal is None or not self._respond(transaction, refusal, ()):
            transaction.forget()

    def refuse(self, transaction: Transaction, refuse: Refuse) -> None:
        """Says no, without the attributes if they do not fit.

        A request that has no such answer is dropped, and counted as that as well.
        """
        self._counters.add(f"{self._prefix}.{REFUSED}.{refuse.reason}")
        self._tell(transaction, "refused:", refuse.reason)
        code = refuse.code(transaction.request.code)
        if code is None:
            self._counters.add(f"{self._prefix}.{DROPPED}.{refuse.reason}")
            transaction.forget()  # and its client asks again (RFC 2866 §2)
        elif code == ACCESS_REJECT:
            self._door.reject(transaction, refuse.attributes)
        elif not self._respond(transaction, code, refuse.attributes):
            transaction.respond(code, ())

    def _tell(self, transaction: Transaction, what: str, which: str) -> None:
        if self._door.observer.on:
            name = transaction.client.name
            self._door.observer.decided(name, transaction.request, f"{what} {which}")

    async def _forward(
        self, transaction: Transaction, forward: Forward, key: bytes, avoid: frozenset[str]
    ) -> None:
        """There and back; without an authentic reply nothing is said to the client."""
        code = transaction.request.code
        try:
            reply = await self._pools.exchange(
                forward.pool, code, forward.attributes, key=key, avoid=avoid
            )
            attributes = take_reply(reply.attributes, forward)
        except NoAnswer:
            self._counters.add(f"{self._prefix}.{NO_ANSWER}")
            transaction.forget()
        except Unavailable:
            self._shed(transaction)
        except ReplyRefused:
            self._counters.add(f"{self._prefix}.{REPLY_DISCARDED}")
            transaction.forget()
        except BaseException:
            # Cancelled, or a bug: else the request would stay in progress for ever.
            transaction.forget()
            raise
        else:
            if not self._respond(transaction, reply.code, attributes):
                transaction.forget()

    def _respond(self, transaction: Transaction, code: int, attributes: Attributes) -> bool:
        """False where that, and the Proxy-States that are echoed, do not fit a packet."""
        try:
            transaction.respond(code, attributes)
        except LocalError:
            self._counters.add(f"{self._prefix}.{TOO_LONG}")
            return False
        return True

    async def drain(self) -> None:
        """Waits for what is under way; each ends by the deadline of its pool."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        self._pools.close()
