"""A second, slow negotiation, written from PROTOCOL section 6 over octets alone.

It shares no code with kdc.negotiation: it lists every combination of an offer with every KE and
with none, and asks of each whether it is allowed.  For well-formed payloads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

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
NULL = (2, 11)
VALUE_OCTETS = {1: 96, 2: 128, 14: 256, 15: 384, 16: 512, 19: 65, 31: 32}


@dataclass(frozen=True)
class Rules:
    """A responder's policy in the words of the page."""

    suites: frozenset[tuple[int, int]]
    modes: frozenset[int]
    default_mode: int
    groups: frozenset[int]
    user_groups: bool
    fa_dh_any: bool
    raw_dh: bool
    maximum_lifetime: int
    ke_c_spi: int | None
    clear_fa_keys: bool


@dataclass(frozen=True)
class RawTransform:
    octets: bytes

    @property
    def number(self) -> int:
        return self.octets[4]

    @cached_property
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

    @cached_property
    def mode(self) -> int | None:
        for kind, _, value in self.attributes:
            if kind == 128:
                return int.from_bytes(value, "big")
        return None

    def usable(self, protocol: int) -> bool:
        """Section 4.3: whether it is not passed over."""
        algorithm = ALGORITHMS.get((protocol, self.octets[5]))
        if algorithm is None:
            return False
        if self.octets[6] != (0 if (protocol, self.octets[5]) == NULL else 1):
            return False
        kinds = [kind for kind, _, _ in self.attributes]
        return (
            set(kinds) <= {6, 128}
            and len(set(kinds)) == len(kinds)
            and all(short for _, short, _ in self.attributes)
            and all(
                int.from_bytes(value, "big") == algorithm[1]
                for kind, _, value in self.attributes
                if kind == 6
            )
            and self.mode in (None, 1, 2, 3)
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

    @property
    def suites(self) -> list[tuple[int, int]]:
        chosen = zip(self.proposals, self.transforms, strict=True)
        return [(proposal.protocol, transform.octets[5]) for proposal, transform in chosen]


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


def is_group(ke: bytes | None) -> bool:
    """A KE-a of a group or a KE-b: what makes a pair stateless or mixed."""
    return ke is not None and (ke[1] < 240 or ke[1] == 241)


def fields_of_b(ke: bytes) -> list[bytes]:
    fields, rest = [], ke[4:]
    for _ in range(3):
        length = int.from_bytes(rest[:2], "big")
        fields.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    return fields


def is_raw(pair: int, mode: int, rules: Rules) -> bool:
    """Section 7.3: derivation 0 for pair 1 in mode 1 where policy says so."""
    return rules.raw_dh and pair == 1 and mode == 1


def _serves(ke: bytes, pair: int, found: Found, rules: Rules) -> bool:
    """Whether a KE is not passed over for this combination."""
    kind = ke[1]
    # "the first one is used .. whose Transform-Number is 0 or that of a chosen transform": KE-a.
    if kind <= 240 and ke[4] not in (0, *(transform.number for transform in found.transforms)):
        return False
    if kind in (240, 242) and found.mode not in (2, 3):
        return False
    if kind == 242:
        return int.from_bytes(ke[4:8], "big") == rules.ke_c_spi and len(ke) == 8
    if kind == 240:
        return pair == 3 and rules.clear_fa_keys and len(ke) == 8
    if pair != 1 and kind != 31 and not rules.fa_dh_any:
        return False
    if kind == 241:
        p, g, cv = fields_of_b(ke)
        prime, generator = int.from_bytes(p, "big"), int.from_bytes(g, "big")
        good = 2**2047 <= prime < 2**4096 and 2 <= generator <= prime - 2 and len(cv) == len(p)
        allowed, z_octets = good and rules.user_groups, len(p)
    else:
        allowed = kind in rules.groups and len(ke) - 8 == VALUE_OCTETS[kind]
        z_octets = 32 if kind == 19 else len(ke) - 8
    if is_raw(pair, found.mode, rules):
        needed = sum(ALGORITHMS[suite][0] for suite in found.suites)
        return allowed and z_octets >= needed
    return allowed


def _allowed(pair: int, found: Found, rules: Rules) -> bool:
    told = {transform.mode for transform in found.transforms} - {None}
    implied = 1 if is_group(found.ke) else rules.default_mode
    if (told or {implied}) != {found.mode} or found.mode not in rules.modes:
        return False
    if found.ke is None:
        return found.mode != 1
    return (found.mode != 1 or is_group(found.ke)) and _serves(found.ke, pair, found, rules)


def _suites_allowed(found: Found, rules: Rules) -> bool:
    suites = found.suites
    if any(suite not in rules.suites for suite in suites):
        return False
    if NULL in suites and all(protocol != 1 for protocol, _ in suites):
        return False
    pairs = zip(found.transforms, suites, strict=True)
    return all(transform.usable(suite[0]) for transform, suite in pairs)


def combinations(payload: bytes) -> Iterator[Found]:
    """Numbers, then transforms of the first protocol, of the next .., then KEs, without one last.

    The mode is still open (0).
    """
    everything = parse(payload)
    for number in sorted({proposal.number for proposal in everything}):
        proposals = [proposal for proposal in everything if proposal.number == number]
        kes: list[bytes | None] = [ke for proposal in proposals for ke in proposal.kes]
        for transforms in product(*(proposal.transforms for proposal in proposals)):
            for ke in [*kes, None]:
                yield Found(proposals, transforms, ke, 0)


def select(payload: bytes, rules: Rules) -> Found | None:
    """The first allowed combination."""
    for found in combinations(payload):
        if not _suites_allowed(found, rules):
            continue
        for mode in (1, 2, 3):
            if _allowed(payload[1], found._replace(mode=mode), rules):
                return found._replace(mode=mode)
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


def is_answer(offer: bytes, answered: bytes) -> bool:
    """Whether `answered` is one of the offers, as section 6 lets an initiator see it.

    Judged without a policy, but for what no policy allows: what 4.3 passes over, NULL alone, two
    modes, mode 1 without a value, an SPI or a lifetime that may not stand there.
    """
    pair, theirs = answered[1], parse(answered)
    if pair != offer[1] or any(ke for proposal in theirs[:-1] for ke in proposal.kes):
        return False
    kes = theirs[-1].kes
    if len(kes) > 1 or any(len(proposal.transforms) != 1 for proposal in theirs):
        return False
    transforms = tuple(proposal.transforms[0] for proposal in theirs)
    if not _spis_allowed(answered):
        return False
    return any(
        _same_heads(found.proposals, theirs)
        and [t.octets for t in found.transforms] == [t.octets for t in transforms]
        and _agrees(found, kes[0] if kes else None, pair)
        for found in combinations(offer)
    )


def _spis_allowed(answered: bytes) -> bool:
    parts = [part for part in split(answered[4:]) if part[0] == 2]
    spis = {int.from_bytes(part[12:16], "big") for part in parts}
    return len(spis) == 1 and (min(spis) >= 256 if answered[1] in (1, 3) else spis == {0})


def _same_heads(ours: list[RawProposal], theirs: list[RawProposal]) -> bool:
    return [p[:3] for p in ours] == [p[:3] for p in theirs] and all(
        b.lifetime <= a.lifetime for a, b in zip(ours, theirs, strict=True)
    )


def _agrees(found: Found, answered: bytes | None, pair: int) -> bool:
    """Whether some policy would have led to this answer of this combination."""
    if (found.ke is None) != (answered is None):
        return False
    ke_c_spi = None
    if found.ke is not None and answered is not None:
        if found.ke[1] != answered[1] or not _same_ke(found.ke, answered):
            return False
        ke_c_spi = int.from_bytes(answered[4:8], "big") if answered[1] == 242 else None
    for default_mode in (2, 3):
        lenient = Rules(
            suites=frozenset(ALGORITHMS),
            modes=frozenset({1, 2, 3}),
            default_mode=default_mode,
            groups=frozenset(VALUE_OCTETS),
            user_groups=True,
            fa_dh_any=True,
            raw_dh=False,
            maximum_lifetime=2**32 - 2,
            ke_c_spi=ke_c_spi,
            clear_fa_keys=True,
        )
        for mode in (1, 2, 3):
            candidate = found._replace(mode=mode)
            if _suites_allowed(found, lenient) and _allowed(pair, candidate, lenient):
                return True
    return False


def _same_ke(offered: bytes, answered: bytes) -> bool:
    """The same but for the responder's value or secret."""
    if answered[1] == 241:
        (p, g, _), (p_answered, g_answered, value) = fields_of_b(offered), fields_of_b(answered)
        return (p, g) == (p_answered, g_answered) and len(value) == len(p)
    same_size = answered[1] in (240, 242) or len(answered) == len(offered)
    return offered[4:8] == answered[4:8] and same_size
