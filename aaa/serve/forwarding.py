"""A forwarded request on its way to the next hop and back, the same for both of our proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aaa.net.observing import UNOBSERVED, Observer
from aaa.net.radius_client import RadiusClient, Server
from aaa.net.transactions import Transaction
from aaa.proxying import Forward, take_reply
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.packet import ACCESS_REQUEST
from kdc.errors import LocalError, ReplyRefused, Unavailable
from kdc.model import Secret

NO_ANSWER: Final = "no_answer"
REPLY_DISCARDED: Final = "reply_discarded"
TOO_LONG: Final = "response_too_long"


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a named server is, and the secret that is shared with it."""

    server: Server
    secret: Secret


class Forwarder:
    """The requests under way to `hops`, by name; counters begin with `prefix`."""

    def __init__(
        self,
        hops: Mapping[str, NextHop],
        counters: Counters,
        prefix: str,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._hops = hops
        self._counters = counters
        self._prefix = prefix
        self._client = RadiusClient(counters, observer=observer)
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, transaction: Transaction, forward: Forward) -> None:
        """Sends it; the answer, when it comes, is the transaction's."""
        task = asyncio.get_running_loop().create_task(self._forward(transaction, forward))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _forward(self, transaction: Transaction, forward: Forward) -> None:
        """There and back; without an authentic reply nothing is said to the client."""
        hop = self._hops[forward.server]
        try:
            reply = await self._client.exchange(
                ACCESS_REQUEST, forward.attributes, hop.secret, hop.server
            )
            attributes = take_reply(reply.attributes, forward)
        except (NoAnswer, Unavailable):
            self._counters.add(f"{self._prefix}.{NO_ANSWER}")
            transaction.forget()
        except ReplyRefused:
            self._counters.add(f"{self._prefix}.{REPLY_DISCARDED}")
            transaction.forget()
        except BaseException:
            # Cancelled, or a bug: else the request would stay in progress for ever.
            transaction.forget()
            raise
        else:
            try:
                transaction.respond(reply.code, attributes)
            except LocalError:
                self._counters.add(f"{self._prefix}.{TOO_LONG}")
                transaction.forget()

    async def drain(self) -> None:
        """Waits for what is under way; each ends by its own timeout."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def close(self) -> None:
        self._client.close()
