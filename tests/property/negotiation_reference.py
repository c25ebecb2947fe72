"""A second, slow negotiation, written from PROTOCOL section 6 over octets alone.

It shares no code with kdc.negotiation: it lists every combination of an offer with every KE and
with none, and asks of each whether it is allowed.  For well-formed payloads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

# Section 4.3: key octets and attribute 6 of each (Protocol-ID, Transform-ID).
ALGORITHMS = {
    (1, 1): (16, 128),
    (1, 2): (20, 160),
    (1, 5): (32, 256),
    (1, 7): (64, 512),
    (2, 3): (24, 192),
    (2, 11): (0, 0),
    (2, 12): (32, 256),
    (3, 20): (36, 256),
    (3, 28): (36, 256),
}
VALUE_OCTETS = {1: 96, 2: 128, 14: 256, 15: 384, 16: 512, 19: 65, 31: 32}


@dataclass
class RawTransform:
    octets: bytes

    @property
    def number(self) -> int:
        return self.octets[4]

    def attributes(self) -> list[tuple[int, bool, bytes]]:
        found, rest = [], self.octets[8:]
        while rest:
            kind = int.from_bytes(rest[:2], "big")
            if kind >= 0x8000:
                found.append((kind - 0x8000, True, rest[2:4]))
                rest = rest[4:]
            else:
                end = 4 + int.from_bytes(rest[2:4], "big")
                found.append((kind, False, rest[4:end]))
                rest = rest[end:]
        return found

    def mode(self) -> int | None:
        for kind, _, value in self.attributes():
            if kind == 128:
                return int.from_bytes(value, "big")
        return None

    def usable(self, protocol: int) -> bool:
        algorithm = ALGORITHMS.get((protocol, self.octets[5]))
        if algorithm is None:
            return False
        if self.octets[6] != (0 if (protocol, self.octets[5]) == (2, 11) else 1):
            return False
        kinds = [kind for kind, _, _ in self.attributes()]
        return (
            set(kinds) <= {6, 128}
            and len(set(kinds)) == len(kinds)
            and all(short for _, short, _ in self.attributes())
            and all(
                int.from_bytes(value, "big") == algorithm[1]
                for kind, _, value in self.attributes()
                if kind == 6
            )
            and self.mode() in (None, 1, 2, 3)
        )


class RawProposal(NamedTuple):
    number: int
    protocol_number: int
    protocol: int
    lifetime: int
    transforms: list[RawTransform]
    kes: list[bytes]


class Found(NamedTuple):
    """A combination: the proposals of one number, a transform of each, a KE or none, the mode."""

    proposals: list[RawProposal]
    transforms: tuple[RawTransform, ...]
    ke: bytes | None
    mode: int


def split(octets: bytes) -> Iterator[bytes]:
    while octets:
        length = int.from_bytes(octets[2:4], "big")
        yield octets[:length]
        octets = octets[length:]


def parse(payload: bytes) -> list[RawProposal]:
    proposals: list[RawProposal] = []
    for part in split(payload[4:]):
        if part[0] == 4:
            proposals[-1].kes.append(part)
            continue
        transforms = [RawTransform(octets) for octets in split(part[16:])]
        lifetime = int.from_bytes(part[8:12], "big")
        proposals.append(RawProposal(part[4], part[5], part[6], lifetime, transforms, []))
    return proposals


def computed(ke: bytes | None) -> bool:
    return ke is not None and (ke[1] < 240 or ke[1] == 241)


def fields_of_b(ke: bytes) -> list[bytes]:
    fields, rest = [], ke[4:]
    for _ in range(3):
        length = int.from_bytes(rest[:2], "big")
        fields.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    return fields


def _serves(ke: bytes, pair: int, mode: int, found: Found, policy: dict[str, Any]) -> bool:
    kind, data = ke[1], ke[8:]
    if kind == 242:
        return mode in (2, 3) and int.from_bytes(ke[4:8], "big") == policy["kec_spi"] and not data
    if kind != 241 and ke[4] not in (0, *(t.number for t in found.transforms)):
        return False
    if kind == 240:
        return mode in (2, 3) and pair == 3 and policy["clear_240"] and not data
    if kind == 241:
        p, g, cv = fields_of_b(ke)
        prime, generator = int.from_bytes(p, "big"), int.from_bytes(g, "big")
        good = 2**2047 <= prime < 2**4096 and 2 <= generator <= prime - 2 and len(cv) == len(p)
        allowed, z = good and policy["user_groups"] and pair == 1, len(p)
    else:
        allowed = kind in policy["groups"] and len(data) == VALUE_OCTETS[kind]
        allowed = allowed and (pair == 1 or kind == 31)
        z = 32 if kind == 19 else len(data)
    if policy["raw_dh"] and pair == 1 and mode == 1:
        chosen = zip(found.proposals, found.transforms, strict=True)
        need = sum(ALGORITHMS[p.protocol, t.octets[5]][0] for p, t in chosen)
        allowed = allowed and z >= need
    return bool(allowed)


def _allowed(pair: int, found: Found, policy: dict[str, Any]) -> bool:
    suites = [
        (p.protocol, t.octets[5]) for p, t in zip(found.proposals, found.transforms, strict=True)
    ]
    told = {t.mode() for t in found.transforms} - {None}
    if found.mode not in policy["modes"] or len(told) > 1:
        return False
    if told and told != {found.mode}:
        return False
    if not told and found.mode != (1 if computed(found.ke) else policy["default_mode"]):
        return False
    if any([s[0], s[1]] not in policy["suites"] for s in suites):
        return False
    if (2, 11) in suites and all(s[0] != 1 for s in suites):
        return False
    if not all(t.usable(s[0]) for t, s in zip(found.transforms, suites, strict=True)):
        return False
    if found.mode == 1 and not computed(found.ke):
        return False
    return found.ke is None or _serves(found.ke, pair, found.mode, found, policy)


def select(payload: bytes, policy: dict[str, Any]) -> Found | None:
    """The first allowed combination: numbers, transforms of the first protocol, .., then KEs."""
    everything = parse(payload)
    for number in sorted({p.number for p in everything}):
        proposals = [p for p in everything if p.number == number]
        kes: list[bytes | None] = [ke for p in proposals for ke in p.kes]
        for transforms in product(*(p.transforms for p in proposals)):
            for ke in [*kes, None]:
                for mode in (1, 2, 3):
                    found = Found(proposals, transforms, ke, mode)
                    if _allowed(payload[1], found, policy):
                        return found
    return None


def _sized(kind: int, sub_type: int, body: bytes) -> bytes:
    return bytes([kind, sub_type]) + (4 + len(body)).to_bytes(2, "big") + body


def answer(pair: int, found: Found, *, maximum_lifetime: int, spi: int, value: bytes) -> bytes:
    """The octets of the answer; `value` is the responder's public value, if one is used."""
    body = b""
    for proposal, transform in zip(found.proposals, found.transforms, strict=True):
        head = bytes([proposal.number, proposal.protocol_number, proposal.protocol, 1])
        head += min(proposal.lifetime, maximum_lifetime).to_bytes(4, "big")
        head += (spi if pair in (1, 3) else 0).to_bytes(4, "big")
        body += _sized(2, 0, head + transform.octets)
    if found.ke is not None and found.ke[1] == 241:
        p, g, _ = fields_of_b(found.ke)
        body += _sized(4, 241, b"".join(len(f).to_bytes(2, "big") + f for f in (p, g, value)))
    elif found.ke is not None:
        body += _sized(4, found.ke[1], found.ke[4:8] + value)
    return _sized(1, pair, body)
