"""The frozen values that every layer speaks in: names, addresses, secrets, associations.

No octets are read or written here (kdc.wire) and nothing is computed with a key (kdc.crypto).
"""

from __future__ import annotations

import enum
import hmac
import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, NoReturn

from kdc.errors import LocalError, Malformed

SPI_MINIMUM: Final = 256  # RFC 5944 §1.6 reserves 0-255
SPI_MAXIMUM: Final = 2**32 - 1
MAXIMUM_NAI_OCTETS: Final = 253  # RFC 7542 §2.3
MAXIMUM_FA_NAI_OCTETS: Final = 235  # what one attribute 26 of RADIUS and an NVSE hold
DEFAULT_VENDOR_ID: Final = 32473  # RFC 5612: documentation
NTP_OFFSET_S: Final = 2208988800  # RFC 5905: seconds from 1900 to 1970

IpAddress = IPv4Address | IPv6Address


class Secret:
    """Octets that do not print, pickle, hash or compare in variable time."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytes(octets)

    def reveal(self) -> bytes:
        """The octets themselves, for a cipher or an encoder and nothing else."""
        return self._octets

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._octets, other._octets)

    __hash__ = None  # type: ignore[assignment]  # a hash table would compare in variable time

    def __repr__(self) -> str:
        return f"<Secret of {len(self._octets)} octets>"

    def __reduce__(self) -> NoReturn:
        raise LocalError("a secret is not pickled")


# RFC 7542 §2.2, with the octets that no name needs (controls, space, a second @) left out.
_NAI: Final = re.compile(r"[^\x00-\x20\x7f@]*(?:@[^\x00-\x20\x7f@]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Nai:
    """A network access identifier (RFC 7542), 1-253 octets.

    Two are equal when their octets are, ASCII letters of the realm lowered first (PROTOCOL 4.1).
    Raises `Malformed` for anything else.
    """

    octets: bytes = field(compare=False)
    _folded: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.octets) <= MAXIMUM_NAI_OCTETS:
            raise Malformed("NAI length")
        try:
            text = self.octets.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("NAI is not UTF-8") from None
        if _NAI.fullmatch(text) is None:
            raise Malformed("NAI syntax")
        user, at, realm = self.octets.rpartition(b"@")
        # bytes.lower() touches ASCII letters alone.
        object.__setattr__(self, "_folded", user + at + realm.lower() if at else self.octets)

    @classmethod
    def parse(cls, text: str) -> Nai:
        return cls(text.encode("utf-8"))

    @property
    def user(self) -> str:
        return self.octets.partition(b"@")[0].decode()

    @property
    def realm(self) -> str:
        """The realm, its ASCII letters lowered; empty where the NAI has none."""
        _, at, realm = self._folded.rpartition(b"@")
        return realm.decode() if at else ""

    def __str__(self) -> str:
        return self.octets.decode()


@lru_cache(maxsize=1024)
def shared_nai(octets: bytes) -> Nai:
    """A name that many messages bear: an FA's, a realm.  Not for the names of mobile nodes."""
    return Nai(octets)


class Pair(enum.IntEnum):
    """The two parties of an association: SA payload sub-types of Fig. 18."""

    MN_HA = 1  # KEY1
    MN_FA = 2  # KEY3
    FA_HA = 3  # KEY2
    MN_SMM = 4


class Mode(enum.IntEnum):
    """How a key came to be: attribute 128 of a transform (PROTOCOL 4.3)."""

    STATELESS = 1
    STATEFUL = 2
    SEMISTATEFUL = 3


class HomeAddressKind(enum.StrEnum):
    """What a reply shows of the home address (PROTOCOL section 3)."""

    HIDDEN = "hidden"
    STATIC = "static"
    DYNAMIC = "dynamic"


class Suite(NamedTuple):
    """One algorithm: Protocol-ID and Transform-ID of the table in PROTOCOL 4.3."""

    protocol_id: int
    transform_id: int


KEY_OCTETS: Final[dict[Suite, int]] = {
    Suite(1, 1): 16,  # HMAC-MD5
    Suite(1, 2): 20,  # HMAC-SHA1
    Suite(1, 5): 32,  # HMAC-SHA2-256
    Suite(1, 7): 64,  # HMAC-SHA2-512
    Suite(2, 3): 24,  # 3DES-CBC
    Suite(2, 11): 0,  # NULL
    Suite(2, 12): 32,  # AES-256-CBC
    Suite(3, 20): 36,  # AES-256-GCM, key and salt
    Suite(3, 28): 36,  # ChaCha20-Poly1305, key and salt
}
DEFAULT_SUITES: Final = (Suite(3, 20),)  # PROTOCOL 4.3: where nothing is offered
CONFIRMATION_KEY_OCTETS: Final = 32  # PROTOCOL 7.1, pair 2


def key_octets(pair: Pair, suites: tuple[Suite, ...]) -> int:
    """The length of `keys`: those of the suites in order, then pair 2's confirmation key."""
    confirmation = CONFIRMATION_KEY_OCTETS if pair is Pair.MN_FA else 0
    return sum(KEY_OCTETS[suite] for suite in suites) + confirmation


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """An installed association: what a holder keeps (PROTOCOL 4.2, 7.4)."""

    pair: Pair
    spi: int
    lifetime_s: int
    key_name: bytes
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    keys: Secret


@dataclass(frozen=True, slots=True, order=True)
class Identification:
    """The 64-bit Identification with its high half extended past 2036 (PROTOCOL section 3)."""

    second: int  # seconds since 1900, not taken modulo 2**32
    low: int

    @classmethod
    def extend(cls, octets: bytes, now: float) -> Identification:
        """The one of `octets` (8) whose second lies nearest to `now` (Unix seconds)."""
        clock = int(now) + NTP_OFFSET_S
        high = int.from_bytes(octets[:4], "big")
        second = clock + ((high - clock + 2**31) % 2**32) - 2**31
        return cls(second, int.from_bytes(octets[4:], "big"))

    @classmethod
    def at(cls, now: float, low: int) -> Identification:
        return cls(int(now) + NTP_OFFSET_S, low)

    @property
    def octets(self) -> bytes:
        return (self.second % 2**32).to_bytes(4, "big") + self.low.to_bytes(4, "big")

    @property
    def unix(self) -> int:
        """Unix seconds."""
        return self.second - NTP_OFFSET_S


@dataclass(frozen=True, slots=True)
class ExchangeKeys:
    """The four keys K(use, SPI) of one exchange (PROTOCOL 5.1): all that a home agent sees."""

    seal_request: Secret
    seal_reply: Secret
    authenticate_request: Secret
    authenticate_reply: Secret


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a mobile node is provisioned with; shown once."""

    nai: Nai
    key0: Secret
    spis: tuple[int, ...]
    home_agent: IPv4Address
    home_agent_nai: Nai
    realm: str


def alias_nai(alias: bytes, realm: str) -> Nai:
    """`m-<16 hex>@realm`: at most 64 octets unless the realm is longer."""
    return Nai.parse(f"m-{alias.hex()}@{realm}")


def check_spi(spi: int) -> int:
    """The SPI, if a peer may use it; raises `Malformed` for 0-255 (RFC 5944 §1.6)."""
    if not SPI_MINIMUM <= spi <= SPI_MAXIMUM:
        raise Malformed("SPI below 256")
    return spi
