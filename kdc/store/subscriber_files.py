"""Subscribers as lines of a file: CSV with a header, or JSON Lines.

Each line stands alone, so that one bad line costs no other, and reading goes on from any line.
What is stored, and how it compares, is kdc.store.importing's affair.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, BinaryIO, Final

from kdc.crypto.key0 import KEY0_OCTETS
from kdc.errors import LocalError, RemoteError
from kdc.model import HomeAddressKind, Nai, Secret
from kdc.store.subscribers import ACTIVE, SUSPENDED, Subscriber, Subscription

CSV: Final = "csv"
JSON_LINES: Final = "jsonl"
_LINE_OCTETS: Final = 65536
_KEY_COLUMNS: Final = ("key0", "key0_wrapped")
COLUMNS: Final = (
    "nai", "status", "home_agent", "home_agent_nai", "home_address_kind", "home_address", "roam",
    "static_spi",
)  # fmt: skip
# What an export tells beside, and what an import of it passes over.
_TOLD: Final = ("key_version", "created_at")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class BadLine(LocalError):
    """A line that is not a subscriber; the text never quotes a key."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One subscriber as a file gives it; what is not in `given` is a default."""

    subscription: Subscription
    given: frozenset[str]
    status: str
    key0: Secret | None  # None: the KDC makes one


@dataclass(frozen=True, slots=True)
class Line:
    """A row, or the reason why there is none; `end` is where the next line begins."""

    number: int
    end: int
    row: ImportRow | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class RowRules:
    """What holds for all lines of a file; `unwrap` raises `LocalError`."""

    home_agents: Mapping[IPv4Address, Nai]
    keys_in_clear: bool = False
    unwrap: Callable[[bytes], Secret] | None = None


class SubscriberFile:
    """An open file, read from the start or from where an import has come to."""

    def __init__(self, file: BinaryIO, form: str, rules: RowRules) -> None:
        """Raises `LocalError` where the header of a CSV file names what no subscriber has."""
        self._file = file
        self._rules = rules
        self._header: list[str] | None = None
        if form == CSV:
            self._header = _read_header(file)

    def lines(self, *, octet: int = 0, number: int = 1) -> Iterator[Line]:
        """From the line `number`, which begins at `octet`; empty ones are passed over."""
        self._file.seek(octet)
        end = octet
        if octet == 0 and self._header is not None:
            end += len(self._file.readline(_LINE_OCTETS))
            number += 1
        while octets := self._file.readline(_LINE_OCTETS):
            end += len(octets)
            too_long = False
            while not octets.endswith(b"\n") and (rest := self._file.readline(_LINE_OCTETS)):
                too_long, octets, end = True, rest, end + len(rest)
            if too_long or octets.strip():
                yield self._judge(number, end, None if too_long else octets)
            number += 1

    def _judge(self, number: int, end: int, octets: bytes | None) -> Line:
        try:
            if octets is None:
                raise BadLine(f"expected at most {_LINE_OCTETS} octets")
            return Line(number, end, read_row(self._fields(octets), self._rules), None)
        except UnicodeDecodeError:
            return Line(number, end, None, "expected UTF-8")
        except RecursionError:
            return Line(number, end, None, "expected a JSON object without nesting")
        except (LocalError, RemoteError, ValueError) as error:
            return Line(number, end, None, _reason(error))

    def _fields(self, octets: bytes) -> dict[str, Any]:
        text = octets.decode()
        if self._header is None:
            content = json.loads(text.removeprefix("\ufeff"))
            if not isinstance(content, dict):
                raise BadLine("expected a JSON object")
            return content
        try:
            (values,) = csv.reader([text], strict=True)
        except (csv.Error, ValueError):
            raise BadLine("expected one line of CSV: a quote is not closed") from None
        if len(values) != len(self._header):
            raise BadLine(f"expected {len(self._header)} columns, found {len(values)}")
        return {name: value for name, value in zip(self._header, values, strict=True) if value}


def _read_header(file: BinaryIO) -> list[str]:
    file.seek(0)
    try:
        text = file.readline(_LINE_OCTETS).decode("utf-8-sig")
        names = [name.strip() for name in next(csv.reader([text], strict=True), [])]
    except (UnicodeDecodeError, csv.Error):
        raise LocalError("expected a first line of CSV that names the columns") from None
    unknown = [name for name in names if name not in (*COLUMNS, *_KEY_COLUMNS, *_TOLD)]
    if unknown or "nai" not in names or len(set(names)) != len(names):
        raise LocalError(
            f"expected a first line with nai and some of {', '.join((*COLUMNS, *_KEY_COLUMNS))}"
        )
    return names


def _reason(error: Exception) -> str:
    """Of JSON the place alone; everything else is a text of ours."""
    if isinstance(error, json.JSONDecodeError):
        return f"expected a JSON object: {error.msg} at column {error.colno}"
    if isinstance(error, (LocalError, RemoteError)):
        return str(error)
    return "expected a value of another form"


