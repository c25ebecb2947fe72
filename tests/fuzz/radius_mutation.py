"""Good RADIUS packets made wrong in the ways of RADIUS, and signed again so that they are read.

A draft is a packet whose lengths may lie.  Edits that know no format are tests.fuzz.mutation's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from aaa.radius.attributes import cut
from aaa.radius.packet import Packet
from kdc.model import DEFAULT_VENDOR_ID
from tests.fuzz.mutation import mutate

MESSAGE_AUTHENTICATOR: Final = 80
VENDOR_SPECIFIC: Final = 26
PROXY_STATE: Final = 33
_VENDOR: Final = DEFAULT_VENDOR_ID.to_bytes(4, "big")
# Access, accounting, Status, and dynamic authorization (RFC 2865, 2866, 5997, 5176).
_CODES: Final = (0, 1, 2, 3, 4, 5, 11, 12, 13, 40, 41, 42, 43, 44, 45, 255)
_SIGNED_OVER_ZEROS: Final = frozenset({4, 40, 43})  # RFC 2866 §3, RFC 5176 §2.3
_LARGEST_OCTETS: Final = 9000  # what is beyond the 4,096 of RFC 2865 §3 by far
# What stands in packets of other uses: passwords, EAP, State, Class, accounting, Event-Timestamp,
# tunnels, Operator-Name, Error-Cause, extended attributes of RFC 6929.
_KINDS: Final = (
    0, 1, 2, 3, 4, 6, 24, 25, 26, 27, 33, 40, 44, 55, 60, 69, 79, 80, 89, 95, 101, 126, 241, 255,
)  # fmt: skip


@dataclass(slots=True)
class Item:
    """One attribute; `length` is what its length octet says, None for the truth."""

    kind: int
    value: bytes
    length: int | None = None

    @property
    def octets(self) -> bytes:
        true = min(255, len(self.value) + 2)
        return bytes((self.kind, true if self.length is None else self.length)) + self.value


@dataclass(slots=True)
class Draft:
    """A packet under change; `length` as in `Item`."""

    code: int
    identifier: int
    authenticator: bytes
    items: list[Item] = field(default_factory=list)
    length: int | None = None

    def octets(self, secret: bytes | None) -> bytes:
        """The packet, made right under `secret` if one is given: its first Message-Authenticator,
        and its authenticator where that is a signature.
        """
        octets = bytearray(20)
        signature_at = 0
        for item in self.items:
            if item.kind == MESSAGE_AUTHENTICATOR and len(item.value) == 16 and not signature_at:
                signature_at = len(octets) + 2
            octets += item.octets
        length = len(octets) if self.length is None else self.length
        octets[:4] = bytes((self.code, self.identifier, length >> 8 & 255, length & 255))
        if self.code not in _SIGNED_OVER_ZEROS:
            octets[4:20] = self.authenticator
        if secret is not None:
            # What is signed is what the receiver takes for the packet: Length octets.
            end = length if 20 <= length <= len(octets) else len(octets)
            self._sign(octets, signature_at if signature_at + 16 <= end else 0, end, secret)
        return bytes(octets)

    def _sign(self, octets: bytearray, at: int, end: int, secret: bytes) -> None:
        if at:
            octets[at : at + 16] = bytes(16)
            octets[at : at + 16] = hmac.new(secret, octets[:end], hashlib.md5).digest()
        if self.code in _SIGNED_OVER_ZEROS:
            octets[4:20] = hashlib.md5(octets[:end] + secret).digest()


def draft_of(packet: Packet, rng: Random) -> Draft:
    """The draft of a good packet, under an identifier and authenticator of its own."""
    items = [Item(kind, value) for kind, value in packet.attributes]
    return Draft(packet.code, rng.randrange(256), rng.randbytes(16), items)


def storm_packet(
    rng: Random, bases: Sequence[Packet], codes: Sequence[int], secret: bytes
) -> bytes:
    """One mutated packet of the good packets `bases`; what `rng` draws decides everything.

    Of a hundred some four are good as they are, some seventy signed after the change, and of
    these half are a well-formed packet whose values are wrong.
    """
    draft = draft_of(rng.choice(bases), rng)
    if rng.random() < 0.1:
        draft.code = rng.choice(codes)
    kind = rng.random()
    if kind < 0.04:
        return draft.octets(secret)
    if kind < 0.06:
        return rng.randbytes(rng.choice((0, 1, 19, 20, 21, rng.randrange(4200))))
    changes = _VALUE_CHANGES if kind < 0.5 else _CHANGES
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(changes)(rng, draft)
    octets = draft.octets(secret if rng.random() < 0.75 else None)
    return mutate(rng, octets) if kind > 0.9 else octets


# --- changes that leave a well-formed packet, mostly ------------------------------------------


def _change_value(rng: Random, draft: Draft) -> None:
    item = _any(rng, draft)
    if item is not None and item.kind != MESSAGE_AUTHENTICATOR:
        item.value = mutate(rng, item.value)[:253]


def _change_joined(rng: Random, draft: Draft) -> None:
    """A value of ours as a whole (a registration, SA payloads), cut into pieces again."""
    ours = [i for i in draft.items if i.kind == VENDOR_SPECIFIC and i.value[:4] == _VENDOR]
    if not ours:
        return
    number = rng.choice(ours).value[4:5]
    pieces = [item for item in ours if item.value[4:5] == number]
    value = mutate(rng, b"".join(item.value[6:] for item in pieces))
    at = draft.items.index(pieces[0])
    draft.items = [item for item in draft.items if not any(item is p for p in pieces)]
    wanted = number[0] if number else 1
    draft.items[at:at] = [Item(kind, v) for kind, v in cut(wanted, value, DEFAULT_VENDOR_ID)]


def _change_kind(rng: Random, draft: Draft) -> None:
    item = _any(rng, draft)
    if item is not None:
        item.kind = rng.choice(_KINDS)


def _empty(rng: Random, draft: Draft) -> None:
    item = _any(rng, draft)
    if item is not None:
        item.value = b""


def _duplicate(rng: Random, draft: Draft) -> None:
    item = _any(rng, draft)
    if item is not None:
        draft.items.insert(rng.randint(0, len(draft.items)), Item(item.kind, item.value))


def _drop(rng: Random, draft: Draft) -> None:
    if draft.items:
        del draft.items[rng.randrange(len(draft.items))]


def _reorder(rng: Random, draft: Draft) -> None:
    rng.shuffle(draft.items)


def _add(rng: Random, draft: Draft) -> None:
    item = Item(rng.choice(_KINDS), rng.randbytes(rng.choice((0, 1, 4, 16, 64, 253))))
    draft.items.insert(rng.randint(0, len(draft.items)), item)


def _add_proxy_states(rng: Random, draft: Draft) -> None:
    octets = rng.choice((0, 1, 8, 253))
    draft.items += [Item(PROXY_STATE, rng.randbytes(octets)) for _ in range(rng.randint(1, 40))]


def _change_vendor(rng: Random, draft: Draft) -> None:
    """Another vendor, a header cut off, lengths inside that lie, several in one attribute."""
    value = _VENDOR + bytes((rng.randrange(12), rng.choice((0, 1, 2, 3, 4, 255)))) + b"abc"
    choice = rng.randrange(5)
    if choice == 0:
        value = value[: rng.randint(0, 7)]
    elif choice == 1:
        value = rng.randbytes(4) + value[4:]
    elif choice == 2:
        value = _VENDOR + bytes((rng.randrange(12), 3, 0)) * rng.randint(1, 80)
    elif choice == 3:
        vendor = [item for item in draft.items if item.kind == VENDOR_SPECIFIC]
        if vendor:
            item = rng.choice(vendor)
            item.value = item.value[:5] + bytes((rng.randrange(256),)) + item.value[6:]
            return
    draft.items.insert(rng.randint(0, len(draft.items)), Item(VENDOR_SPECIFIC, value[:253]))


def _change_code(rng: Random, draft: Draft) -> None:
    draft.code = rng.choice((*_CODES, rng.randrange(256)))


# --- changes that break the packet ------------------------------------------------------------


def _lie_in_attribute(rng: Random, draft: Draft) -> None:
    item = _any(rng, draft)
    if item is not None:
        true = len(item.value) + 2
        item.length = rng.choice((0, 1, 2, true - 1, true + 1, 255, rng.randrange(256))) & 255


def _lie_in_packet(rng: Random, draft: Draft) -> None:
    true = len(draft.octets(None))
    lies = (0, 19, 20, 21, true - 1, true + 1, true - 18, 4096, 4097, 65535, rng.randrange(65536))
    draft.length = rng.choice(lies)


def _overfill(rng: Random, draft: Draft) -> None:
    """More than 200 attributes, or 4,096 octets, by a little or by far."""
    if rng.random() < 0.5:
        count = rng.choice((199, 200, 201, 255, 1000)) - len(draft.items)
        draft.items += [Item(rng.choice(_KINDS[1:]), b"")] * max(0, count)
        return
    room = rng.choice((4095, 4096, 4097, 4352, _LARGEST_OCTETS)) - len(draft.octets(None))
    while room >= 2:
        octets = min(room, 255) if room != 256 else 254
        draft.items.append(Item(PROXY_STATE, rng.randbytes(octets - 2)))
        room -= octets


def _any(rng: Random, draft: Draft) -> Item | None:
    return rng.choice(draft.items) if draft.items else None


_VALUE_CHANGES: Final[tuple[Callable[[Random, Draft], None], ...]] = (
    _change_value,
    _change_joined,
    _change_joined,
    _change_joined,
    _change_kind,
    _empty,
    _duplicate,
    _drop,
    _reorder,
    _add,
    _add_proxy_states,
    _change_vendor,
)
_CHANGES: Final = (*_VALUE_CHANGES, _change_code, _lie_in_attribute, _lie_in_packet, _overfill)
