"""Accounting through a foreign AAA: what an agent reports goes to its visitor's home and back.

It answers when a home has, never by itself: an answer means that somebody has it on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aaa.exchange import Addressing, Peer
from aaa.net.transactions import Sender, Transaction
from aaa.proxying import Forward, Refuse, Route
from aaa.radius.addressing import decode_addressing
from aaa.radius.attributes import USER_NAME
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import Attributes, VerifiedRequest
from aaa.roles.foreign_aaa import Agent
from aaa.roles.foreign_aaa_accounting import route_accounting
from aaa.serve.forwarding import Forwarder


def accounting_name(server: str) -> str:
    """What the accounting port of a server is called: in pools, the log and counters."""
    return f"{server}/accounting"


class AccountingProxy:
    """Between the clients, by name, and the homes behind `forwarder`.

    `routes` are the ways to all homes, `find_route` gives that of a realm.
    """

    def __init__(
        self,
        clients: Mapping[str, Agent | Peer],
        find_route: Callable[[str], Route | None],
        routes: Sequence[Route],
        forwarder: Forwarder,
        *,
        realm: str,
        vendor_id: int,
    ) -> None:
        self._clients = clients
        self._find_route = find_route
        self._routes = routes
        self._forwarder = forwarder
        self._realm, self._vendor_id = realm, vendor_id

    def on_requests(self, transactions: list[Transaction]) -> None:
        """Takes verified Accounting-Requests of clients."""
        for transaction in transactions:
            self._on_request(transaction)

    def _on_request(self, transaction: Transaction) -> None:
        try:
            request = decode_addressing(transaction.request.attributes, self._vendor_id)
        except MalformedPacket:
            self._forwarder.refuse(transaction, Refuse("malformed"))
            return
        decisions = [
            route_accounting(
                request,
                transaction.request.attributes,
                client=self._clients[transaction.client.name],
                own_realm=self._realm,
                way=way,
                entropy=os.urandom,
            )
            for way in self._ways(request)
        ]
        forwards = [decision for decision in decisions if isinstance(decision, Forward)]
        avoid = frozenset((accounting_name(transaction.client.name),))
        # In a pool by consistent hash: all of one user goes to one server.
        key = next((v for kind, v in transaction.request.attributes if kind == USER_NAME), b"")
        if not forwards:
            refused = next(each for each in decisions if isinstance(each, Refuse))
            self._forwarder.refuse(transaction, refused)  # by this code: says nothing
        elif len(forwards) == 1:
            self._forwarder.start(transaction, forwards[0], key=key, avoid=avoid)
        else:
            shared = SharedTransaction(transaction, len(forwards))
            for forward in forwards:
                self._forwarder.start(shared, forward, key=key, avoid=avoid)

    def _ways(self, request: Addressing) -> Sequence[Route | None]:
        """Where a request may go: that of the agent itself concerns every home."""
        if request.realm is not None:
            return (self._find_route(request.realm),)
        return self._routes or (None,) if request.is_of_nas else (None,)

    async def drain(self) -> None:
        """Waits for what is under way; each ends by the deadline of its pool."""
        await self._forwarder.drain()

    def close(self) -> None:
        self._forwarder.close()


@dataclass(slots=True)
class SharedTransaction:
    """One request that goes to several homes: the first answer is its answer.

    Not the last one: a home that takes no accounting would keep an agent from all others.
    """

    transaction: Transaction
    open: int  # forwarded ones that have neither been answered nor given up
    answered: bool = False

    @property
    def client(self) -> Sender:
        return self.transaction.client

    @property
    def request(self) -> VerifiedRequest:
        return self.transaction.request

    def respond(self, code: int, attributes: Attributes) -> None:
        """As of any transaction; nothing for a later answer."""
        if not self.answered:
            self.transaction.respond(code, attributes)
            self.answered = True

    def forget(self) -> None:
        """One of them will not be answered."""
        self.open -= 1
        if not self.open and not self.answered:
            self.transaction.forget()