def read_row(fields: Mapping[str, Any], rules: RowRules) -> ImportRow:
    """Raises `BadLine`, `Malformed` and ValueError; no text of theirs quotes a key."""
    for name in fields:
        if name not in COLUMNS and name not in _KEY_COLUMNS and name not in _TOLD:
            raise BadLine(f"a column that no subscriber has: {name[:40]!r}")
    nai = _nai(_text(fields, "nai") or "", "nai")
    status = _text(fields, "status") or ACTIVE
    if status not in (ACTIVE, SUSPENDED):
        raise BadLine(f"status: expected {ACTIVE} or {SUSPENDED}")
    agent, agent_nai = _home_agent(fields, rules)
    kind = _text(fields, "home_address_kind") or HomeAddressKind.HIDDEN.value
    if kind not in _KINDS:
        raise BadLine(f"home_address_kind: expected one of {', '.join(_KINDS)}")
    address = _text(fields, "home_address")
    subscription = Subscription(
        nai,
        agent,
        agent_nai,
        _KINDS[kind],
        _address(address, "home_address") if address else None,
        _realms(fields.get("roam")),
        _flag(fields.get("static_spi", False)),
    )
    return ImportRow(subscription, frozenset(fields), status, _key0(fields, rules))


_KINDS: Final = {kind.value: kind for kind in HomeAddressKind}


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadLine(f"{name}: expected a text")
    return value


def _home_agent(fields: Mapping[str, Any], rules: RowRules) -> tuple[IPv4Address, Nai]:
    given, nai = _text(fields, "home_agent"), _text(fields, "home_agent_nai")
    if given:
        address = _address(given, "home_agent")
    elif len(rules.home_agents) == 1:
        (address,) = rules.home_agents
    else:
        raise BadLine("home_agent: expected one, there are several")
    if nai:
        return address, _nai(nai, "home_agent_nai")
    if address not in rules.home_agents:
        raise BadLine("home_agent_nai: expected one beside a home agent that is not ours")
    return address, rules.home_agents[address]


@functools.lru_cache(maxsize=1024)
def _address(value: str, name: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise BadLine(f"{name}: expected an IPv4 address") from None


def _nai(value: str, name: str) -> Nai:
    try:
        return Nai.parse(value)
    except RemoteError:
        raise BadLine(f"{name}: expected a name such as alice@home.example") from None


def _realms(value: object) -> tuple[str, ...] | None:
    """A list in JSON; in CSV words with spaces between."""
    if value is None:
        return None
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(_is_realm(word) for word in words):
        raise BadLine("roam: expected realms")
    return tuple(word.lower() for word in words)


def _is_realm(word: object) -> bool:
    return isinstance(word, str) and 0 < len(word) <= 253 and word.isprintable() and " " not in word


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise BadLine("static_spi: expected true or false")


def _key0(fields: Mapping[str, Any], rules: RowRules) -> Secret | None:
    clear, wrapped = _text(fields, "key0"), _text(fields, "key0_wrapped")
    if clear is None and wrapped is None:
        return None
    if clear is not None and wrapped is not None:
        raise BadLine("expected one of key0 and key0_wrapped")
    try:
        octets = bytes.fromhex(clear if clear is not None else wrapped or "")
    except ValueError:
        raise BadLine("key0: expected hex digits") from None
    if clear is not None:
        if not rules.keys_in_clear:
            raise BadLine("a key in the clear: expected key0_wrapped, or --keys-in-clear")
        key0 = Secret(octets)
    else:
        if rules.unwrap is None:
            raise BadLine("a wrapped key: expected --transport-key")
        key0 = rules.unwrap(octets)
    if len(key0) != KEY0_OCTETS or len(set(key0.reveal())) == 1:
        raise BadLine(f"key0: expected {KEY0_OCTETS} random octets")
    return key0


def exported(item: Subscriber) -> dict[str, Any]:
    """What an import takes again, and no key; a revoked subscriber is exported as such."""
    return {
        "nai": item.nai,
        "status": item.status,
        "home_agent": item.home_agent,
        "home_agent_nai": item.home_agent_nai,
        "home_address_kind": item.home_address_kind,
        "home_address": item.home_address,
        "roam": item.roam,
        "static_spi": item.static_spi,
        "key_version": item.key_version,
        "created_at": item.created_at.isoformat(),
    }


def csv_values(fields: Mapping[str, Any]) -> list[str]:
    """The same as a line of CSV has it."""
    return [
        "" if value is None
        else " ".join(value) if isinstance(value, list)
        else str(value).lower() if isinstance(value, bool)
        else str(value)
        for value in fields.values()
    ]  # fmt: skip
