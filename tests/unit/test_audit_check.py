"""Verification of chains that nobody has stored: each thing that can be done to one is named."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdc.audit.chain import (
    ACTS,
    ISSUING,
    Checkpoint,
    CheckpointMalformed,
    Entry,
    Head,
    entry_hash,
    first_hash,
    read_checkpoint,
    write_checkpoint,
)
from kdc.audit.check import RETENTION, Checker, Group, Placed, Report
from kdc.audit.export import Export, ExportMalformed, write_lines
from kdc.audit.finding import Fault
from kdc.audit.items import ActItem, EventItem, Item, RegistrationItem, canonical_details
from kdc.crypto.checkpoint_key import (
    SignatureBroken,
    create_checkpoint_key,
    key_id_of,
    public_key_of,
    sign,
    verify_signature,
)
from kdc.crypto.merkle import leaf_hash, merkle_root
from kdc.model import Secret

_AT = 1_700_000_000_000_000
KINDS = {1: ACTS, 2: ISSUING, 3: ISSUING}


@dataclass
class Books:
    """Chains as they are written, and in the order of verification."""

    groups: list[Group] = field(default_factory=list)

    def append(self, writer: int, items: Sequence[Item], absent: dict[int, bytes] | None = None,
               previous: bytes | None = None) -> None:  # fmt: skip
        mine = [g.entry for g in self.groups if g.entry and g.entry.writer == writer]
        last = mine[-1].hash if mine else first_hash(writer, KINDS[writer])
        leaves = dict(absent or {})
        free = (p for p in range(len(items) + len(leaves)) if p not in (absent or {}))
        placed = []
        for item in items:
            position = next(free)
            leaves[position] = leaf_hash(item.octets())
            placed.append(Placed(writer, len(mine) + 1, position, None, item))
        root = merkle_root([leaves[p] for p in range(len(leaves))])
        octets = b"".join(p.to_bytes(2, "big") + h for p, h in sorted((absent or {}).items()))
        sequence = len(mine) + 1
        entry = Entry(
            writer, sequence, _AT + sequence, len(leaves), root, octets, previous or last, b""
        )
        digest = entry_hash(entry, previous=entry.previous, sequence=sequence)
        self.groups.append(Group(entry._replace(hash=digest), placed))
        self.groups.sort(key=lambda g: g.entry[:2] if g.entry else g.items[0][:2])

    def entry(self, writer: int, sequence: int) -> int:
        """Its index in `groups`."""
        return next(
            i for i, g in enumerate(self.groups) if g.entry and g.entry[:2] == (writer, sequence)
        )


def registration(number: int) -> RegistrationItem:
    inet = b"\x02\x20\x00\x04\xc6\x33\x64\x07"
    return RegistrationItem(
        number, number.to_bytes(8, "big"), 1, 2, "fa@visited.example", inet, None, inet, inet,
        bytes(8), 600, [number + 2**29],
    )  # fmt: skip


def books() -> Books:
    """Three acts; two writers with nine entries each of one to three registrations."""
    made = Books()
    for number in range(3):
        made.append(1, [ActItem("os:root", "subscriber.add", f"subscriber:{number}", "{}")])
    for sequence in range(9):
        for writer in (2, 3):
            first = 1000 * writer + 10 * sequence
            made.append(writer, [registration(first + i) for i in range(1 + sequence % 3)])
    return made


def check(groups: Sequence[Group], *checkpoints: Checkpoint, keys: Sequence[bytes] = ()) -> Report:
    return Checker(KINDS, checkpoints, keys).run(groups)


def found(groups: Sequence[Group]) -> tuple[Fault, str, int | None, int]:
    finding = check(groups).finding
    assert finding is not None
    return finding.fault, finding.what, finding.writer, finding.sequence


def renumbered(group: Group, sequence: int) -> Group:
    assert group.entry is not None
    return Group(
        group.entry._replace(sequence=sequence),
        [item._replace(sequence=sequence) for item in group.items],
    )


def test_what_is_as_it_was_written_is_sound() -> None:
    report = check(books().groups)
    assert report.finding is None
    assert (report.chains, report.entries, report.items) == (3, 21, 3 + 2 * 18)
    assert report.heads[3].sequence == 9


# --- entries ---


@pytest.mark.parametrize("sequence", [1, 4, 9])
def test_an_entry_that_is_removed_is_named(sequence: int) -> None:
    made = books()
    del made.groups[made.entry(2, sequence)]
    if sequence == 9:  # nothing is left that would tell: only a checkpoint does
        assert check(made.groups).finding is None
        return
    assert found(made.groups) == (Fault.REMOVED, "entry", 2, sequence)


@pytest.mark.parametrize("sequence", [1, 4, 8])
def test_an_entry_that_is_removed_and_its_number_given_to_the_next(sequence: int) -> None:
    made = books()
    index = made.entry(2, sequence)
    groups = made.groups[:index]
    for group in made.groups[index + 1 :]:
        assert group.entry is not None
        moved = group.entry.writer == 2
        groups.append(renumbered(group, group.entry.sequence - 1) if moved else group)
    assert found(groups) == (Fault.REMOVED, "entry", 2, sequence)


def test_an_entry_that_is_removed_and_leaves_its_registrations() -> None:
    made = books()
    index = made.entry(3, 9)
    made.groups[index : index + 1] = [Group(None, [p]) for p in made.groups[index].items]
    assert found(made.groups) == (Fault.REMOVED, "entry", 3, 9)


@pytest.mark.parametrize("change", [{"at_us": 5}, {"size": 7}, {"root": bytes(32)},
                                    {"absent": b"x"}, {"hash": bytes(32)}])  # fmt: skip
@pytest.mark.parametrize("sequence", [1, 5, 9])
def test_an_entry_that_is_edited_is_named(change: dict[str, object], sequence: int) -> None:
    made = books()
    index = made.entry(2, sequence)
    entry, items = made.groups[index]
    assert entry is not None
    made.groups[index] = Group(entry._replace(**change), items)  # type: ignore[arg-type]
    assert found(made.groups) == (Fault.EDITED, "entry", 2, sequence)


def test_an_entry_that_is_edited_with_a_hash_that_fits() -> None:
    made = books()
    index = made.entry(2, 5)
    entry, items = made.groups[index]
    assert entry is not None
    entry = entry._replace(at_us=entry.at_us - 1)
    entry = entry._replace(hash=entry_hash(entry, previous=entry.previous, sequence=5))
    made.groups[index] = Group(entry, items)
    assert found(made.groups) == (Fault.EDITED, "entry", 2, 5)


@pytest.mark.parametrize(("one", "other"), [(1, 2), (4, 5), (3, 8), (1, 9)])
def test_entries_in_another_order_are_named(one: int, other: int) -> None:
    made = books()
    i, j = made.entry(2, one), made.entry(2, other)
    made.groups[i], made.groups[j] = (
        renumbered(made.groups[j], one),
        renumbered(made.groups[i], other),
    )
    assert found(made.groups) == (Fault.REORDERED, "entry", 2, one)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("sequence", [2, 5, 9])
def test_an_entry_that_is_inserted_is_named(sequence: int, fits: bool) -> None:
    made = books()
    index = made.entry(2, sequence)
    forged = Books(made.groups[made.entry(2, 1) : index])
    forged.append(2, [registration(7)])
    group = forged.groups[-1]
    assert group.entry is not None
    if not fits:
        group = Group(group.entry._replace(hash=secrets.token_bytes(32)), group.items)
    shifted = [
        renumbered(g, g.entry.sequence + 1) if g.entry and g.entry.writer == 2 else g
        for g in made.groups[index:]
    ]
    assert found([*made.groups[:index], group, *shifted]) == (
        Fault.INSERTED, "entry", 2, sequence,
    )  # fmt: skip


def test_a_chain_that_is_not_there_any_more() -> None:
    report = Checker({1: ACTS, 2: ISSUING}).run(books().groups)
    assert report.finding is not None
    assert (report.finding.what, report.finding.writer) == ("chain", 3)


def test_an_entry_of_another_chain_does_not_continue_this_one() -> None:
    made = books()
    first = made.groups[made.entry(2, 1)]
    assert first.entry is not None
    index = made.entry(3, 1)
    made.groups[index] = Group(first.entry._replace(writer=3), made.groups[index].items)
    assert found(made.groups) == (Fault.EDITED, "entry", 3, 1)


# --- items ---


def _items(change: Callable[[list[Placed]], list[Placed]], sequence: int = 3) -> list[Group]:
    made = books()
    index = made.entry(2, sequence)
    entry, items = made.groups[index]
    made.groups[index] = Group(entry, change(list(items)))
    return made.groups


def test_a_registration_that_is_edited() -> None:
    def edit(items: list[Placed]) -> list[Placed]:
        item = items[1].item
        assert isinstance(item, RegistrationItem)
        return [items[0], items[1]._replace(item=item._replace(lifetime_s=601)), items[2]]

    assert found(_items(edit)) == (Fault.EDITED, "registration", 2, 3)
    finding = check(_items(lambda items: [items[0]._replace(item=registration(1))], 1)).finding
    assert finding is not None and (finding.fault, finding.position) == (Fault.EDITED, 0)


def test_the_time_of_a_registration_is_that_of_its_entry() -> None:
    groups = _items(lambda items: [items[0]._replace(at_us=_AT), *items[1:]])
    finding = check(groups).finding
    assert finding is not None and (finding.fault, finding.position) == (Fault.EDITED, 0)


def test_a_registration_that_is_removed() -> None:
    groups = _items(lambda items: [items[0], items[2]])
    finding = check(groups).finding
    assert finding is not None and (finding.fault, finding.position) == (Fault.REMOVED, 1)


def test_a_registration_that_is_inserted() -> None:
    for position in (3, 1, -1):
        extra = Placed(2, 3, position, None, registration(9))
        groups = _items(lambda items, extra=extra: [*items, extra])  # type: ignore[misc]
        assert found(groups) == (Fault.INSERTED, "registration", 2, 3)


def test_registrations_in_another_order() -> None:
    def swap(items: list[Placed]) -> list[Placed]:
        one, two, three = items
        return [one._replace(item=two.item), two._replace(item=one.item), three]

    assert found(_items(swap)) == (Fault.REORDERED, "registration", 2, 3)


def test_what_was_in_conflict_has_left_its_hash_and_nothing_may_take_its_place() -> None:
    made = Books()
    conflicting = registration(2)
    absent = {1: leaf_hash(conflicting.octets())}
    made.append(2, [registration(1), EventItem(3, 1, 133, None, None, None)], absent)
    assert check(made.groups).finding is None
    entry, items = made.groups[0]
    late = [*items, Placed(2, 1, 1, None, conflicting)]
    assert found([Group(entry, late)]) == (Fault.INSERTED, "registration", 2, 1)


def test_only_a_recorded_act_lets_old_items_be_gone() -> None:
    def with_act(before_us: int) -> Report:
        made = Books()
        details = canonical_details({"before_us": before_us, "table": "registrations"})
        for _ in range(6):
            made.append(1, [ActItem("os:root", RETENTION, "table:registrations", details)])
        for number in range(8):
            made.append(2, [registration(number)])
        index = made.entry(2, 4)
        made.groups[index] = Group(made.groups[index].entry, [])
        return check(made.groups)

    report = with_act(_AT + 5)
    assert report.finding is None and report.expired == 1
    early = with_act(_AT + 4).finding
    assert early is not None and (early.fault, early.sequence) == (Fault.REMOVED, 4)
    # An act speaks of the past alone: one that names all of the future is not a licence.
    late = with_act(2**60)
    assert late.finding is None and late.expired == 1


# --- checkpoints ---


def _checkpoint(number: int, previous: bytes, heads: dict[int, Head], key: Secret) -> Checkpoint:
    octets = write_checkpoint(number, previous, _AT, heads)
    return Checkpoint(number, octets, sign(octets, key), key_id_of(public_key_of(key)))


def test_the_end_of_a_chain_that_was_cut_off_is_found_by_a_checkpoint() -> None:
    key = create_checkpoint_key(secrets.token_bytes)
    made = books()
    heads = check(made.groups).heads
    signed = _checkpoint(1, bytes(32), heads, key)
    report = check(made.groups, signed, keys=[public_key_of(key)])
    assert report.finding is None and report.signatures_verified
    for writer, last in ((2, 9), (3, 9), (1, 3)):
        cut = [g for g in made.groups if g.entry and g.entry[:2] != (writer, last)]
        finding = check(cut, signed, keys=[public_key_of(key)]).finding
        assert finding is not None
        assert (finding.fault, finding.writer, finding.sequence) == (Fault.REMOVED, writer, last)
    gone = [g for g in made.groups if g.entry and g.entry.writer != 3]
    finding = check(gone, signed, keys=[public_key_of(key)]).finding
    assert finding is not None and (finding.fault, finding.writer) == (Fault.REMOVED, 3)


def test_a_chain_that_is_made_anew_is_found_by_a_checkpoint() -> None:
    key = create_checkpoint_key(secrets.token_bytes)
    heads = check(books().groups).heads
    signed = _checkpoint(1, bytes(32), heads, key)
    forged = Books([g for g in books().groups if g.entry and g.entry.writer != 2])
    for number in range(9):
        forged.append(2, [registration(number)])
    assert check(forged.groups).finding is None
    finding = check(forged.groups, signed, keys=[public_key_of(key)]).finding
    assert finding is not None
    assert (finding.fault, finding.writer, finding.sequence) == (Fault.EDITED, 2, 9)


def test_a_forged_checkpoint_is_refused() -> None:
    key, other = (create_checkpoint_key(secrets.token_bytes) for _ in range(2))
    made = books()
    heads = check(made.groups).heads
    first = _checkpoint(1, bytes(32), {2: heads[2]}, key)
    second = _checkpoint(2, first.hash, heads, key)
    public = [public_key_of(key)]
    assert check(made.groups, first, second, keys=public).finding is None
    flipped = second.octets[:-1] + bytes([second.octets[-1] ^ 1])
    for bad in (
        [_checkpoint(1, bytes(32), heads, other)],
        [_checkpoint(1, bytes(32), heads, other)._replace(key_id=key_id_of(public[0]))],
        [first, second._replace(octets=flipped)],
        [first, second._replace(octets=b"nothing")],
        [first, _checkpoint(2, bytes(32), heads, key)],
        [first, _checkpoint(1, first.hash, heads, key)._replace(number=2)],
    ):
        finding = check(made.groups, *bad, keys=public).finding
        assert finding is not None and finding.fault is Fault.FORGED, bad
    finding = check(made.groups, second, keys=public).finding
    assert finding is not None and (finding.fault, finding.sequence) == (Fault.REMOVED, 1)


def test_a_signature_is_of_one_key_and_of_these_octets() -> None:
    # RFC 8032 §7.1, test 1.
    key = Secret(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert public_key_of(key) == public
    assert sign(b"", key).hex().startswith("e5564300c360ac729086e2cc806e828a")
    assert verify_signature(b"", sign(b"", key), public) == b""
    for octets, signature in ((b"x", sign(b"", key)), (b"", b""), (b"", sign(b"x", key))):
        with pytest.raises(SignatureBroken):
            verify_signature(octets, signature, public)


@given(st.binary(max_size=200))
def test_other_octets_are_no_checkpoint(octets: bytes) -> None:
    with pytest.raises(CheckpointMalformed):
        read_checkpoint(octets)
    whole = write_checkpoint(3, bytes(32), _AT, {5: Head(6, bytes(32))})
    with pytest.raises(CheckpointMalformed):
        read_checkpoint(whole + octets + b"x")


def test_a_checkpoint_in_octets() -> None:
    octets = write_checkpoint(1, b"\x11" * 32, 2, {3: Head(4, b"\x22" * 32)})
    assert octets.hex() == (
        b"roamkey audit checkpoint v1".hex() + "11" * 32
        + "0000000000000001" + "0000000000000002" + "00000001"
        + "0000000000000003" + "0000000000000004" + "22" * 32
    )  # fmt: skip
    assert read_checkpoint(octets).heads == {3: Head(4, b"\x22" * 32)}


# --- octets ---


def test_items_in_octets() -> None:
    act = ActItem("os:a", "kek.add", "kek:2", canonical_details({"b": 1, "a": "é"}))
    assert act.octets() == (
        b"\0\0\0\x14roamkey audit act v1\0\0\0\4os:a\0\0\0\7kek.add\0\0\0\5kek:2"
        b'\0\0\0\x14{"a":"\\u00e9","b":1}'
    )
    event = EventItem(7, 1, 133, 5, 6, None)
    assert event.octets() == (
        b"\0\0\0\x16roamkey audit event v1\0\0\0\x077 1 133\0\0\0\x035 6\xff\xff\xff\xff"
    )


@given(st.text(), st.text(), st.text())
def test_no_two_items_have_the_same_octets(one: str, two: str, moved: str) -> None:
    split = ActItem(one + moved, two, "", "")
    other = ActItem(one, moved + two, "", "")
    assert (split.octets() == other.octets()) == (split == other)


# --- the export ---


def test_an_export_is_verified_without_a_database() -> None:
    key = create_checkpoint_key(secrets.token_bytes)
    made = books()
    signed = _checkpoint(1, bytes(32), check(made.groups).heads, key)
    lines = list(write_lines(KINDS, [signed], made.groups))
    export = Export(lines)
    report = Checker(export.kinds, export.checkpoints, [public_key_of(key)]).run(export.groups)
    assert report.finding is None and report.entries == 21 and report.signatures_verified
    for index, line in enumerate(lines):
        if index in (0, 1, 2):
            continue
        export = Export([*lines[:index], *lines[index + 1 :]])
        finding = Checker(export.kinds, export.checkpoints).run(export.groups).finding
        assert finding is not None or '"checkpoint"' in line, line


@given(
    st.sampled_from(["registration", "event", "act", "entry", "checkpoint", "chain"]),
    st.sampled_from(sorted({*Entry._fields, *Checkpoint._fields, *Placed._fields,
                            *RegistrationItem._fields, *EventItem._fields, *ActItem._fields,
                            "kind"})),
    st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()), st.just("\ud800"),
              st.just({"hex": "0"}), st.just({"hex": 1}), st.just({"hex": "00"})),
)  # fmt: skip
def test_an_export_with_any_value_changed_is_judged_or_refused(
    kind: str, name: str, value: object
) -> None:
    made = Books()
    made.append(1, [ActItem("os:root", RETENTION, "table:x", '{"before_us":"x"}')])
    made.append(2, [registration(1), EventItem(3, 1, 133, 1, None, b"x")])
    checkpoint = Checkpoint(1, b"x", b"x", b"x")
    lines = [json.loads(line) for line in write_lines(KINDS, [checkpoint], made.groups)]
    for line in lines:
        if line["type"] == kind:
            (line if name in line else line.get("item", line))[name] = value
    try:
        export = Export([json.dumps(line) for line in lines])
        Checker(export.kinds).run(export.groups)
    except ExportMalformed:
        pass


def test_text_of_others_is_never_taken_for_octets() -> None:
    made = Books()
    made.append(2, [registration(1)._replace(fa_nai='{"hex":"00"}', operator_realm="hex:00")])
    export = Export(list(write_lines(KINDS, [], made.groups)))
    assert Checker(export.kinds).run(export.groups).finding is None


@pytest.mark.parametrize("line", ["", "[]", "{", '{"type":"entry"}', '{"type":"other"}',
                                  ('{"type":"act","writer":1,"sequence":1,"position":0,'
                                  '"at_us":null,"item":{}}')])  # fmt: skip
def test_a_line_of_something_else_is_told(line: str) -> None:
    with pytest.raises(ExportMalformed, match="line 1"):
        list(Export([line]).groups)
