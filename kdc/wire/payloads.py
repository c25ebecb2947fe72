"""SA, Proposal, Transform, Attribute and KE payloads (PROTOCOL 4.3, Figs 17-23).

What is merely not acceptable (an unknown algorithm, group or attribute, data of a wrong length)
stays in the tree: kdc.negotiation passes over it.  Every well-formed payload has one tree and
every tree one sequence of octets.  Sealed secrets of a KE-c are opened in kdc.crypto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from kdc.errors import LocalError, Malformed
from kdc.model import Pair
from kdc.wire.cursor import Reader

SA: Final = 1  # Fig. 17
PROPOSAL: Final = 2  # Fig. 19
TRANSFORM: Final = 3  # Fig. 20
KEY_EXCHANGE: Final = 4  # Figs 21-23

KE_SECRET: Final = 240  # Fig. 21: "secret over a secure path"
KE_B: Final = 241  # Fig. 22
KE_C: Final = 242  # Fig. 23

AUTHENTICATION: Final = 1  # Protocol-IDs
ENCRYPTION: Final = 2
AEAD: Final = 3

SHORT_FORM: Final = 0x8000  # RFC 2408 §3.3, the AF bit
KEY_LENGTH: Final = 6  # RFC 2407 §4.5: key length in bits
KEY_MODE: Final = 128  # 1 stateless, 2 stateful, 3 semi-stateful

MAXIMUM_PROPOSALS: Final = 8
MAXIMUM_TRANSFORMS: Final = 16
MAXIMUM_KEY_EXCHANGES: Final = 4
INFINITE_LIFETIME_S: Final = 2**32 - 1
HEADER_OCTETS: Final = 4
MAXIMUM_FA_SA_PAYLOAD_OCTETS: Final = 1024  # PROTOCOL section 9, attribute 5

_HEADER: Final = struct.Struct(">BBH")
_PROPOSAL: Final = struct.Struct(">BBBBII")
_SPI_AT: Final = 12  # in a proposal (Fig. 19)
_TRANSFORM: Final = struct.Struct(">BBBB")
_FA_PAIRS: Final = (Pair.MN_FA, Pair.FA_HA, Pair.MN_SMM)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a transform; in the short form `value` is 2 octets (RFC 2408 §3.3)."""

    type: int
    value: bytes
    short: bool = True


@dataclass(frozen=True, slots=True)
class Transform:
    """One algorithm of a proposal (Fig. 20)."""

    number: int
    transform_id: int
    key_count: int
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class KeA:
    """A public value of a known group or, sub-type 240, the secret itself (Fig. 21)."""

    group: int
    transform_number: int  # 0 = all
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeB:
    """A public value with its own group: P, G and CV, big-endian (Fig. 22)."""

    prime: bytes
    generator: bytes
    public_value: bytes


@dataclass(frozen=True, slots=True)
class KeC:
    """A secret sealed under the association of `spi`; empty in an offer (Fig. 23)."""

    spi: int
    sealed: bytes = b""


KeyExchange = KeA | KeB | KeC


@dataclass(frozen=True, slots=True)
class Proposal:
    """One protocol with its transforms (Fig. 19), and the KE payloads that follow it."""

    number: int
    protocol_number: int
    protocol_id: int
    lifetime_s: int
    spi: int
    transforms: tuple[Transform, ...]
    key_exchanges: tuple[KeyExchange, ...] = ()

    def choosing(self, transform: Transform, lifetime_s: int) -> Proposal:
        """The proposal with this transform alone and without a KE.

        As `answering`, it is made for each registration: `dataclasses.replace` takes five times as
        long.
        """
        return Proposal(
            self.number, self.protocol_number, self.protocol_id, lifetime_s, self.spi, (transform,)
        )

    def answering(self, spi: int, key_exchanges: tuple[KeyExchange, ...]) -> Proposal:
        """The proposal as an answer has it."""
        return Proposal(
            self.number,
            self.protocol_number,
            self.protocol_id,
            self.lifetime_s,
            spi,
            self.transforms,
            key_exchanges,
        )


@dataclass(frozen=True, slots=True)
class SaPayload:
    """The offer or the answer for one pair (Fig. 17)."""

    pair: Pair
    proposals: tuple[Proposal, ...]


def with_spi(octets: bytes, spi: int) -> bytes:
    """An encoded SA payload with the SPI of each proposal set; every other octet stays.

    Raises `Malformed` for octets that are none.
    """
    reader, filled = Reader(octets), bytearray(octets)
    reader.octets(HEADER_OCTETS)
    while reader.remaining:
        start = reader.position
        payload_type, _, length_octets = _read_header(reader)
        reader.octets(length_octets)
        if payload_type == PROPOSAL:
            if length_octets + HEADER_OCTETS < _SPI_AT + 4:
                raise Malformed("proposal too short")
            filled[start + _SPI_AT : start + _SPI_AT + 4] = spi.to_bytes(4, "big")
    return bytes(filled)


