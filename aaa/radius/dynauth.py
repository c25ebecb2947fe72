"""Disconnect- and CoA-Requests and their answers: attributes <-> values (RFC 5176, RFC 8559).

Whether a session is there and what becomes of it is for the caller.  A CoA-Request of ours has no
Service-Type: "Authorize Only" needs a State and an Access-Request that a foreign agent could not
make, since the mobile node's registration is what asks for new keys (docs/divergences.md).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from aaa.proxying import REALM_NAMESPACE, realm_of_operator
from aaa.radius.accounting import (
    EVENT_TIMESTAMP,
    SESSION_ID,
    TERMINATE_CAUSE,
    write_spis,
)
from aaa.radius.attributes import (
    CLASS,
    ERROR_CAUSE,
    NAS_IDENTIFIER,
    NAS_IP_ADDRESS,
    NAS_IPV6_ADDRESS,
    OPERATOR_NAME,
    SPI,
    STATE,
    USER_NAME,
    VENDOR_SPECIFIC,
    collect,
    nas_addresses,
    write_nas_address,
)
from aaa.radius.errors import MalformedPacket, Stale
from aaa.radius.packet import (
    COA_ACK,
    COA_NAK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    MESSAGE_AUTHENTICATOR,
    PROXY_STATE,
    Attribute,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
)
from aaa.radius.reading import (
    Grouped,
    at_most_one,
    at_most_one_integer,
    group,
    integer,
    write_integer,
)
from kdc.errors import LocalError, Malformed
from kdc.model import SPI_MINIMUM, IpAddress, shared_nai

WINDOW_S: Final = 300  # PROTOCOL section 9, RFC 5176 §6.3
MAXIMUM_SPIS: Final = 4
SERVICE_TYPE: Final = 6
REPLY_MESSAGE: Final = 18
OPERATOR_NAS_IDENTIFIER_SPACE: Final = 241  # RFC 8559 §3.4: attribute 241.8
_ACKNOWLEDGEMENTS: Final = {DISCONNECT_REQUEST: DISCONNECT_ACK, COA_REQUEST: COA_ACK}
_REFUSALS: Final = {DISCONNECT_REQUEST: DISCONNECT_NAK, COA_REQUEST: COA_NAK}
REQUESTS: Final = frozenset(_ACKNOWLEDGEMENTS)
# What a foreign agent goes by, and what cannot change a session (RFC 8559 §4.3.2).
_SUPPORTED: Final = frozenset(
    {
        USER_NAME, NAS_IP_ADDRESS, REPLY_MESSAGE, CLASS, VENDOR_SPECIFIC, NAS_IDENTIFIER,
        PROXY_STATE, SESSION_ID, TERMINATE_CAUSE, EVENT_TIMESTAMP, MESSAGE_AUTHENTICATOR,
        NAS_IPV6_ADDRESS, OPERATOR_NAME, OPERATOR_NAS_IDENTIFIER_SPACE,
    }
)  # fmt: skip


class ErrorCause(enum.IntEnum):
    """Error-Cause (RFC 5176 §3.5)."""

    RESIDUAL_SESSION_CONTEXT_REMOVED = 201
    UNSUPPORTED_ATTRIBUTE = 401
    MISSING_ATTRIBUTE = 402
    NAS_IDENTIFICATION_MISMATCH = 403
    INVALID_REQUEST = 404
    UNSUPPORTED_SERVICE = 405
    UNSUPPORTED_EXTENSION = 406
    INVALID_ATTRIBUTE_VALUE = 407
    ADMINISTRATIVELY_PROHIBITED = 501
    NOT_ROUTABLE = 502
    SESSION_CONTEXT_NOT_FOUND = 503
    SESSION_CONTEXT_NOT_REMOVABLE = 504
    OTHER_PROXY_PROCESSING_ERROR = 505
    RESOURCES_UNAVAILABLE = 506
    REQUEST_INITIATED = 507
    MULTIPLE_SESSION_SELECTION_UNSUPPORTED = 508


class RequestRefused(MalformedPacket):
    """A request that is not carried out: a NAK with `error_cause` answers it."""

    def __init__(self, error_cause: ErrorCause) -> None:
        super().__init__(error_cause.name.lower().replace("_", " "))
        self.error_cause = error_cause


@dataclass(frozen=True, slots=True)
class DynamicRequest:
    """Which session is to end, or is to be registered anew, and who asks for it."""

    code: int  # DISCONNECT_REQUEST, or COA_REQUEST to ask for a new registration
    realm: str  # of User-Name "@home realm", lowered: the realm that asks
    class_id: bytes
    spis: tuple[int, ...]  # 1 to 4, each once
    event_timestamp: int  # Unix seconds; the same in retransmissions (RFC 5176 §6.3)
    nas_identifier: bytes | None = None  # this, `nas_address` or both
    nas_address: IpAddress | None = None
    # Of Operator-Name, lowered: where it is routed to; None also where that names no realm.
    operator_realm: str | None = None
    session_id: bytes | None = None  # Acct-Session-Id, where accounting told it
    state: bytes | None = None  # of a CoA-Request: comes back in the answer (RFC 5176 §3.3)


@dataclass(frozen=True, slots=True)
class DynamicAnswer:
    """An ACK, or a NAK with its Error-Cause if it has one."""

    acknowledged: bool
    error_cause: int | None = None
    event_timestamp: int | None = None


def check_event_timestamp(event_timestamp: int, now: float) -> None:
    """Raises `Stale` outside 300 s to either side of `now`: drop it (RFC 5176 §6.3)."""
    if abs(now - event_timestamp) > WINDOW_S:
        raise Stale("Event-Timestamp outside the window")


def read_event_timestamp(request: VerifiedRequest) -> int:
    """The Event-Timestamp of a request; raises `RequestRefused` (402, 404)."""
    return _read_event_timestamp(group(request.attributes))


def _read_event_timestamp(values: Grouped) -> int:
    try:
        return integer(_needed(values, EVENT_TIMESTAMP))
    except RequestRefused:
        raise
    except MalformedPacket:
        raise RequestRefused(ErrorCause.INVALID_REQUEST) from None


def encode_dynamic_request(request: DynamicRequest, vendor_id: int) -> Attributes:
    """The attributes of a request whose code is `request.code`; for the packet encoder.

    Raises `LocalError` for what no such request holds.
    """
    if request.code not in REQUESTS or not 1 <= len(request.spis) <= MAXIMUM_SPIS:
        raise LocalError("expected a Disconnect- or CoA-Request with 1 to 4 SPIs")
    if request.nas_identifier is None and request.nas_address is None:
        raise LocalError("expected the name or the address of a NAS")
    attributes: list[Attribute] = [(USER_NAME, b"@" + request.realm.encode())]
    if request.operator_realm is not None:
        attributes.append((OPERATOR_NAME, REALM_NAMESPACE + request.operator_realm.encode()))
    if request.nas_identifier is not None:
        attributes.append((NAS_IDENTIFIER, request.nas_identifier))
    if request.nas_address is not None:
        attributes.append(write_nas_address(request.nas_address))
    attributes.append((CLASS, request.class_id))
    if request.session_id is not None:
        attributes.append((SESSION_ID, request.session_id))
    if request.state is not None:
        attributes.append((STATE, request.state))
    if not 0 <= request.event_timestamp < 2**32:
        raise LocalError("expected a time of 32 bits")
    attributes.append((EVENT_TIMESTAMP, write_integer(request.event_timestamp)))
    return (*attributes, *write_spis(request.spis, vendor_id))


def decode_dynamic_request(request: VerifiedRequest, vendor_id: int) -> DynamicRequest:
    """Which session is meant; raises `RequestRefused` (402, 403, 404, 407).

    What it does not know it passes over, as a proxy must (RFC 8559 §4.3.2): `check_supported` is
    for the agent.
    """
    if request.code not in REQUESTS:
        raise RequestRefused(ErrorCause.INVALID_REQUEST)
    try:
        return _decode(request, vendor_id)
    except RequestRefused:
        raise
    except Malformed:
        raise RequestRefused(ErrorCause.INVALID_REQUEST) from None


def _decode(request: VerifiedRequest, vendor_id: int) -> DynamicRequest:
    values = group(request.attributes)
    event_timestamp = _read_event_timestamp(values)
    spis = _read_spis(collect(request.attributes, vendor_id))
    class_id = _needed(values, CLASS)
    realm = shared_nai(_needed(values, USER_NAME)).realm
    if not realm:
        raise RequestRefused(ErrorCause.INVALID_ATTRIBUTE_VALUE)
    nas_identifier, addresses = at_most_one(values, NAS_IDENTIFIER), nas_addresses(values)
    if nas_identifier is None and not addresses:
        raise RequestRefused(ErrorCause.MISSING_ATTRIBUTE)
    if len(addresses) > 1:  # an agent has one (PROTOCOL section 9)
        raise RequestRefused(ErrorCause.NAS_IDENTIFICATION_MISMATCH)
    operator_name = at_most_one(values, OPERATOR_NAME)
    return DynamicRequest(
        code=request.code,
        realm=realm,
        class_id=class_id,
        spis=spis,
        event_timestamp=event_timestamp,
        nas_identifier=nas_identifier,
        nas_address=addresses[0] if addresses else None,
        operator_realm=None if operator_name is None else realm_of_operator(operator_name),
        session_id=at_most_one(values, SESSION_ID),
        state=at_most_one(values, STATE),
    )


def _needed(values: Grouped, number: int) -> bytes:
    octets = at_most_one(values, number)
    if not octets:
        raise RequestRefused(ErrorCause.MISSING_ATTRIBUTE)
    return octets


def _read_spis(ours: Grouped) -> tuple[int, ...]:
    spis = tuple(dict.fromkeys(integer(value) for value in ours.get(SPI, ())))
    if not spis:
        raise RequestRefused(ErrorCause.MISSING_ATTRIBUTE)
    if len(spis) > MAXIMUM_SPIS or min(spis) < SPI_MINIMUM:
        raise RequestRefused(ErrorCause.INVALID_ATTRIBUTE_VALUE)
    return spis


def check_supported(request: VerifiedRequest, vendor_id: int) -> None:
    """Raises `RequestRefused` (401, 405) for what an agent does not act upon.

    RFC 5176 §2.3: all attributes are mandatory, but those that cannot change a session (RFC 8559).
    """
    kinds = {kind for kind, _ in request.attributes}
    if SERVICE_TYPE in kinds and request.code == COA_REQUEST:
        raise RequestRefused(ErrorCause.UNSUPPORTED_SERVICE)  # RFC 5176 §3.2
    supported = _SUPPORTED | {STATE} if request.code == COA_REQUEST else _SUPPORTED
    vendor = vendor_id.to_bytes(4, "big")
    others = any(
        kind == VENDOR_SPECIFIC and value[:4] != vendor for kind, value in request.attributes
    )
    if others or not kinds <= supported or set(collect(request.attributes, vendor_id)) - {SPI}:
        raise RequestRefused(ErrorCause.UNSUPPORTED_ATTRIBUTE)


def encode_dynamic_answer(
    request_code: int, error_cause: int | None = None, *, state: bytes | None = None
) -> tuple[int, Attributes]:
    """Code and attributes of an ACK, or with `error_cause` of a NAK.

    `state` is that of the CoA-Request.  Proxy-States and signatures are the packet encoder's.
    """
    codes = _ACKNOWLEDGEMENTS if error_cause is None else _REFUSALS
    if request_code not in codes:
        raise LocalError("expected a Disconnect- or CoA-Request to answer")
    attributes: list[Attribute] = []
    if state is not None and request_code == COA_REQUEST:
        attributes.append((STATE, state))
    if error_cause is not None:
        attributes.append((ERROR_CAUSE, write_integer(error_cause)))
    return codes[request_code], tuple(attributes)


def decode_dynamic_answer(response: VerifiedResponse) -> DynamicAnswer:
    """What the answer says; raises `MalformedPacket`.

    Its Event-Timestamp, where it has one, has to pass `check_event_timestamp` (RFC 5176 §6.3).
    """
    values = group(response.attributes)
    event_timestamp = at_most_one_integer(values, EVENT_TIMESTAMP)
    if response.code in _ACKNOWLEDGEMENTS.values():
        return DynamicAnswer(True, None, event_timestamp)
    if response.code not in _REFUSALS.values():
        raise MalformedPacket("not an answer to dynamic authorization")
    causes = values.get(ERROR_CAUSE, ())  # 0+ by RFC 5176 §3.6: the first is the nearest to us
    return DynamicAnswer(False, integer(causes[0]) if causes else None, event_timestamp)
