"""What an Accounting-Request says of a session (RFC 2866), as it is stored.

Values alone: octets are read by aaa.radius, and rows are kdc.store.accounting's affair.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

from kdc.errors import Malformed
from kdc.model import SPI_MAXIMUM, IpAddress

MAXIMUM_TEXT: Final = 1012  # 253 octets of an attribute, each of them written as \xNN
MAXIMUM_CLASS_OCTETS: Final = 253
MAXIMUM_SPIS: Final = 64
MAXIMUM_COUNT: Final = 2**64 - 1  # Acct-Input-Octets and -Gigawords together
MAXIMUM_SECONDS: Final = 2**32 - 1
MAXIMUM_CAUSE: Final = 2**32 - 1
NAS_REBOOT: Final = 11  # RFC 2866 §5.10: Acct-Terminate-Cause


class AccountingStatus(enum.IntEnum):
    """Acct-Status-Type (RFC 2866 §5.1); other values are not stored."""

    START = 1
    STOP = 2
    INTERIM_UPDATE = 3
    ACCOUNTING_ON = 7
    ACCOUNTING_OFF = 8

    @property
    def of_nas(self) -> bool:
        """Whether it speaks of the whole NAS and of no session."""
        return self in (AccountingStatus.ACCOUNTING_ON, AccountingStatus.ACCOUNTING_OFF)


@dataclass(frozen=True, slots=True)
class AccountingRecord:
    """One verified Accounting-Request.  Raises `Malformed` for what no row can hold.

    Texts are what `printable` makes of the octets.  `session_id` is empty for On and Off alone.
    Counters are those of the whole session up to now, as RADIUS has them, never a difference.
    """

    peer: str  # the name of the client entry that sent it to us
    status: AccountingStatus
    event_time: float  # Unix seconds: Event-Timestamp, else received less Acct-Delay-Time
    session_id: str = ""
    nas_identifier: str | None = None
    nas_address: IpAddress | None = None
    class_id: bytes | None = None
    spis: tuple[int, ...] = ()  # Roamkey-SPI, each once
    user_name: str | None = None
    operator_realm: str | None = None
    fa_nai: str | None = None
    session_time_s: int | None = None
    input_octets: int | None = None  # `join_gigawords`
    output_octets: int | None = None
    input_packets: int | None = None
    output_packets: int | None = None
    terminate_cause: int | None = None

    def __post_init__(self) -> None:
        if not self.peer or (not self.session_id and not self.status.of_nas):
            raise Malformed("accounting of no peer or of no session")
        if not self.nas_identifier and self.nas_address is None:
            raise Malformed("accounting of no NAS")  # RFC 2866 §4.1: one of the two MUST be there
        if not 0 <= self.event_time <= MAXIMUM_SECONDS:
            raise Malformed("time of an event")
        for text in (
            self.peer, self.session_id, self.nas_identifier, self.user_name, self.operator_realm,
            self.fa_nai,
        ):  # fmt: skip
            if text is not None and (len(text) > MAXIMUM_TEXT or not text.isprintable()):
                raise Malformed("text of an accounting attribute")
        if self.class_id is not None and len(self.class_id) > MAXIMUM_CLASS_OCTETS:
            raise Malformed("length of a Class")
        if len(self.spis) > MAXIMUM_SPIS or not all(0 <= spi <= SPI_MAXIMUM for spi in self.spis):
            raise Malformed("SPIs of a session")
        self._check_counters()

    def _check_counters(self) -> None:
        counts = (self.input_octets, self.output_octets, self.input_packets, self.output_packets)
        if any(count is not None and not 0 <= count <= MAXIMUM_COUNT for count in counts):
            raise Malformed("a counter of accounting")
        seconds, cause = self.session_time_s, self.terminate_cause
        if seconds is not None and not 0 <= seconds <= MAXIMUM_SECONDS:
            raise Malformed("time of a session")
        if cause is not None and not 0 <= cause <= MAXIMUM_CAUSE:
            raise Malformed("terminate cause")

    @property
    def nas(self) -> str:
        """What tells one NAS of a peer from another: its identifier, else its address."""
        return self.nas_identifier or str(self.nas_address)

    @property
    def tie_rank(self) -> bytes:
        """Orders the requests of a session by how well they say whose it is: 17 octets.

        One with a Class says more than one without, a later one more than an earlier; the digest
        decides between two of one second, so that every order of arrival gives one result.
        """
        said = repr((self.class_id, self.spis, self.user_name)).encode()
        microseconds = int(self.event_time * 1_000_000)
        return (
            bytes((self.class_id is not None,))
            + microseconds.to_bytes(8, "big")
            + hashlib.sha256(said).digest()[:8]
        )


def join_gigawords(octets: int, gigawords: int) -> int:
    """The count of octets that two attributes of 32 bits tell (RFC 2869 §5.1, §5.2)."""
    return (gigawords << 32) + octets


def printable(octets: bytes) -> str:
    r"""UTF-8 text in which every octet that is none, or does not print, is `\xNN`.

    A backslash is one of those, so that two values never become one; the result has no NUL.
    """
    parts: list[str] = []
    for character in octets.decode("utf-8", "surrogateescape"):
        if character != "\\" and character.isprintable():
            parts.append(character)
        else:
            raw = character.encode("utf-8", "surrogateescape")
            parts.append("".join(f"\\x{octet:02x}" for octet in raw))
    return "".join(parts)