class ReadSaPayload(NamedTuple):
    """An SA payload beside the octets that it was read from, which a key may be bound to."""

    octets: bytes
    payload: SaPayload


def decode_sa_payload(octets: bytes) -> SaPayload:
    """The one SA payload that `octets` are; raises `Malformed` (PROTOCOL 4.3, section 6)."""
    reader = Reader(octets)
    payload = _read_sa_payload(reader)
    reader.finish()
    return payload


def encode_sa_payload(payload: SaPayload) -> bytes:
    """The octets of the payload, whose rules of number and order are its maker's affair.

    Raises `LocalError` if a value does not fit its field.
    """
    try:
        return _write_sa_payload(payload)
    except (struct.error, OverflowError):
        raise LocalError("a value does not fit its field") from None


def decode_fa_sa_payloads(octets: bytes) -> dict[Pair, ReadSaPayload]:
    """The SA payloads in a row of attribute 5 (PROTOCOL section 9), each of pair 2, 3 or 4 once.

    Raises `Malformed`; no octets, no payload.
    """
    if len(octets) > MAXIMUM_FA_SA_PAYLOAD_OCTETS:
        raise Malformed("attribute 5 too long")
    reader = Reader(octets)
    payloads: dict[Pair, ReadSaPayload] = {}
    while reader.remaining:
        start = reader.position
        payload = _read_sa_payload(reader)
        if payload.pair not in _FA_PAIRS:
            raise Malformed("pair has no place in attribute 5")
        if payload.pair in payloads:
            raise Malformed("pair twice in attribute 5")
        payloads[payload.pair] = ReadSaPayload(octets[start : reader.position], payload)
    return payloads


def _read_sa_payload(reader: Reader) -> SaPayload:
    payload_type, sub_type, length_octets = _read_header(reader)
    if payload_type != SA:
        raise Malformed("not an SA payload")
    if not Pair.MN_HA <= sub_type <= Pair.MN_SMM:
        raise Malformed("SA payload of an unknown pair")
    with reader.window(length_octets) as body:
        return SaPayload(Pair(sub_type), _read_proposals(body))


def _write_sa_payload(payload: SaPayload) -> bytes:
    body = b"".join(_write_proposal(proposal) for proposal in payload.proposals)
    return _write_payload(SA, payload.pair, body)


def _read_header(reader: Reader) -> tuple[int, int, int]:
    """Type, sub-type, and how many octets follow; Length on the wire counts the header too."""
    payload_type, sub_type, length_octets = reader.u8(), reader.u8(), reader.u16()
    if length_octets < HEADER_OCTETS:
        raise Malformed("payload length below its header")
    return payload_type, sub_type, length_octets - HEADER_OCTETS


def _write_payload(payload_type: int, sub_type: int, body: bytes) -> bytes:
    return _HEADER.pack(payload_type, sub_type, HEADER_OCTETS + len(body)) + body


def _read_proposals(body: Reader) -> tuple[Proposal, ...]:
    """(Proposal KE*)+, each KE kept with the proposal that it follows."""
    proposals: list[Proposal] = []
    key_exchanges: list[list[KeyExchange]] = []
    while body.remaining or not proposals:
        payload_type, sub_type, length_octets = _read_header(body)
        with body.window(length_octets) as payload:
            if payload_type == KEY_EXCHANGE:
                if not proposals:
                    raise Malformed("key exchange before any proposal")
                if sum(map(len, key_exchanges)) == MAXIMUM_KEY_EXCHANGES:
                    raise Malformed("too many key exchanges")
                key_exchanges[-1].append(_read_key_exchange(payload, sub_type))
            elif payload_type == PROPOSAL and sub_type == 0:
                if len(proposals) == MAXIMUM_PROPOSALS:
                    raise Malformed("too many proposals")
                proposals.append(_read_proposal(payload))
                key_exchanges.append([])
            else:
                raise Malformed("payload type")
    _check_numbers(proposals)
    return tuple(
        replace(proposal, key_exchanges=tuple(following)) if following else proposal
        for proposal, following in zip(proposals, key_exchanges, strict=True)
    )


def _check_numbers(proposals: Sequence[Proposal]) -> None:
    """Section 6: one number is adjacent and means AND, different numbers increase."""
    number = protocol_number = 0
    protocols: set[int] = set()
    for proposal in proposals:
        if proposal.number > number:
            number, protocol_number = proposal.number, 0
            protocols.clear()
        elif proposal.number < number or number == 0:
            raise Malformed("proposal numbers do not increase from 1")
        protocol_number += 1
        if proposal.protocol_number != protocol_number:
            raise Malformed("protocol numbers do not count from 1")
        if proposal.protocol_id in protocols:
            raise Malformed("protocol twice in one proposal number")
        protocols.add(proposal.protocol_id)


