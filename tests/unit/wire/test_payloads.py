"""SA payloads against the vectors of PROTOCOL 4.3, and the rules that no vector shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdc.crypto.seal import Seal
from kdc.errors import LocalError, Malformed, SealBroken
from kdc.model import Pair, Secret
from kdc.wire.payloads import (
    Attribute,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
    decode_fa_sa_payloads,
    decode_sa_payload,
    encode_sa_payload,
    with_spi,
)
from tests.vectors_loader import Vector, octets, vector_id, vectors

VECTORS = vectors("sa-payload")
TREES = [v for v in VECTORS if "tree" in v["in"]]
SEALED = [v for v in VECTORS if "key" in v["in"]]
MALFORMED = [v for v in VECTORS if v.get("refuse", {}).get("code") == 134]


def _attribute(tree: dict[str, Any]) -> Attribute:
    return Attribute(tree["type"], octets(tree["value"]), tree["form"] == "TV")


def _transform(tree: dict[str, Any]) -> Transform:
    attributes = tuple(_attribute(a) for a in tree["attributes"])
    return Transform(tree["number"], tree["id"], tree["key_count"], attributes)


def _key_exchange(tree: dict[str, Any]) -> KeyExchange:
    if tree["form"] == "a":
        return KeA(tree["group"], tree["transform"], octets(tree["data"]))
    if tree["form"] == "b":
        return KeB(octets(tree["p"]), octets(tree["g"]), octets(tree["cv"]))
    return KeC(tree["spi"], octets(tree["sealed"]))


def _proposal(tree: dict[str, Any]) -> Proposal:
    return Proposal(
        tree["number"],
        tree["protocol_number"],
        tree["protocol_id"],
        tree["lifetime"],
        tree["spi"],
        tuple(_transform(t) for t in tree["transforms"]),
        tuple(_key_exchange(k) for k in tree["ke"]),
    )


def _tree(tree: dict[str, Any]) -> SaPayload:
    return SaPayload(Pair(tree["pair"]), tuple(_proposal(p) for p in tree["proposals"]))


def test_every_vector_is_used() -> None:
    assert len(TREES) + len(SEALED) + len(MALFORMED) == len(VECTORS) == 47


@pytest.mark.parametrize("vector", TREES, ids=vector_id)
def test_tree_to_octets_and_back(vector: Vector) -> None:
    tree, expected = _tree(vector["in"]["tree"]), octets(vector["out"]["octets"])
    assert encode_sa_payload(tree) == expected
    assert decode_sa_payload(expected) == tree


@pytest.mark.parametrize("vector", MALFORMED, ids=vector_id)
def test_malformed(vector: Vector) -> None:
    with pytest.raises(Malformed):
        decode_sa_payload(octets(vector["in"]["octets"]))


@pytest.mark.parametrize("vector", SEALED, ids=vector_id)
def test_sealed_secret_of_a_ke_c(vector: Vector) -> None:
    """5.2: associated data [fixed header, the SA payload's first 4 octets | the KE-c's first 8]."""
    message = octets(vector["in"]["octets"])
    payload = decode_sa_payload(message)
    (proposal,) = payload.proposals
    (ke,) = proposal.key_exchanges
    assert isinstance(ke, KeC)
    header = message[-8 - len(ke.sealed) : -len(ke.sealed)]
    bound = [octets(vector["in"]["fixed_header"]), message[:4] + header]
    seal = Seal(Secret(octets(vector["in"]["key"])))
    if "refuse" in vector:
        with pytest.raises(SealBroken):
            seal.open(ke.sealed, bound)
        return
    secret = octets(vector["out"]["secret"])
    assert seal.open(ke.sealed, bound) == secret
    assert seal.seal(secret, bound) == ke.sealed
    stripped = Proposal(
        proposal.number,
        proposal.protocol_number,
        proposal.protocol_id,
        proposal.lifetime_s,
        proposal.spi,
        proposal.transforms,
        (KeC(ke.spi),),
    )
    expected = octets(vector["out"]["stripped"])
    assert encode_sa_payload(SaPayload(payload.pair, (stripped,))) == expected


HEAD = "0101001c02000018"
# Number, protocol number, protocol and count; lifetime; SPI; transform.
GOOD = ("01010301", "0000003c", "00000000", "0300000801140100")


def _with(index: int, part: str) -> bytes:
    parts = list(GOOD)
    parts[index] = part
    return octets(HEAD + "".join(parts))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(_with(0, "00010301"), id="proposal-number-0"),
        pytest.param(_with(0, "01000301"), id="protocol-number-0"),
        pytest.param(_with(0, "01020301"), id="protocol-number-2-first"),
        pytest.param(_with(0, "01010302"), id="transform-count-above"),
        pytest.param(_with(1, "00000000"), id="lifetime-0"),
        pytest.param(_with(3, "0300000800140100"), id="transform-number-0"),
        pytest.param(_with(3, "0300000801140101"), id="transform-reserved"),
        pytest.param(_with(3, "0200000801140100"), id="transform-type"),
        pytest.param(_with(3, "0300000701140100"), id="transform-length-short"),
        pytest.param(octets("0101001c02010018") + octets("".join(GOOD)), id="proposal-sub-type"),
        pytest.param(octets("0101001c05000018") + octets("".join(GOOD)), id="unknown-payload"),
        pytest.param(octets("0105001c02000018") + octets("".join(GOOD)), id="pair-5"),
        pytest.param(octets("0101000302000018") + octets("".join(GOOD)), id="length-below-header"),
        pytest.param(octets("0101001c02000003") + octets("".join(GOOD)), id="proposal-length-3"),
    ],
)
def test_rules_that_no_vector_shows(message: bytes) -> None:
    assert decode_sa_payload(octets(HEAD + "".join(GOOD))).pair is Pair.MN_HA
    with pytest.raises(Malformed):
        decode_sa_payload(message)


def _offer(pair: Pair = Pair.MN_HA, *, proposals: int = 1, kes: int = 0) -> SaPayload:
    ke = KeA(31, 0, bytes(32))
    return SaPayload(
        pair,
        tuple(
            Proposal(n, 1, 3, 60, 0, (Transform(1, 20, 1),), (ke,) * kes if n == 1 else ())
            for n in range(1, proposals + 1)
        ),
    )


@pytest.mark.parametrize(("proposals", "kes"), [(8, 0), (1, 4)])
def test_limits_are_reached(proposals: int, kes: int) -> None:
    payload = _offer(proposals=proposals, kes=kes)
    assert decode_sa_payload(encode_sa_payload(payload)) == payload


@pytest.mark.parametrize(("proposals", "kes"), [(9, 0), (1, 5)])
def test_limits_are_kept(proposals: int, kes: int) -> None:
    with pytest.raises(Malformed):
        decode_sa_payload(encode_sa_payload(_offer(proposals=proposals, kes=kes)))


def test_the_limit_of_key_exchanges_is_a_payload_s() -> None:
    ke, transforms = KeA(31, 0, bytes(32)), (Transform(1, 20, 1),)
    proposals = tuple(Proposal(n, 1, 3, 60, 0, transforms, (ke, ke, ke)) for n in (1, 2))
    with pytest.raises(Malformed):
        decode_sa_payload(encode_sa_payload(SaPayload(Pair.MN_HA, proposals)))


def test_one_protocol_twice_in_a_number() -> None:
    proposals = tuple(Proposal(1, n, 3, 60, 0, (Transform(1, 20, 1),)) for n in (1, 2))
    with pytest.raises(Malformed):
        decode_sa_payload(encode_sa_payload(SaPayload(Pair.MN_HA, proposals)))


@pytest.mark.parametrize("sub_type", ["00", "f3", "ff"])
def test_key_exchange_sub_types_of_nobody(sub_type: str) -> None:
    message = octets("01010024" + HEAD[8:] + "".join(GOOD) + "04" + sub_type + "000800000000")
    with pytest.raises(Malformed):
        decode_sa_payload(message)


def test_attribute_5_holds_payloads_in_a_row() -> None:
    offers = [_offer(pair) for pair in (Pair.FA_HA, Pair.MN_FA, Pair.MN_SMM)]
    joined = b"".join(map(encode_sa_payload, offers))
    read = decode_fa_sa_payloads(joined)
    assert [item.payload for item in read.values()] == offers
    assert [item.octets for item in read.values()] == list(map(encode_sa_payload, offers))
    assert list(read) == [Pair.FA_HA, Pair.MN_FA, Pair.MN_SMM]
    assert decode_fa_sa_payloads(b"") == {}


@pytest.mark.parametrize("pairs", [(Pair.MN_HA,), (Pair.MN_FA, Pair.FA_HA, Pair.MN_FA)])
def test_attribute_5_refuses_a_pair(pairs: tuple[Pair, ...]) -> None:
    with pytest.raises(Malformed):
        decode_fa_sa_payloads(b"".join(encode_sa_payload(_offer(pair)) for pair in pairs))


@pytest.mark.parametrize("length_octets", [1024, 1025])
def test_attribute_5_has_at_most_1024_octets(length_octets: int) -> None:
    ke = KeA(99, 0, bytes(length_octets - 36))
    proposal = Proposal(1, 1, 3, 60, 0, (Transform(1, 20, 1),), (ke,))
    message = encode_sa_payload(SaPayload(Pair.FA_HA, (proposal,)))
    assert len(message) == length_octets
    if length_octets <= 1024:
        assert len(decode_fa_sa_payloads(message)) == 1
        return
    with pytest.raises(Malformed):
        decode_fa_sa_payloads(message)


def test_attribute_5_gives_nothing_before_all_of_it_is_read() -> None:
    with pytest.raises(Malformed):
        decode_fa_sa_payloads(encode_sa_payload(_offer(Pair.FA_HA)) + b"\x01")


@pytest.mark.parametrize(
    "transform",
    [
        Transform(256, 20, 1),
        Transform(1, 20, 1, (Attribute(0x8000, bytes(2)),)),
        Transform(1, 20, 1, (Attribute(6, bytes(3)),)),
        Transform(1, 20, 1, (Attribute(9, bytes(65536), short=False),)),
    ],
)
def test_what_does_not_fit_is_not_written(transform: Transform) -> None:
    with pytest.raises(LocalError):
        encode_sa_payload(SaPayload(Pair.MN_HA, (Proposal(1, 1, 3, 60, 0, (transform,)),)))


def test_the_secret_of_sub_type_240_does_not_print() -> None:
    assert "secret" not in repr(KeA(240, 0, b"secret"))


@pytest.mark.parametrize("name", ["offer", "answer"])
def test_an_spi_is_set_in_every_proposal_and_nowhere_else(name: str) -> None:
    kes = (KeA(31, 0, b"\x02" * 32), KeC(7, b"\x02\x00\x00\x10" * 4))
    transforms = (Transform(1, 5, 1, (Attribute(128, b"\0\2"),)), Transform(2, 7, 1))
    proposals = (
        Proposal(1, 1, 1, 3600, 0, transforms),
        Proposal(1, 2, 2, 3600, 9, (Transform(1, 12, 1),), kes[:1] if name == "answer" else kes),
    )
    payload = SaPayload(Pair.FA_HA, proposals)
    wanted = tuple(replace(proposal, spi=0xDEADBEEF) for proposal in proposals)
    octets = with_spi(encode_sa_payload(payload), 0xDEADBEEF)
    assert octets == encode_sa_payload(SaPayload(Pair.FA_HA, wanted))
