"""Bad input to a home agent: each rule of PROTOCOL 4.3 and 6, what breaks it, what comes back.

Every request is sealed and authenticated as a mobile node's is; only its SA payloads are written
by hand.  What a receiver refuses of an SA-INFO is in tests/protocol/test_sa_info.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import pytest

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject
from aaa.roles.foreign_agent import Delivery, Relayed
from kdc.crypto.dh import FIXED_GROUPS
from kdc.errors import RemoteError
from kdc.model import Mode, Pair
from kdc.negotiation import DEFAULT_POLICY_SUITES, NULL, OfferPlan, Policy, PreparedOffer
from kdc.wire.payloads import decode_sa_payload
from tests.protocol.test_negotiated_cycle import CHACHA, GCM, fa_terms, mn_terms
from tests.protocol.world import VISITED, World
from tests.unit.payloads_by_hand import (
    Asked,
    Verdict,
    ke_a,
    ke_b,
    ke_c,
    proposal,
    sa,
    sized,
    transform,
)
from tests.vectors_loader import octets, vectors

MODE_1, MODE_2, MODE_3 = "80800001", "80800002", "80800003"
STATELESS = proposal(transform(attributes=MODE_1))
STATEFUL = proposal(transform(attributes=MODE_2))
X25519 = ke_a(31, b"\x09" + bytes(31))
MODP_768 = FIXED_GROUPS[1].prime.to_bytes(96, "big")
MODP_2048 = FIXED_GROUPS[14].prime.to_bytes(256, "big")
VALUE_2048 = (4).to_bytes(256, "big")
USER_GROUPS = {
    vector["id"].removeprefix("p-derivation-user-"): vector["in"]
    for vector in vectors("derivation")
    if vector["id"].startswith("p-derivation-user-")
}


def user_group(name: str) -> bytes:
    """A KE-b of the vectors, its computed value 4."""
    given = USER_GROUPS[name]
    prime = octets(given["p"])
    generator = given["g"] if len(given["g"]) % 2 == 0 else "0" + given["g"]
    return ke_b(prime, octets(generator), (4).to_bytes(len(prime), "big"))


MALFORMED = Verdict(134)
REFUSED = Verdict(129, 14)


def chosen(number: int = 1, *transforms: int, ke: int | None = None, pair: int = 1) -> Verdict:
    return Verdict(0, {pair: (number, list(transforms or (1,)), ke)})


HOME = Policy(preferred=())
WITH_NULL = dataclasses.replace(HOME, suites=DEFAULT_POLICY_SUITES | {NULL})
WITH_USER_GROUPS = dataclasses.replace(HOME, user_groups=True)
WITH_RAW_DH = dataclasses.replace(HOME, raw_dh=True)
STATEFUL_ALONE = dataclasses.replace(HOME, modes=frozenset({Mode.STATEFUL}))
SEMISTATEFUL_ALONE = dataclasses.replace(
    HOME, modes=frozenset({Mode.SEMISTATEFUL}), default_mode=Mode.SEMISTATEFUL
)


def mn(*parts: bytes, pair: int = 1, off_by: int = 0, home: Policy = HOME) -> Asked:
    """One SA payload of the mobile node."""
    return Asked((sa(*parts, pair=pair, off_by=off_by),), home=home)


def passed_over(*bad: bytes, protocol: int = 3) -> Asked:
    """Bad transforms before a good one, numbered 9."""
    good = {1: 5, 2: 12, 3: 20}[protocol]
    return mn(proposal(*bad, transform(9, good), protocol=protocol))


def numbered(*numbers: int) -> Asked:
    return mn(*(proposal(number=number) for number in numbers))


def together(*protocols: int, number: int = 1) -> list[bytes]:
    """One proposal number of several protocols."""
    suites = {1: 5, 2: 12, 3: 20, 9: 20}
    return [
        proposal(transform(identifier=suites[protocol]), number=number, count=n, protocol=protocol)
        for n, protocol in enumerate(protocols, 1)
    ]


# --- the table: what is malformed (134, nothing written) ----------------------------------------

MALFORMED_OFFERS: dict[str, Asked] = {
    # Numbers and order (section 6).
    "equal proposal numbers that are not adjacent": numbered(1, 2, 1),
    "decreasing proposal numbers": numbered(2, 1),
    "proposal number 0": numbered(0),
    "proposal number 0 after 1": numbered(1, 0),
    "protocol number 0": mn(proposal(count=0)),
    "protocol number 2 first": mn(proposal(count=2)),
    "protocol number 1 twice": mn(proposal(), proposal(transform(identifier=5), protocol=1)),
    "protocol number 1 then 3": mn(
        proposal(), proposal(transform(identifier=5), protocol=1, count=3)
    ),
    "protocol number goes on in the next proposal": mn(proposal(), proposal(number=2, count=2)),
    "protocol twice in one number": mn(proposal(), proposal(transform(identifier=28), count=2)),
    "protocol of nobody twice in one number": mn(
        proposal(protocol=9), proposal(protocol=9, count=2)
    ),
    "transform number 0": mn(proposal(transform(0))),
    "equal transform numbers": mn(proposal(transform(1), transform(1, 28))),
    "decreasing transform numbers": mn(proposal(transform(2), transform(1, 28))),
    # Limits (4.3).
    "9 proposals": numbered(*range(1, 10)),
    "17 transforms": mn(proposal(*(transform(n) for n in range(1, 18)))),
    "5 KEs of one proposal": mn(STATEFUL, *[X25519] * 5),
    "5 KEs of two proposals": mn(
        STATEFUL, X25519, X25519, X25519, proposal(number=2), X25519, X25519
    ),
    "no transform": mn(proposal(transform_count=0)),
    "no proposal": mn(b""),
    "a transform less than its count": mn(proposal(transform(), transform_count=2)),
    "a transform more than its count": mn(proposal(transform(), transform(2), transform_count=1)),
    "lifetime 0": mn(proposal(lifetime=0)),
    "lifetime 2^32-1": mn(proposal(lifetime=2**32 - 1)),
    "lifetime 0 in the second proposal": mn(proposal(), proposal(number=2, lifetime=0)),
    # KEs (4.3).
    "KE before the first proposal": mn(X25519, STATEFUL),
    "KE alone": mn(X25519),
    "KE sub-type 0": mn(STATEFUL, ke_a(0, bytes(32))),
    **{f"KE sub-type {n}": mn(STATEFUL, ke_a(n, bytes(32))) for n in (243, 244, 254, 255)},
    "KE-a cut in its reserved octets": mn(STATEFUL, sized(4, 31, bytes(3))),
    "KE-b without a value": mn(STATEFUL, sized(4, 241, octets("000105000102"))),
    "KE-b with octets left over": mn(STATEFUL, ke_b(b"\x07", b"\x02", b"\x03", trailing=b"\0")),
    "KE-b whose P runs over": mn(STATEFUL, sized(4, 241, octets("ffff05000102000103"))),
    "KE-c without a whole SPI": mn(STATEFUL, sized(4, 242, bytes(3))),
    # Reserved fields, types.
    "reserved octet of a transform": mn(proposal(transform(reserved=1))),
    **{
        f"reserved octet {n} of a KE-a": mn(
            STATEFUL, ke_a(31, bytes(32), reserved=bytes(int(i == n) for i in range(3)).hex())
        )
        for n in range(3)
    },
    "sub-type of a proposal": mn(proposal(sub_type=1)),
    "sub-type of a transform": mn(proposal(transform(sub_type=1))),
    "type of a transform": mn(proposal(transform(kind=2))),
    "a transform beside the proposals": mn(STATEFUL, transform()),
    "an SA payload within one": mn(STATEFUL, sa(STATEFUL)),
    "type 0 beside the proposals": mn(STATEFUL, sized(0, 0, b"")),
    "type 5 beside the proposals": mn(STATEFUL, sized(5, 0, b"")),
    "pair 0": mn(STATEFUL, pair=0),
    "pair 5": mn(STATEFUL, pair=5),
    "pair 3 from a mobile node": mn(STATEFUL, pair=3),
    "pair 1 twice": Asked((sa(STATEFUL), sa(STATEFUL))),
    # Lengths.
    **{f"SA length {n:+}": mn(STATEFUL, off_by=n) for n in (-1, 1, 4)},
    "SA length below its header": Asked((octets("01010003"),)),
    "an empty SA payload": Asked((octets("01010004"),)),
    "no octets at all": Asked((b"",)),
    **{f"proposal length {n:+}": mn(proposal(off_by=n)) for n in (-8, -1, 1, 8)},
    "proposal length below its header": mn(octets("02000003") + proposal()[4:]),
    **{f"transform length {n:+}": mn(proposal(transform(off_by=n))) for n in (-4, -1, 1, 4)},
    "KE length above": mn(STATEFUL, octets("041f0029") + X25519[4:]),
    "KE length below its header": mn(STATEFUL, octets("041f0003")),
    "attribute cut in its type": mn(proposal(transform(attributes="80"))),
    "attribute of the short form cut": mn(proposal(transform(attributes="808000"))),
    "attribute of the long form cut": mn(proposal(transform(attributes="0006000401"))),
    "octets after the last payload": Asked((sa(STATEFUL) + b"\0",)),
    "octets between payloads": mn(STATEFUL, b"\0"),
    "a second SA payload in one CVSE": Asked((sa(STATEFUL) + sa(STATEFUL, pair=2),)),
    # Clear where it must be (section 3).
    "a sealed SA payload": Asked((octets("0500004010800000") + b"\0\0\x01\0" + bytes(64),)),
}

MALFORMED_ATTRIBUTES_5: dict[str, bytes] = {
    "pair 1": sa(STATEFUL, pair=1),
    "pair 3 twice": sa(STATEFUL, pair=3) * 2,
    "1,025 octets": sa(STATEFUL, ke_a(99, bytes(1025 - 4 - len(STATEFUL) - 8)), pair=3),
    "an octet too many": sa(STATEFUL, pair=3) + b"\0",
    "an octet too few": sa(STATEFUL, pair=3)[:-1],
    "lifetime 0": sa(proposal(lifetime=0), pair=3),
    "KE first": sa(X25519, STATEFUL, pair=3),
    "9 proposals": sa(*(proposal(number=n) for n in range(1, 10)), pair=3),
    "a good one, then a bad one": sa(STATEFUL, pair=3) + sa(proposal(count=2), pair=2),
}

# --- the table: what is not acceptable (129 with Status 14, the SPI spent) -----------------------

REFUSED_OFFERS: dict[str, Asked] = {
    "a protocol of nobody": mn(*together(9)),
    "a protocol of nobody beside a known one": mn(*together(3, 9)),
    "an unknown algorithm": mn(proposal(transform(identifier=99))),
    "an algorithm of another protocol": mn(proposal(transform(identifier=12))),
    "a legacy algorithm under the default policy": mn(
        proposal(transform(identifier=1), protocol=1)
    ),
    "3DES under the default policy": mn(proposal(transform(identifier=3), protocol=2)),
    "NULL under the default policy": mn(
        *together(1),
        proposal(transform(identifier=11, key_count=0), protocol=2, count=2),
    ),
    "NULL alone": mn(proposal(transform(identifier=11, key_count=0), protocol=2), home=WITH_NULL),
    "NULL beside an AEAD": mn(
        *together(3),
        proposal(transform(identifier=11, key_count=0), protocol=2, count=2),
        home=WITH_NULL,
    ),
    "two modes in one combination": mn(
        proposal(transform(identifier=5, attributes=MODE_2), protocol=1),
        proposal(transform(identifier=12, attributes=MODE_3), protocol=2, count=2),
    ),
    "a mode outside the policy": mn(STATEFUL, home=SEMISTATEFUL_ALONE),
    "mode 1 without a KE": mn(STATELESS),
    "mode 1 with a KE of another transform": mn(STATELESS, ke_a(31, bytes(32), number=2)),
    "mode 1 with a KE of another proposal": mn(
        STATELESS, proposal(transform(identifier=99), number=2), X25519
    ),
    "mode 1 with a KE-c": mn(STATELESS, ke_c(70000)),
    "mode 1 with a KE-a 240": mn(STATELESS, ke_a(240, b"")),
    "mode 1 with 31 octets of X25519": mn(STATELESS, ke_a(31, bytes(31))),
    "mode 1 with 33 octets of X25519": mn(STATELESS, ke_a(31, bytes(33))),
    "mode 1 with a legacy group under the default policy": mn(STATELESS, ke_a(1, VALUE_2048[:96])),
    "mode 1 with a group of nobody": mn(STATELESS, ke_a(17, bytes(32))),
    "raw_dh with a Z shorter than the keys": mn(STATELESS, X25519, home=WITH_RAW_DH),
    # User-defined groups (7.3).
    "a user-defined group without its switch": mn(STATELESS, user_group("safe")),
    "768 bits under the default policy": mn(
        STATELESS, ke_b(MODP_768, b"\x02", bytes(95) + b"\x04")
    ),
    "768 bits with user_groups": mn(STATELESS, user_group("modp1"), home=WITH_USER_GROUPS),
    "4,104 bits": mn(
        STATELESS, ke_b(b"\xff" * 513, b"\x02", bytes(512) + b"\x04"), home=WITH_USER_GROUPS
    ),
    "composite P": mn(STATELESS, user_group("composite"), home=WITH_USER_GROUPS),
    "composite (P-1)/2": mn(STATELESS, user_group("p-prime-q-not"), home=WITH_USER_GROUPS),
    "an even P": mn(
        STATELESS, ke_b(MODP_2048[:-1] + b"\xfe", b"\x02", VALUE_2048), home=WITH_USER_GROUPS
    ),
    "a P that begins with a zero octet": mn(
        STATELESS, ke_b(b"\0" + MODP_2048, b"\x02", b"\0" + VALUE_2048), home=WITH_USER_GROUPS
    ),
    "G = 1": mn(STATELESS, user_group("g-1"), home=WITH_USER_GROUPS),
    "G = P-1": mn(STATELESS, user_group("g-p-1"), home=WITH_USER_GROUPS),
    "no G": mn(STATELESS, ke_b(MODP_2048, b"", VALUE_2048), home=WITH_USER_GROUPS),
    "a computed value that is not padded": mn(
        STATELESS, ke_b(MODP_2048, b"\x02", b"\x04"), home=WITH_USER_GROUPS
    ),
    "computed value 1": mn(
        STATELESS, ke_b(MODP_2048, b"\x02", bytes(255) + b"\x01"), home=WITH_USER_GROUPS
    ),
    # Values of the fixed groups, from the vectors.
    **{
        f"{vector['id'].removeprefix('p-derivation-')}": mn(
            STATELESS, ke_a(vector["in"]["group"], octets(vector["in"]["cv"]))
        )
        for vector in vectors("derivation")
        if vector.get("refuse", {}).get("code") == 129 and "cv" in vector["in"]
    },
    # What only the foreign agent can answer.
    "pair 2 that nobody answers": mn(STATEFUL, pair=2),
    "pair 4 that nobody answers": mn(STATEFUL, pair=4),
}

PAIR_2 = sa(
    proposal(transform(1, attributes=MODE_2), transform(2, 28)),
    proposal(transform(1, 5), number=2, protocol=1),
    proposal(transform(1, 12), number=2, count=2, protocol=2),
    pair=2,
)
GOOD_ANSWER = sa(proposal(transform(2, 28)), pair=2)
REFUSED_ANSWERS: dict[str, bytes] = {
    "no answer": b"",
    "an algorithm that was not offered": sa(proposal(transform(2, 20)), pair=2),
    "a transform number that was not offered": sa(proposal(transform(3, 28)), pair=2),
    "an attribute that was not offered": sa(proposal(transform(2, 28, MODE_2)), pair=2),
    "an attribute less than was offered": sa(proposal(transform(1)), pair=2),
    "a key count that was not offered": sa(proposal(transform(2, 28, key_count=2)), pair=2),
    "two transforms": sa(proposal(transform(1, attributes=MODE_2), transform(2, 28)), pair=2),
    "a lifetime above the offered one": sa(proposal(transform(2, 28), lifetime=3601), pair=2),
    "an SPI": sa(proposal(transform(2, 28), spi=4242), pair=2),
    "one protocol of two": sa(proposal(transform(1, 5), number=2, protocol=1), pair=2),
    "a protocol more": sa(
        proposal(transform(2, 28)), proposal(transform(1, 5), count=2, protocol=1), pair=2
    ),
    "two proposals": sa(
        proposal(transform(2, 28)),
        proposal(transform(1, 5), number=2, protocol=1),
        proposal(transform(1, 12), number=2, count=2, protocol=2),
        pair=2,
    ),
    "a KE that was not offered": sa(proposal(transform(2, 28)), ke_c(70000), pair=2),
    "another pair": sa(proposal(transform(2, 28)), pair=4),
}

# --- the table: what is passed over -------------------------------------------------------------

PASSED_OVER: dict[str, tuple[Asked, Verdict]] = {
    # Attributes and Key-Count of a transform (4.3).
    **{
        name: (passed_over(transform(1, attributes=attributes)), chosen(1, 9))
        for name, attributes in {
            "attribute 6 in the long form": "000600020100",
            "attribute 128 in the long form": "008000020002",
            "attribute 128 in an empty long form": "00800000",
            "an unknown attribute": "80050001",
            "an unknown attribute beside a known one": "8080000280050001",
            "an unknown attribute in the long form": "000500020001",
            "attribute 128 twice": MODE_2 + MODE_2,
            "attribute 6 twice": "8006010080060100",
            "key mode 0": "80800000",
            "key mode 4": "80800004",
            "attribute 6 of an AEAD with its salt": "80060120",
            "attribute 6 of 128": "80060080",
            "attribute 6 of 0": "80060000",
        }.items()
    },
    "attribute 6 of HMAC-SHA2-512 as of 256": (
        passed_over(transform(1, 7, "80060100"), protocol=1),
        chosen(1, 9),
    ),
    "Key-Count 0": (passed_over(transform(1, key_count=0)), chosen(1, 9)),
    "Key-Count 2": (passed_over(transform(1, key_count=2)), chosen(1, 9)),
    "Key-Count 1 of NULL": (
        mn(
            *together(1),
            proposal(
                transform(1, 11, key_count=1), transform(2, 11, key_count=0), protocol=2, count=2
            ),
            home=WITH_NULL,
        ),
        chosen(1, 1, 2),
    ),
    "an unknown algorithm": (passed_over(transform(1, 99)), chosen(1, 9)),
    "a mode without the KE that it needs": (
        passed_over(transform(1, attributes=MODE_1)),
        chosen(1, 9),
    ),
    # Proposals.
    "a protocol of nobody": (mn(*together(9), proposal(number=2)), chosen(2)),
    "a protocol of nobody beside known ones": (
        mn(*together(3, 9), proposal(number=2)),
        chosen(2),
    ),
    "NULL alone": (
        mn(
            proposal(transform(identifier=11, key_count=0), protocol=2),
            *together(2, number=2),
            home=WITH_NULL,
        ),
        chosen(2),
    ),
    # KEs.
    **{
        f"KE-a of group {group}": (mn(STATEFUL, ke_a(group, bytes(32))), chosen())
        for group in (3, 4, 13, 17, 18, 20, 30, 32, 100, 239)
    },
    "KE-a of nobody before a good one": (
        mn(STATEFUL, ke_a(3, bytes(32)), X25519),
        chosen(ke=31),
    ),
    "KE-a of another length": (mn(STATEFUL, ke_a(31, bytes(31)), X25519), chosen(ke=31)),
    "KE-a of another transform": (
        mn(STATEFUL, ke_a(31, bytes(32), number=2), ke_a(31, X25519[8:], number=1)),
        chosen(ke=31),
    ),
    "KE-a 240 for pair 1": (mn(STATEFUL, ke_a(240, b"")), chosen()),
    "KE-c with data": (mn(STATEFUL, ke_c(70000, b"x")), chosen()),
    "KE-c of another SPI": (mn(STATEFUL, ke_c(300)), chosen()),
    "KE-b without its switch": (mn(STATEFUL, user_group("safe")), chosen()),
    **{
        f"KE-b of {8 * octets_of_p} bits": (
            mn(
                STATEFUL,
                ke_b(b"\xff" * octets_of_p, b"\x02", bytes(octets_of_p)),
                home=WITH_USER_GROUPS,
            ),
            chosen(),
        )
        for octets_of_p in (255, 513, 1024)
    },
    "KE-b of an empty group": (mn(STATEFUL, ke_b(b"", b"", b""), home=WITH_USER_GROUPS), chosen()),
    "a legacy group": (mn(STATEFUL, ke_a(1, VALUE_2048[:96])), chosen()),
    "a KE for which no mode is named and mode 1 is off": (
        mn(proposal(), X25519, home=STATEFUL_ALONE),
        chosen(),
    ),
    # What is ignored, and what must not be passed over.
    "an SPI in an offer": (mn(proposal(spi=77)), chosen()),
    "proposal numbers with gaps": (numbered(3, 200, 255), chosen(3)),
    "transform numbers with gaps": (mn(proposal(transform(7), transform(255, 28))), chosen(1, 7)),
    "8 proposals, the last alone good": (
        mn(*(proposal(transform(1, 99), number=n) for n in range(1, 8)), proposal(number=8)),
        chosen(8),
    ),
    "16 transforms, the last alone good": (
        mn(proposal(*(transform(n, 99) for n in range(1, 16)), transform(16))),
        chosen(1, 16),
    ),
    "4 KEs, the last alone good": (
        mn(STATEFUL, *[ke_a(3, b"")] * 3, X25519),
        chosen(ke=31),
    ),
    "lifetime 1": (mn(proposal(lifetime=1)), chosen()),
    "lifetime 2^32-2": (mn(proposal(lifetime=2**32 - 2)), chosen()),
    "attribute 6 as it is": (mn(proposal(transform(1, 20, "80060100" + MODE_3))), chosen()),
    "NULL beside authentication": (
        mn(
            *together(1),
            proposal(transform(identifier=11, key_count=0), protocol=2, count=2),
            home=WITH_NULL,
        ),
        chosen(1, 1, 1),
    ),
    "a good user-defined group": (
        mn(STATELESS, user_group("safe"), home=WITH_USER_GROUPS),
        chosen(ke=241),
    ),
    "a group that mode 1 uses without being named": (mn(proposal(), X25519), chosen(ke=31)),
}


def table(rows: Mapping[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "row", rows.values(), ids=[key.replace(" ", "-") for key in rows]
    )


@table(MALFORMED_OFFERS)
def test_134_and_nothing_written(row: Asked) -> None:
    assert row.judge() == MALFORMED


@table(MALFORMED_OFFERS)
def test_the_agent_says_70_itself(row: Asked) -> None:
    world = row.world()
    pending, _ = row.put(world)
    delivery = world.agents[0].on_request(pending.octets, ("link", 1))
    assert isinstance(delivery, Delivery) and delivery.code == 70


@table(MALFORMED_ATTRIBUTES_5)
def test_134_for_attribute_5(row: bytes) -> None:
    assert Asked(attribute_5=row).judge() == MALFORMED


@table(REFUSED_OFFERS)
def test_129_with_status_14_and_the_spi_spent(row: Asked) -> None:
    assert row.judge() == REFUSED


@table(REFUSED_ANSWERS)
def test_129_for_an_answer_that_is_none_of_the_offers(row: bytes) -> None:
    assert Asked((PAIR_2,), row).judge() == REFUSED


@table(PASSED_OVER)
def test_what_is_passed_over_and_what_is_taken_instead(row: tuple[Asked, Verdict]) -> None:
    asked, expected = row
    assert asked.judge() == expected


def test_the_same_answer_is_taken_where_it_is_one_of_the_offers() -> None:
    assert Asked((PAIR_2,), GOOD_ANSWER).judge() == chosen(1, 2, pair=2)
    lower = GOOD_ANSWER.replace((3600).to_bytes(4, "big"), (60).to_bytes(4, "big"))
    assert Asked((PAIR_2,), lower).judge() == chosen(1, 2, pair=2)


@pytest.mark.parametrize("pair", [2, 4])
def test_an_answer_to_nothing_is_refused(pair: int) -> None:
    assert Asked(attribute_5=sa(proposal(), pair=pair)).judge() == REFUSED


def test_pair_3_is_offered_by_the_agent_alone() -> None:
    assert Asked(attribute_5=sa(proposal(), pair=3)).judge() == chosen(pair=3)
    bad = sa(proposal(transform(identifier=99)), pair=3)
    assert Asked(attribute_5=bad).judge() == REFUSED


def test_a_value_of_group_31_that_is_not_the_agents_key_is_132() -> None:
    offer = sa(STATEFUL, X25519, pair=3)
    assert Asked(attribute_5=offer).judge() == Verdict(132)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        # 38 | 0 | length | vendor | type.
        pytest.param("26000006" + "00007ed8" + "0005", 140, id="another-vendor"),
        pytest.param("26000006" + "00007ed9" + "0007", 140, id="type-7"),
        pytest.param("26000006" + "00007ed9" + "000b", 140, id="type-11"),
        pytest.param("26000006" + "00007ed9" + "ffff", 140, id="type-65535"),
        pytest.param("26000006" + "00007ed9" + "0005", 134, id="an-empty-SA-payload"),
        pytest.param("26010006" + "00007ed9" + "0005", 134, id="reserved-octet"),
        pytest.param("26000005" + "00007ed9" + "0005", 134, id="length-below-its-header"),
        pytest.param("2600ffff" + "00007ed9" + "0005", 134, id="length-above-the-message"),
        pytest.param("2100", 134, id="an-MFAE"),
        pytest.param("7f00", 134, id="type-127"),
        pytest.param("0000", 134, id="type-0"),
    ],
)
def test_extensions_of_others(extra: str, code: int) -> None:
    assert Asked(extra=octets(extra)).judge() == Verdict(code)


def test_an_unknown_type_from_128_on_is_skipped() -> None:
    assert Asked((sa(STATEFUL),), extra=octets("8000" + "c803aabbcc")).judge() == chosen()


def test_three_refusals_end_in_an_access_reject() -> None:
    world = REFUSED_OFFERS["mode 1 without a KE"].world()
    seen: list[object] = []
    for _ in range(3):
        world.now += 1
        _, access = REFUSED_OFFERS["mode 1 without a KE"].put(world)
        response = world.home.handle(access, VISITED, world.now).response
        seen.append(response if isinstance(response, AccessReject) else type(response))
    assert seen == [AccessChallenge, AccessChallenge, AccessReject(129)]


@pytest.mark.parametrize("bits", [4104, 8192, 8800])
def test_an_oversized_group_costs_nothing(bits: int) -> None:
    prime = b"\xff" * (bits // 8)
    asked = mn(
        STATELESS, ke_b(prime, b"\x02", bytes(len(prime) - 1) + b"\x04"), home=WITH_USER_GROUPS
    )
    world = asked.world()
    _, access = asked.put(world)
    started = time.perf_counter()
    response = world.home.handle(access, VISITED, world.now).response
    assert time.perf_counter() - started < 0.05
    assert isinstance(response, AccessChallenge) and world.home.exponentiations == 0


def test_a_message_above_3072_octets_is_malformed() -> None:
    value = bytes(3072 - 600)
    assert mn(STATEFUL, ke_b(value[:1024], b"\x02", value[:1024])).judge() == chosen()
    assert mn(STATEFUL, ke_b(value, b"\x02", value[:400])).judge() == MALFORMED


# --- the initiator's side -----------------------------------------------------------------------


def test_a_node_does_not_take_a_counter_proposal_of_a_suite_once_rejected() -> None:
    """Home proposes what the node has offered before: the node goes on with what is left."""
    world = World(
        mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_HA,), preferred=((GCM,), (CHACHA,)))
    )
    (offer,) = world.offers()
    first = PreparedOffer(sa(proposal()), decode_sa_payload(sa(proposal())))
    counter = decode_sa_payload(sa(proposal(number=2), proposal(transform(1, 28), number=3)))
    world.negotiation = world.negotiation.refused((first,), {Pair.MN_HA: counter})
    (offer,) = world.offers()
    # Of the counter-proposal only what was not rejected stays, under its number, in our own mode.
    assert offer.octets == sa(proposal(transform(1, 28, "80800002"), number=3))
    world.negotiation = world.negotiation.refused((offer,), {Pair.MN_HA: counter})
    assert not world.negotiation.can_offer(world.mn_terms)


def test_a_node_refuses_an_answer_that_was_not_offered() -> None:
    """A home that answers another offer than the node's: the node installs nothing."""
    world = World(mn_terms=mn_terms(OfferPlan(Mode.STATEFUL), (Pair.MN_HA,)))
    pending, access = mn(proposal(transform(1, 28))).put(world)
    response = world.home.handle(access, VISITED, world.now).response
    assert isinstance(response, AccessAccept)
    (mine,) = world.offers()
    agent = world.agents[0]
    relayed = agent.on_request(pending.octets, ("link", 1))
    assert isinstance(relayed, Relayed)
    delivery = agent.on_response(relayed, response)
    assert delivery.code == 0
    before = world.node
    with pytest.raises(RemoteError):
        world.accept(dataclasses.replace(pending, offers=(mine,)), delivery.octets)
    assert world.node == before


def test_an_agent_passes_over_what_it_cannot_take_and_answers_the_rest() -> None:
    world = World(fa_terms=fa_terms(None))
    cases: list[tuple[bytes, Callable[[bytes], bool]]] = [
        (sa(proposal(*(transform(1, 99),)), pair=2), lambda answer: answer == b""),
        (sa(STATELESS, pair=2), lambda answer: answer == b""),
        (sa(STATELESS, ke_a(14, VALUE_2048), pair=2), lambda answer: answer == b""),
        (sa(STATELESS, ke_a(31, bytes(32)), pair=2), lambda answer: answer == b""),
        (sa(proposal(), pair=2), lambda answer: answer == sa(proposal(), pair=2)),
    ]
    for number, (offer, expected) in enumerate(cases):
        pending, _ = Asked((offer,)).put(world)
        relayed = world.agents[0].on_request(pending.octets, ("link", number))
        assert isinstance(relayed, Relayed)
        assert expected(relayed.access.fa_sa_payload), number