def _read_proposal(body: Reader) -> Proposal:
    number, protocol_number, protocol_id = body.u8(), body.u8(), body.u8()
    count, lifetime_s, spi = body.u8(), body.u32(), body.u32()
    if not 1 <= count <= MAXIMUM_TRANSFORMS:
        raise Malformed("number of transforms")
    if lifetime_s in (0, INFINITE_LIFETIME_S):
        raise Malformed("proposal lifetime")
    transforms = _read_transforms(body, count)
    return Proposal(number, protocol_number, protocol_id, lifetime_s, spi, transforms)


def _write_proposal(proposal: Proposal) -> bytes:
    body = _PROPOSAL.pack(
        proposal.number,
        proposal.protocol_number,
        proposal.protocol_id,
        len(proposal.transforms),
        proposal.lifetime_s,
        proposal.spi,
    )
    body += b"".join(_write_transform(transform) for transform in proposal.transforms)
    # Length ends after the last transform, before any KE.
    key_exchanges = b"".join(_write_key_exchange(ke) for ke in proposal.key_exchanges)
    return _write_payload(PROPOSAL, 0, body) + key_exchanges


def _read_transforms(body: Reader, count: int) -> tuple[Transform, ...]:
    transforms: list[Transform] = []
    last = 0
    for _ in range(count):
        transform = _read_transform(body)
        if transform.number <= last:
            raise Malformed("transform numbers do not increase")
        last = transform.number
        transforms.append(transform)
    return tuple(transforms)


def _read_transform(reader: Reader) -> Transform:
    payload_type, sub_type, length_octets = _read_header(reader)
    if payload_type != TRANSFORM or sub_type != 0:
        raise Malformed("not a transform")
    with reader.window(length_octets) as body:
        number, transform_id, key_count, reserved = body.u8(), body.u8(), body.u8(), body.u8()
        if reserved != 0:
            raise Malformed("reserved field is not zero")
        attributes: list[Attribute] = []
        while body.remaining:
            attributes.append(_read_attribute(body))
        return Transform(number, transform_id, key_count, tuple(attributes))


def _write_transform(transform: Transform) -> bytes:
    body = _TRANSFORM.pack(transform.number, transform.transform_id, transform.key_count, 0)
    body += b"".join(_write_attribute(attribute) for attribute in transform.attributes)
    return _write_payload(TRANSFORM, 0, body)


def _read_attribute(body: Reader) -> Attribute:
    form_and_type = body.u16()
    if form_and_type & SHORT_FORM:
        return Attribute(form_and_type ^ SHORT_FORM, body.octets(2))
    return Attribute(form_and_type, body.octets(body.u16()), short=False)


def _write_attribute(attribute: Attribute) -> bytes:
    if attribute.type & ~0x7FFF:
        raise LocalError("attribute type does not fit 15 bits")
    if not attribute.short:
        return attribute.type.to_bytes(2, "big") + _write_value(attribute.value)
    if len(attribute.value) != 2:
        raise LocalError("the short form has 2 octets of value")
    return (SHORT_FORM | attribute.type).to_bytes(2, "big") + attribute.value


def _read_key_exchange(body: Reader, sub_type: int) -> KeyExchange:
    if sub_type == KE_B:
        return KeB(_read_value(body), _read_value(body), _read_value(body))
    if sub_type == KE_C:
        return KeC(body.u32(), body.rest())
    if not 1 <= sub_type <= KE_SECRET:
        raise Malformed("key exchange sub-type")
    transform_number = body.u8()
    if any(body.octets(3)):
        raise Malformed("reserved field is not zero")
    return KeA(sub_type, transform_number, body.rest())


def _write_key_exchange(ke: KeyExchange) -> bytes:
    match ke:
        case KeB():
            values = (ke.prime, ke.generator, ke.public_value)
            return _write_payload(KEY_EXCHANGE, KE_B, b"".join(map(_write_value, values)))
        case KeC():
            return _write_payload(KEY_EXCHANGE, KE_C, ke.spi.to_bytes(4, "big") + ke.sealed)
        case KeA():
            body = _TRANSFORM.pack(ke.transform_number, 0, 0, 0) + ke.data
            return _write_payload(KEY_EXCHANGE, ke.group, body)


def _read_value(body: Reader) -> bytes:
    """Length(2), which counts the value only, and the value."""
    return body.octets(body.u16())


def _write_value(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value
