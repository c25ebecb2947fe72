"""The audit as JSON Lines and back: all that verification needs, away from the database.

First the chains, then the checkpoints, then each entry with its items behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from kdc.audit.chain import Checkpoint, Entry
from kdc.audit.check import Group, Placed
from kdc.audit.items import ActItem, EventItem, Item, RegistrationItem
from kdc.errors import LocalError

Line = dict[str, Any]
_ITEMS: Final[dict[str, type[Item]]] = {
    "registration": RegistrationItem,
    "event": EventItem,
    "act": ActItem,
}
_LARGEST: Final = 2**63
_OPTIONAL: Final = type(None)
_TYPES: Final[dict[Any, tuple[Any, ...]]] = {
    Checkpoint: (int, bytes, bytes, bytes),
    Entry: (int, int, int, int, bytes, bytes, bytes, bytes),
    Placed: (int, int, int, (int, _OPTIONAL), dict),
    RegistrationItem: (
        int, bytes, int, int, str, bytes, (str, _OPTIONAL), bytes, bytes, bytes, int, list,
    ),
    EventItem: (int, int, int, (int, _OPTIONAL), (int, _OPTIONAL), (bytes, _OPTIONAL)),
    ActItem: (str, str, str, str),
}  # fmt: skip
_NAMES: Final = {item: name for name, item in _ITEMS.items()}
_OCTETS: Final = "hex"  # octets are an object of this one name, which no text can be taken for


class ExportMalformed(LocalError):
    """A line that `kdc audit export` has not written."""


def write_lines(
    kinds: dict[int, str], checkpoints: Iterable[Checkpoint], groups: Iterable[Group]
) -> Iterator[str]:
    """One line each, without its end."""
    for writer in sorted(kinds):
        yield _dump({"type": "chain", "writer": writer, "kind": kinds[writer]})
    for checkpoint in checkpoints:
        yield _dump({"type": "checkpoint", **checkpoint._asdict()})
    for entry, items in groups:
        if entry is not None:
            yield _dump({"type": "entry", **entry._asdict()})
        for placed in items:
            place = placed._asdict()
            item = place.pop("item")
            yield _dump({"type": _NAMES[type(item)], **place, "item": item._asdict()})


class Export:
    """An export that is read: `groups` once, behind `kinds` and `checkpoints`."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Raises `ExportMalformed`, here and while `groups` is read."""
        self.kinds: dict[int, str] = {}
        self.checkpoints: list[Checkpoint] = []
        self._values = (_load(number, line) for number, line in enumerate(lines, 1))
        self._waiting: tuple[int, Line] | None = None
        for number, line in self._values:
            if line["type"] == "chain":
                self.kinds[_number_of(line, number)] = str(line.get("kind"))
            elif line["type"] == "checkpoint":
                self.checkpoints.append(_read(Checkpoint, line, number))
            else:
                self._waiting = number, line
                break

    @property
    def groups(self) -> Iterator[Group]:
        entry: Entry | None = None
        items: list[Placed] = []
        while self._waiting is not None:
            number, line = self._waiting
            self._waiting = next(self._values, None)
            if line["type"] == "entry":
                if entry is not None:
                    yield Group(entry, items)
                entry, items = _read(Entry, line, number), []
                continue
            placed = _read_placed(line, number)
            if entry is not None and placed[:2] == entry[:2]:
                items.append(placed)
                continue
            if entry is not None:
                yield Group(entry, items)
            entry, items = None, []
            yield Group(None, [placed])
        if entry is not None:
            yield Group(entry, items)


def _dump(line: Line) -> str:
    return json.dumps(line, default=_encode, separators=(",", ":"))


def _encode(value: object) -> dict[str, str]:
    assert isinstance(value, bytes)
    return {_OCTETS: value.hex()}


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {_OCTETS}:
        return bytes.fromhex(value[_OCTETS])
    return value


def _load(number: int, text: str) -> tuple[int, Line]:
    try:
        line = json.loads(text)
        return number, {**line, "type": str(line["type"])}
    except (ValueError, TypeError, KeyError):
        raise ExportMalformed(f"line {number}: expected an object of `kdc audit export`") from None


def _read(kind: Any, line: Line, number: int) -> Any:
    """A value of named fields, all of them there."""
    try:
        values = [_decode(line[name]) for name in kind._fields]
        for value, expected in zip(values, _TYPES[kind], strict=True):
            _require(isinstance(value, expected))
            if isinstance(value, int):
                _require(-_LARGEST <= value < _LARGEST)
            elif isinstance(value, str):
                value.encode()
        if kind is Entry:
            _require(0 <= values[3] < 2**31)
        return kind(*values)
    except (KeyError, ValueError, TypeError):
        raise ExportMalformed(f"line {number}: expected the fields of {kind.__name__}") from None


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("a value of another kind")


def _number_of(line: Line, number: int) -> int:
    writer = line.get("writer")
    if not isinstance(writer, int):
        raise ExportMalformed(f"line {number}: expected a chain's number")
    return writer


def _read_placed(line: Line, number: int) -> Placed:
    kind = _ITEMS.get(line["type"])
    if kind is None or not isinstance(line.get("item"), dict):
        raise ExportMalformed(f"line {number}: expected an object of `kdc audit export`")
    placed: Placed = _read(Placed, line, number)
    return placed._replace(item=_read(kind, line["item"], number))
