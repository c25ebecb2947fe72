"""Verification of the audit, in one pass over entries with their items: names what is wrong first.

A chain has no secret: who may write the database can make its end anew from any entry on.  What a
checkpoint covers, signed with a key that is kept elsewhere, he cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kdc.audit.chain import (
    ACTS,
    Checkpoint,
    CheckpointMalformed,
    Entry,
    Head,
    entry_hash,
    first_hash,
    read_absent,
    read_checkpoint,
)
from kdc.audit.finding import Fault, Finding
from kdc.audit.items import ActItem, EventItem, Item, RegistrationItem
from kdc.audit.origin import explain_entry
from kdc.crypto.checkpoint_key import SignatureBroken, key_id_of, verify_signature
from kdc.crypto.merkle import HASH_OCTETS, leaf_hash, merkle_root
from kdc.errors import LocalError

RETENTION: Final = "audit.retention"  # the act after which old items may be gone
_NAMES: Final[dict[type[Item], str]] = {
    RegistrationItem: "registration",
    EventItem: "event",
    ActItem: "act",
}


class Placed(NamedTuple):
    """An item with the place that its row claims; `at_us` only where the row has a time."""

    writer: int
    sequence: int
    position: int
    at_us: int | None
    item: Item


class Group(NamedTuple):
    """An entry with its items, or items whose entry is not there; by writer and sequence."""

    entry: Entry | None
    items: list[Placed]


@dataclass(slots=True)
class Report:
    """What was looked at, and the first thing that is wrong."""

    chains: int = 0
    entries: int = 0
    items: int = 0
    expired: int = 0  # entries whose items are gone by a recorded act
    checkpoints: int = 0
    signatures_verified: bool = False
    finding: Finding | None = None
    heads: dict[int, Head] = field(default_factory=dict, repr=False)


class _Found(Exception):
    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding)


class Checker:
    """`run` once; `kinds` has the kind of each known chain by its writer."""

    def __init__(
        self,
        kinds: Mapping[int, str],
        checkpoints: Sequence[Checkpoint] = (),
        public_keys: Sequence[bytes] = (),
        *,
        progress: Callable[[int], None] = lambda _items: None,
    ) -> None:
        self._kinds = kinds
        self._checkpoints = checkpoints
        self._public_keys = {key_id_of(key): key for key in public_keys}
        self._progress = progress
        self._anchors: dict[tuple[int, int], bytes] = {}
        self._expired_before_us = 0
        self._last: Entry | None = None  # of the chain that is looked at
        self._before_last = b""
        self.report = Report()

    def run(self, groups: Iterable[Group]) -> Report:
        """Stops at the first thing that is wrong."""
        try:
            self._check_checkpoints()
            for group, following in _with_following(groups):
                self._check_group(group, following)
            self._check_ends()
        except _Found as found:
            self.report.finding = found.finding
        return self.report

    # --- checkpoints ---

    def _check_checkpoints(self) -> None:
        previous = bytes(HASH_OCTETS)
        for number, checkpoint in enumerate(self._checkpoints, 1):
            if checkpoint.number != number:
                raise _Found(_of_checkpoint(Fault.REMOVED, number, "a later one is there"))
            try:
                body = read_checkpoint(checkpoint.octets)
                if self._public_keys:
                    self._verify_signature(checkpoint)
            except (CheckpointMalformed, SignatureBroken) as error:
                raise _Found(_of_checkpoint(Fault.FORGED, number, str(error))) from None
            if (body.previous, body.number) != (previous, number):
                raise _Found(_of_checkpoint(Fault.FORGED, number, "it does not follow the last"))
            self._anchors |= {(w, head.sequence): head.hash for w, head in body.heads.items()}
            previous = checkpoint.hash
        self.report.checkpoints = len(self._checkpoints)
        self.report.signatures_verified = bool(self._public_keys and self._checkpoints)

    def _verify_signature(self, checkpoint: Checkpoint) -> None:
        key = self._public_keys.get(checkpoint.key_id)
        if key is None:
            raise SignatureBroken("it is signed with a key that was not named")
        verify_signature(checkpoint.octets, checkpoint.signature, key)

    def _check_ends(self) -> None:
        """What a checkpoint has signed was met on the way, or the end of a chain is gone."""
        if self._anchors:
            writer, sequence = min(self._anchors)
            text = "a checkpoint has signed it"
            raise _Found(Finding(Fault.REMOVED, "entry", writer, sequence, text=text))

    # --- entries ---

    def _check_group(self, group: Group, following: Entry | None) -> None:
        entry = group.entry
        if entry is None:
            item = group.items[0]
            raise _Found(
                Finding(
                    Fault.REMOVED, "entry", item.writer, item.sequence, at_us=item.at_us,
                    text=f"{_NAMES[type(item.item)]}s claim to belong to it",
                )
            )  # fmt: skip
        if self._last is None or entry.writer != self._last.writer:
            self._begin(entry)
        self._check_link(entry, following)
        self._check_items(entry, group.items)
        self.report.entries += 1
        self.report.items += len(group.items)
        self._progress(self.report.items)

    def _begin(self, entry: Entry) -> None:
        if entry.writer not in self._kinds:
            raise _Found(_of_entry(Fault.REMOVED, entry, "its chain is not there", what="chain"))
        self._last, self._before_last = None, b""
        self.report.chains += 1

    def _check_link(self, entry: Entry, following: Entry | None) -> None:
        last = self._last
        head = last.hash if last else first_hash(entry.writer, self._kinds[entry.writer])
        expected = last.sequence + 1 if last else 1
        if entry.sequence > expected:
            raise _Found(
                Finding(
                    Fault.REMOVED, "entry", entry.writer, expected, at_us=entry.at_us,
                    text="the time is that of the next one",
                )
            )  # fmt: skip
        if entry.sequence < expected:
            raise _Found(_of_entry(Fault.INSERTED, entry, "its number is there twice"))
        if entry_hash(entry, previous=head, sequence=expected) != entry.hash:
            if following is not None and following.writer != entry.writer:
                following = None
            raise _Found(explain_entry(entry, following, last, head, self._before_last))
        anchor = self._anchors.pop((entry.writer, entry.sequence), entry.hash)
        if anchor != entry.hash:
            raise _Found(_of_entry(Fault.EDITED, entry, "a checkpoint has signed another one"))
        self._before_last, self._last = head, entry
        self.report.heads[entry.writer] = Head(entry.sequence, entry.hash)

    # --- items ---

    def _check_items(self, entry: Entry, items: Sequence[Placed]) -> None:
        try:
            leaves = read_absent(entry.absent)
        except LocalError as error:
            raise _Found(_of_entry(Fault.EDITED, entry, str(error))) from None
        if not items and entry.size > len(leaves) and entry.at_us < self._expired_before_us:
            self.report.expired += 1
            return
        for item in items:
            if item.position in leaves or not 0 <= item.position < entry.size:
                raise _Found(_of_item(Fault.INSERTED, entry, item))
            if item.at_us is not None and item.at_us != entry.at_us:
                raise _Found(_of_item(Fault.EDITED, entry, item, "its time is another one"))
            leaves[item.position] = leaf_hash(item.item.octets())
        for position in range(entry.size):
            if position not in leaves:
                raise _Found(
                    Finding(
                        Fault.REMOVED, self._name_of(entry), entry.writer, entry.sequence,
                        position, entry.at_us,
                    )
                )  # fmt: skip
        if merkle_root([leaves[position] for position in range(entry.size)]) != entry.root:
            raise _Found(_explain_items(entry, items))
        self._note_retention(entry, items)

    def _name_of(self, entry: Entry) -> str:
        return "act" if self._kinds[entry.writer] == ACTS else "registration or event"

    def _note_retention(self, entry: Entry, items: Sequence[Placed]) -> None:
        """Only what an intact act says, and of the time before it."""
        if self._kinds[entry.writer] != ACTS:
            return
        for placed in items:
            if isinstance(placed.item, ActItem) and placed.item.act == RETENTION:
                before_us = min(_before_us(placed.item.details), entry.at_us)
                self._expired_before_us = max(self._expired_before_us, before_us)


def _before_us(details: str) -> int:
    """What an act of retention says; 0 where it says nothing that can be read."""
    try:
        return int(json.loads(details)["before_us"])
    except (ValueError, KeyError, TypeError):
        return 0


def _with_following(groups: Iterable[Group]) -> Iterator[tuple[Group, Entry | None]]:
    iterator = iter(groups)
    for current in iterator:
        held = current
        for following in iterator:
            yield held, following.entry
            held = following
        yield held, None


def _explain_items(entry: Entry, items: Sequence[Placed]) -> Finding:
    """The root tells that something is not as it was; which one, where it can be told."""
    ordered = sorted(items, key=lambda placed: getattr(placed.item, "record_id", 0))
    leaves = read_absent(entry.absent)
    positions = [p for p in range(entry.size) if p not in leaves]
    for position, placed in zip(positions, ordered, strict=True):
        leaves[position] = leaf_hash(placed.item.octets())
    if merkle_root([leaves[position] for position in range(entry.size)]) == entry.root:
        moved = next(p for p, o in zip(items, ordered, strict=True) if p is not o)
        return _of_item(Fault.REORDERED, entry, moved)
    names = sorted({_NAMES[type(placed.item)] for placed in items})
    alone = items[0].position if len(items) == 1 else None
    text = "" if alone is not None else f"one of the {len(items)} of this entry"
    return Finding(
        Fault.EDITED, " or ".join(names), entry.writer, entry.sequence, alone, entry.at_us, text
    )


def _of_entry(fault: Fault, entry: Entry, text: str, what: str = "entry") -> Finding:
    return Finding(fault, what, entry.writer, entry.sequence, None, entry.at_us, text)


def _of_item(fault: Fault, entry: Entry, item: Placed, text: str = "") -> Finding:
    name = _NAMES[type(item.item)]
    return Finding(fault, name, item.writer, item.sequence, item.position, entry.at_us, text)


def _of_checkpoint(fault: Fault, number: int, text: str) -> Finding:
    return Finding(fault, "checkpoint", None, number, None, None, text)
