"""Accounting-Requests: attributes <-> what they say of a session (RFC 2866, RFC 2869).

A network access server that has never heard of Roamkey may be the sender: attributes that are not
known here pass, and ours may be missing.  How a record is stored is kdc.accounting's affair, and no
key has an attribute here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aaa.radius.attributes import (
    CHAP_PASSWORD,
    CLASS,
    FA_NAI,
    NAS_IDENTIFIER,
    OPERATOR_NAME,
    SPI,
    USER_NAME,
    USER_PASSWORD,
    collect,
    cut,
    nas_addresses,
    write_nas_address,
)
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import ACCOUNTING_REQUEST, Attribute, Attributes, VerifiedRequest
from aaa.radius.reading import (
    Grouped,
    at_most_one,
    at_most_one_integer,
    group,
    integer,
    one,
    write_integer,
)
from kdc.accounting import MAXIMUM_COUNT, MAXIMUM_SPIS, AccountingStatus, join_gigawords
from kdc.errors import LocalError
from kdc.model import SPI_MAXIMUM, IpAddress

# RFC 2866 §5, RFC 2869 §5.1 to §5.3
STATUS_TYPE: Final = 40
DELAY_TIME: Final = 41
INPUT_OCTETS: Final = 42
OUTPUT_OCTETS: Final = 43
SESSION_ID: Final = 44
SESSION_TIME: Final = 46
INPUT_PACKETS: Final = 47
OUTPUT_PACKETS: Final = 48
TERMINATE_CAUSE: Final = 49
MULTI_SESSION_ID: Final = 50
INPUT_GIGAWORDS: Final = 52
OUTPUT_GIGAWORDS: Final = 53
EVENT_TIMESTAMP: Final = 55

# Acct-Terminate-Cause (RFC 2866 §5.10), as far as a foreign agent gives them.
USER_REQUEST: Final = 1
SESSION_TIMEOUT_REACHED: Final = 5
ADMIN_RESET: Final = 6
ADMIN_REBOOT: Final = 7
NAS_REQUEST: Final = 10
PORT_PREEMPTED: Final = 13

_MAXIMUM_INTEGER: Final = 2**32 - 1
_MAXIMUM_OCTETS: Final = 253
_GIGAWORD_BITS: Final = 32
# RFC 2866 §4.1: MUST NOT be present.  Reply-Message and State, which must not either, are harmless.
_PASSWORDS: Final = frozenset({USER_PASSWORD, CHAP_PASSWORD})


@dataclass(frozen=True, slots=True)
class AccountingRequest:
    """What an Accounting-Request says.

    Texts are octets as sent, never empty; counters are those of the whole session up to now.
    Seconds are whole, `event_timestamp` in Unix seconds.
    """

    status: AccountingStatus
    session_id: bytes | None = None  # None in Accounting-On and -Off alone
    nas_identifier: bytes | None = None  # this, `nas_address` or both
    nas_address: IpAddress | None = None  # the IPv4 one where there are two
    user_name: bytes | None = None  # of a session of ours the alias
    classes: tuple[bytes, ...] = ()  # of a session of ours one
    spis: tuple[int, ...] = ()  # Roamkey-SPI, each once, in packet order
    fa_nai: bytes | None = None
    operator_name: bytes | None = None  # with its namespace octet
    event_timestamp: int | None = None
    delay_time_s: int = 0
    session_time_s: int | None = None
    input_octets: int | None = None  # joined with the gigawords
    output_octets: int | None = None
    input_packets: int | None = None
    output_packets: int | None = None
    terminate_cause: int | None = None
    multi_session_id: bytes | None = None

    def event_time(self, received_at: float) -> float:
        """When it happened, in Unix seconds: as the sender says, else less what it has waited."""
        if self.event_timestamp is not None:
            return float(self.event_timestamp)
        return max(received_at - self.delay_time_s, 0.0)  # RFC 2866 §5.2


def decode_accounting_request(request: VerifiedRequest, vendor_id: int) -> AccountingRequest:
    """What the request says; raises `MalformedPacket`: drop it (RFC 2866 §5, Length)."""
    if request.code != ACCOUNTING_REQUEST:
        raise MalformedPacket("not an Accounting-Request")
    values = group(request.attributes)
    if not _PASSWORDS.isdisjoint(values):
        raise MalformedPacket("a password in accounting")
    ours = collect(request.attributes, vendor_id)
    status = _status(values)
    session_id = _text(values, SESSION_ID)
    if session_id is None and not status.of_nas:
        raise MalformedPacket("no Acct-Session-Id")
    nas_identifier, addresses = _text(values, NAS_IDENTIFIER), nas_addresses(values)
    if nas_identifier is None and not addresses:
        raise MalformedPacket("no NAS")  # RFC 2866 §4.1
    return AccountingRequest(
        status=status,
        session_id=session_id,
        nas_identifier=nas_identifier,
        nas_address=addresses[0] if addresses else None,
        user_name=_text(values, USER_NAME),
        classes=tuple(value for value in values.get(CLASS, ()) if value),
        spis=_spis(ours),
        fa_nai=_text(ours, FA_NAI),
        operator_name=_text(values, OPERATOR_NAME),
        event_timestamp=at_most_one_integer(values, EVENT_TIMESTAMP),
        delay_time_s=at_most_one_integer(values, DELAY_TIME) or 0,
        session_time_s=at_most_one_integer(values, SESSION_TIME),
        input_octets=_octets(values, INPUT_OCTETS, INPUT_GIGAWORDS),
        output_octets=_octets(values, OUTPUT_OCTETS, OUTPUT_GIGAWORDS),
        input_packets=at_most_one_integer(values, INPUT_PACKETS),
        output_packets=at_most_one_integer(values, OUTPUT_PACKETS),
        terminate_cause=at_most_one_integer(values, TERMINATE_CAUSE),
        # 0+ by RFC 2866 §5.13; nothing here goes by it, so the first stands for all.
        multi_session_id=next((v for v in values.get(MULTI_SESSION_ID, ()) if v), None),
    )


def _status(values: Grouped) -> AccountingStatus:
    try:
        return AccountingStatus(integer(one(values, STATUS_TYPE)))
    except ValueError:
        # RFC 2866 §4.1: what is not recorded is not answered.
        raise MalformedPacket("an Acct-Status-Type that is not recorded") from None


def _text(values: Grouped, number: int) -> bytes | None:
    """An empty one MUST NOT be sent (RFC 2866 §5), yet it is: it says nothing."""
    return at_most_one(values, number) or None


def _spis(ours: Grouped) -> tuple[int, ...]:
    spis = tuple(dict.fromkeys(integer(value) for value in ours.get(SPI, ())))
    if len(spis) > MAXIMUM_SPIS:
        raise MalformedPacket("too many SPIs")
    return spis


def _octets(values: Grouped, low: int, high: int) -> int | None:
    octets = at_most_one_integer(values, low)
    gigawords = at_most_one_integer(values, high)
    if octets is None and gigawords is None:
        return None
    return join_gigawords(octets or 0, gigawords or 0)


def encode_accounting_request(request: AccountingRequest, vendor_id: int) -> Attributes:
    """The attributes of a request, its authenticators left to the packet encoder.

    Acct-Delay-Time is there when it is not 0.  Raises `LocalError` for what no attribute holds.
    """
    attributes: list[Attribute] = [(STATUS_TYPE, write_integer(request.status))]
    for number, octets in (
        (SESSION_ID, request.session_id),
        (USER_NAME, request.user_name),
        (NAS_IDENTIFIER, request.nas_identifier),
        *((CLASS, value) for value in request.classes),
        (OPERATOR_NAME, request.operator_name),
        (MULTI_SESSION_ID, request.multi_session_id),
    ):
        if octets is not None:
            attributes.append((number, _checked(octets)))
    if request.nas_address is not None:
        attributes.append(write_nas_address(request.nas_address))
    for number, value in (
        (EVENT_TIMESTAMP, request.event_timestamp),
        (DELAY_TIME, request.delay_time_s or None),
        (SESSION_TIME, request.session_time_s),
        *_write_octets(INPUT_OCTETS, INPUT_GIGAWORDS, request.input_octets),
        *_write_octets(OUTPUT_OCTETS, OUTPUT_GIGAWORDS, request.output_octets),
        (INPUT_PACKETS, request.input_packets),
        (OUTPUT_PACKETS, request.output_packets),
        (TERMINATE_CAUSE, request.terminate_cause),
    ):
        if value is not None:
            attributes.append((number, _write_number(value)))
    if request.fa_nai is not None:
        attributes += cut(FA_NAI, request.fa_nai, vendor_id)
    return (*attributes, *write_spis(request.spis, vendor_id))


def write_spis(spis: tuple[int, ...], vendor_id: int) -> Attributes:
    """A Roamkey-SPI for each; raises `LocalError` for what is no SPI."""
    if not all(0 <= spi <= SPI_MAXIMUM for spi in spis):
        raise LocalError("expected SPIs of 32 bits")
    return tuple(attribute for spi in spis for attribute in cut(SPI, write_integer(spi), vendor_id))


def _checked(octets: bytes) -> bytes:
    if not 1 <= len(octets) <= _MAXIMUM_OCTETS:
        raise LocalError("expected 1 to 253 octets in an attribute")
    return octets


def _write_number(value: int) -> bytes:
    if not 0 <= value <= _MAXIMUM_INTEGER:
        raise LocalError("expected a number of 32 bits in an attribute")
    return write_integer(value)


def _write_octets(low: int, high: int, count: int | None) -> tuple[tuple[int, int | None], ...]:
    if count is None:
        return ()
    if not 0 <= count <= MAXIMUM_COUNT:
        raise LocalError("expected a count of 64 bits")
    gigawords, octets = divmod(count, 1 << _GIGAWORD_BITS)
    return ((low, octets), (high, gigawords or None))
