"""Dynamic authorization at a foreign agent: home ends a session, or asks for a new registration.

Only verified requests of the agent's own AAA server come here, by UDP or over its TLS connection
(RFC 5176; PROTOCOL section 9).  No key is in them, and none is in the answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

import structlog

from aaa.net.transactions import Transaction
from aaa.net.udp import Address
from aaa.radius.attributes import ERROR_CAUSE
from aaa.radius.clients import Client, ClientTable
from aaa.radius.counters import Counters
from aaa.radius.duplicates import DuplicateTable
from aaa.radius.dynauth import (
    WINDOW_S,
    DynamicRequest,
    ErrorCause,
    RequestRefused,
    check_event_timestamp,
    check_supported,
    decode_dynamic_request,
    encode_dynamic_answer,
    read_event_timestamp,
)
from aaa.radius.errors import Stale
from aaa.radius.packet import COA_REQUEST, DISCONNECT_REQUEST
from aaa.radius.ports import DYNAMIC_AUTHORIZATION
from aaa.roles.foreign_agent import FaIdentity
from aaa.serve.agent_sessions import AgentSessions
from aaa.serve.radius_server import RadiusServer
from kdc.errors import LocalError
from kdc.model import Secret

STALE: Final = "dynamic_authorization.stale"
ACKNOWLEDGED: Final = "dynamic_authorization.acknowledged"
REFUSED: Final = "dynamic_authorization.refused"  # one counter for each Error-Cause

Invite = Callable[[IPv4Address], None]

log = structlog.get_logger("aaa.agent")


class DynamicAuthorization:
    """Answers each transaction at once.

    `invite` asks a node, by its link address, to register again, and raises `LocalError` where it
    cannot; None where the agent has no way to say so.
    """

    def __init__(
        self,
        identity: FaIdentity,
        sessions: AgentSessions,
        counters: Counters,
        *,
        invite: Invite | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._sessions = sessions
        self._counters = counters
        self._invite = invite
        self._clock = clock

    def on_requests(self, transactions: list[Transaction]) -> None:
        """Disconnect- and CoA-Requests, verified; each is answered or, if stale, forgotten."""
        for transaction in transactions:
            self._on_request(transaction)

    def _on_request(self, transaction: Transaction) -> None:
        request, vendor_id = transaction.request, self._identity.vendor_id
        state: bytes | None = None
        try:
            check_event_timestamp(read_event_timestamp(request), self._clock())
            asked = decode_dynamic_request(request, vendor_id)
            state = asked.state
            check_supported(request, vendor_id)
            self._carry_out(asked)
        except Stale:
            # RFC 5176 §6.3: MUST be discarded silently.
            self._counters.add(STALE)
            transaction.forget()
            return
        except RequestRefused as refused:
            cause = refused.error_cause
            self._counters.add(f"{REFUSED}.{cause.value}")
            log.info("dynamic authorization refused", code=request.code, error_cause=cause.value)
            self._answer(transaction, cause, state)
            return
        self._counters.add(ACKNOWLEDGED)
        self._answer(transaction, None, state)

    def _answer(
        self, transaction: Transaction, cause: ErrorCause | None, state: bytes | None
    ) -> None:
        code, attributes = encode_dynamic_answer(transaction.request.code, cause, state=state)
        try:
            transaction.respond(code, attributes)
        except LocalError:  # Proxy-States that leave no room for an Error-Cause
            transaction.respond(code, tuple([a for a in attributes if a[0] != ERROR_CAUSE]))

    def _carry_out(self, asked: DynamicRequest) -> None:
        """Raises `RequestRefused`; what is not ours is one outcome, whatever does not fit."""
        identity = self._identity
        if asked.nas_identifier not in (None, identity.nas_identifier):
            raise RequestRefused(ErrorCause.NAS_IDENTIFICATION_MISMATCH)
        if asked.nas_address not in (None, identity.address):
            raise RequestRefused(ErrorCause.NAS_IDENTIFICATION_MISMATCH)
        if asked.code == DISCONNECT_REQUEST:
            if not self._sessions.disconnect(asked):
                raise RequestRefused(ErrorCause.SESSION_CONTEXT_NOT_FOUND)
        elif asked.code == COA_REQUEST:
            self._ask_for_registration(asked)

    def _ask_for_registration(self, asked: DynamicRequest) -> None:
        """An agent cannot register a node anew; it can tell it to (RFC 5944 §2.4.4)."""
        session = self._sessions.find(asked)
        if session is None:
            raise RequestRefused(ErrorCause.SESSION_CONTEXT_NOT_FOUND)
        node = ip_address(session.sender.partition("%")[0])
        if self._invite is None or not isinstance(node, IPv4Address):
            raise RequestRefused(ErrorCause.UNSUPPORTED_EXTENSION)
        try:
            self._invite(node)
        except LocalError as error:
            log.warning("a node was not asked to register again", reason=str(error))
            raise RequestRefused(ErrorCause.RESOURCES_UNAVAILABLE) from None


def dynamic_authorization_server(
    server: Address, secret: Secret, handler: DynamicAuthorization, counters: Counters
) -> RadiusServer:
    """The UDP side of it, whose one client is the AAA server at that address.

    Raises `LocalError` for a secret that is too short.
    """
    host = server[0].partition("%")[0]
    client = Client("the server of [radius]", ip_network(host), (secret,))
    radius = RadiusServer(
        ClientTable([client]), counters, handler.on_requests, port=DYNAMIC_AUTHORIZATION
    )
    # RFC 5176 §6.3: as long as an Event-Timestamp is good.  What is replayed under an identifier
    # used since finds its session gone, for a Class is never given twice.
    radius.duplicates = DuplicateTable(answered_for_s=float(2 * WINDOW_S))
    return radius
