"""The octets between a home agent and its KDC: one message of each kind written out, and bad ones.

A head of version 1, message, 0 0; then CVSEs: 26 00, length, vendor 00007ed9, Vendor-Type, value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from kdc.errors import LocalError, Malformed, UnknownVendor
from kdc.model import (
    ExchangeKeys,
    HomeAddressKind,
    Identification,
    Mode,
    Nai,
    Pair,
    Secret,
    Suite,
)
from kdc.records import (
    Admission,
    Carrier,
    Denied,
    Fate,
    Issued,
    IssuedAssociation,
    Record,
    Settled,
    Terms,
    Ticket,
    WrappingKey,
)
from kdc.wire.keydist import (
    AdmitRequest,
    DenyRequest,
    GrantRequest,
    KeyReply,
    KeyRequest,
    NotAdmitted,
    RepeatRequest,
    decode_key_reply_message,
    decode_key_request_message,
    encode_key_reply_message,
    encode_key_request_message,
)
from kdc.wire.keydist_items import Judged, Refusal, State

VENDOR_ID = 32473  # 7ed9
TICKET = Ticket(
    admitted_at=1_800_000_000_250_000,
    identification=b"\xf0\x00\x00\x01\xaa\xbb\xcc\xdd",
    request_digest=b"\xd1" * 32,
    mac=b"\xd2" * 32,
)
STATE = State(spi=0x00011170, revision=7, ticket=TICKET)
IDENTIFICATION = Identification(0x1F0000001, 0xAABBCCDD)  # past 2036: more than 32 bits
K = [bytes([n]) * length for n, length in ((0xA1, 64), (0xA2, 64), (0xA3, 32), (0xA4, 32))]
W, WRAPPED = b"\xaa" * 64, b"\xbb" * 116
GCM, HMAC, CBC = Suite(3, 20), Suite(1, 5), Suite(2, 12)


def h(*parts: str) -> bytes:
    """Octets from hex, each part one field."""
    return bytes.fromhex("".join(parts))


def cvse(vendor_type: int, *fields: str) -> str:
    """38 | 0 | length(2) | vendor(4) | type(2) | value, as hex."""
    value = "".join(fields)
    return f"2600{6 + len(value) // 2:04x}00007ed9{vendor_type:04x}{value}"


def clear(vendor_type: int, content_type: int, info: str) -> str:
    """A CVSE with an extension of 4.1, E=0."""
    head = f"{vendor_type:02x}00{len(info) // 2:04x}{content_type:02x}00000000000000"
    return cvse(vendor_type, head, info)


ALICE = b"alice@home.example".hex()
FA1 = b"fa1@visited.example".hex()
HA1 = b"ha1@home.example".hex()

# Ticket: microseconds(8), Identification(8), SHA-256 of the request, MAC.
TICKET_FIELDS = ("00066517289c5090", "f0000001aabbccdd", "d1" * 32, "d2" * 32)
TICKET_ITEM = cvse(49, *TICKET_FIELDS)
STATE_ITEM = cvse(33, "00011170", "0000000000000007", *TICKET_FIELDS)  # SPI, revision, ticket

REQUESTS: dict[str, tuple[KeyRequest, bytes]] = {
    "admit": (
        AdmitRequest(b"\x01registration"),
        h("01010000", cvse(32, "01" + b"registration".hex())),
    ),
    "grant": (
        GrantRequest(
            state=STATE,
            judged=Judged(IDENTIFICATION, 600, IPv4Address("198.51.100.7"), b"\xdd" * 32),
            fa_nai=Nai.parse("fa1@visited.example"),
            nas_address=IPv4Address("198.51.100.7"),
            home_agent_nai=Nai.parse("ha1@home.example"),
            realm="home.example",
            operator_realm="visited.example",
            fa_public_key=b"\x00\x20" + b"\x00\x00\x10\x01" + b"\xcc" * 32,
            terms=(
                Terms(
                    Pair.MN_HA,
                    Mode.STATELESS,
                    3,
                    (GCM,),
                    600,
                    offered=b"\x01\x01",
                    answered=b"\x01\x02\x03",
                    z=Secret(b"\xee" * 32),
                ),
                Terms(Pair.MN_FA, Mode.STATEFUL, 0, (HMAC, CBC), 300, carrier=Carrier.KE_C),
            ),
        ),
        h(
            "01020000",
            STATE_ITEM,
            # Judged: second(8), low(4), lifetime(2), care-of(4), SHA-256 of the request.
            cvse(36, "00000001f0000001", "aabbccdd", "0258", "c6336407", "dd" * 32),
            clear(1, 1, FA1),
            clear(2, 1, "c6336407"),  # NAS address
            clear(1, 2, HA1),
            cvse(40, b"home.example".hex()),  # realm
            cvse(39, b"visited.example".hex()),  # operator
            cvse(38, "0020", "00001001", "cc" * 32),  # attribute 3
            # Terms: pair, mode, derivation, carrier, suite count, lifetime(4); suites; offered and
            # answered, each behind its length(2); Z behind a flag and its length(2).
            cvse(
                37,
                "01",
                "01",
                "03",
                "00",
                "01",
                "00000258",
                "0314",
                "00020101",
                "0003010203",
                "01",
                "0020",
                "ee" * 32,
            ),
            cvse(
                37, "02", "02", "00", "01", "02", "0000012c", "0105", "020c", "0000", "0000", "00"
            ),
        ),
    ),
    "deny": (
        DenyRequest(
            STATE,
            Refusal(
                Denied(129, True, 1_800_000_000, b"\x01\x01\x00\x04", pair=Pair.FA_HA),
                b"\xdd" * 32,
                IDENTIFICATION,
                2,
            ),
        ),
        h(
            "01030000",
            STATE_ITEM,
            # Code, challenge, the home's second(8), rounds; digest behind a flag and its length;
            # last seen behind a flag; State behind its length; counter-proposal behind its length;
            # the pair that failed behind a flag.
            cvse(
                41,
                "81",
                "01",
                "000000006b49d200",
                "02",
                "01",
                "20",
                "dd" * 32,
                "01",
                "00000001f0000001",
                "aabbccdd",
                "00",
                "0004",
                "01010004",
                "0103",
            ),
        ),
    ),
    "deny-before-step-6": (
        DenyRequest(STATE, Refusal(Denied(132, False), None, None, 0)),
        h(
            "01030000",
            STATE_ITEM,
            cvse(41, "84", "00", "0000000000000000", "00", "00", "00", "00", "0000", "00"),
        ),
    ),
    "repeat": (
        RepeatRequest(STATE, "visited.example"),
        h("01040000", STATE_ITEM, cvse(48, b"visited.example".hex())),
    ),
}

RECORD = Record(
    record_id=5,
    nai=Nai.parse("alice@home.example"),
    active=True,
    expires_at=1_800_000_000.5,
    static_spi=False,
    home_agent=IPv4Address("192.0.2.1"),
    home_address_kind=HomeAddressKind.STATIC,
    home_address=IPv4Address("10.1.2.3"),
    roam=frozenset({"visited.example", "a.example"}),
    unspent=(0x11170, 0x11171),
    last_spent=0x1116F,
    last_seen=IDENTIFICATION,
    rounds=1,
    accepted_at=(1_799_999_990, 1_799_999_995, 1_799_999_995),
    last_digest=b"\xdd" * 32,
    current_fa=Nai.parse("fa1@visited.example"),
    current_home_address=IPv4Address("10.1.2.3"),
    registered_until=1_800_000_600.0,
    revision=7,
)
BARE_RECORD = Record(
    record_id=5,
    nai=Nai.parse("alice@home.example"),
    active=False,
    expires_at=None,
    static_spi=True,
    home_agent=IPv4Address("192.0.2.1"),
    home_address_kind=HomeAddressKind.HIDDEN,
    home_address=None,
    roam=None,
    unspent=(),
    last_spent=None,
    last_seen=None,
    rounds=0,
    accepted_at=(),
    last_digest=None,
    current_fa=None,
    current_home_address=None,
    registered_until=None,
    revision=0,
)
KEYS = ExchangeKeys(*map(Secret, K))
# Exchange keys: the database's clock in microseconds(8), then K(use, SPI) for uses 1 to 4.
KEYS_ITEM = cvse(35, "0006651728988000", *(key.hex() for key in K))
NAME = b"\x01\x02\x03\x04\x05\x06\x07\x08"

REPLIES: dict[str, tuple[KeyReply, bytes]] = {
    "admitted": (
        Admission(RECORD, KEYS, 1_800_000_000.0, ticket=TICKET),
        h(
            "01110000",
            clear(1, 0, ALICE),
            clear(1, 1, FA1),  # where it is registered
            # Record: id(8), revision(8), kind of home address, static SPI, rounds, active,
            # home agent(4); then what may be missing behind a flag, lists behind their count.
            cvse(
                34,
                "0000000000000005",
                "0000000000000007",
                "01",
                "00",
                "01",
                "01",
                "c0000201",
                "01",
                "0006651728a02120",  # expires
                "01",
                "0a010203",  # home address
                "01",
                "02",
                "09" + b"a.example".hex(),
                "0f" + b"visited.example".hex(),  # roam
                "02",
                "00011170",
                "00011171",  # unspent
                "01",
                "0001116f",  # spent last
                "01",
                "00000001f0000001",
                "aabbccdd",  # seen last
                "02",
                "000000006b49d1f60001",
                "000000006b49d1fb0002",  # accepted at, and how often in that second
                "01",
                "20",
                "dd" * 32,  # digest
                "01",
                "0a010203",  # current home address
                "01",
                "000665174c5bc600",  # registered until
            ),
            KEYS_ITEM,
            TICKET_ITEM,
        ),
    ),
    "admitted-bare": (
        Admission(BARE_RECORD, KEYS, 1_800_000_000.0, ticket=TICKET),
        h(
            "01110000",
            clear(1, 0, ALICE),
            cvse(
                34,
                "0000000000000005",
                "0000000000000000",
                "00",
                "01",
                "00",
                "00",
                "c0000201",
                "00",
                "00",
                "00",
                "00",
                "00",
                "00",
                "00",
                "00",
                "00",
                "00",
            ),
            KEYS_ITEM,
            TICKET_ITEM,
        ),
    ),
    "not-admitted": (NotAdmitted(), h("01120000")),
    "settled": (
        Settled(
            Issued(
                alias=b"\x11" * 8,
                class_id=b"\x22" * 8,
                lifetime_s=600,
                home_address=IPv4Address("10.1.2.3"),
                associations=(
                    IssuedAssociation(
                        Pair.MN_HA,
                        0x20000001,
                        NAME,
                        600,
                        Mode.STATEFUL,
                        0,
                        (GCM,),
                        Secret(b"\xe1" * 36),
                        answered=b"\x01\x01",
                        keys=Secret(b"\xe1" * 36),
                    ),
                    IssuedAssociation(
                        Pair.MN_FA,
                        0x20000002,
                        NAME,
                        300,
                        Mode.SEMISTATEFUL,
                        2,
                        (HMAC, CBC),
                        Secret(b"\xe2" * 32),
                        carrier=Carrier.KE_C,
                    ),
                ),
                wrapping_key=WrappingKey(Secret(W), WRAPPED),
                seed=None,
            ),
            (0x11171, 0x11172),
            b"0123abcd",
        ),
        h(
            "01130000",
            cvse(42, "02", "00011171", "00011172"),  # the list of SPIs
            cvse(43, b"0123abcd".hex()),  # Chargeable-User-Identity
            # Issued: alias(8), class(8), lifetime(2), home address(4).
            cvse(44, "11" * 8, "22" * 8, "0258", "0a010203"),
            cvse(45, W.hex(), WRAPPED.hex()),
            # SA-INFO of 4.2, then what stands beside it: pair, carrier, keys behind a flag and
            # their length(2), the answered payload.
            clear(4, 2, "2000000100000258" + NAME.hex() + "0200010003140024" + "e1" * 36),
            cvse(46, "01", "00", "01", "0024", "e1" * 36, "0101"),
            clear(
                4,
                0,
                "200000020000012c" + NAME.hex() + "030202000105020c0020" + "e2" * 32,
            ),
            cvse(46, "02", "01", "00"),
        ),
    ),
    "settled-deregistration": (
        Settled(
            Issued(b"\x11" * 8, b"\x22" * 8, 0, IPv4Address(0), (), None, None), (0x11171,), b"x"
        ),
        h(
            "01130000",
            cvse(42, "01", "00011171"),
            cvse(43, "78"),
            cvse(44, "11" * 8, "22" * 8, "0000", "00000000"),
        ),
    ),
    "settled-denial": (
        Settled(Denied(133, True, at=1_800_000_000, state=b"\x33" * 8), (0x11171,)),
        h(
            "01130000",
            cvse(42, "01", "00011171"),
            cvse(
                41, "85", "01", "000000006b49d200", "00", "00", "00", "08", "33" * 8, "0000", "00"
            ),
        ),
    ),
    "conflict": (Fate.CONFLICT, h("01140000", cvse(47, "00"))),
    "unavailable": (Fate.UNAVAILABLE, h("01140000", cvse(47, "01"))),
    "refused": (Fate.REFUSED, h("01140000", cvse(47, "02"))),
    "unknown": (Fate.UNKNOWN, h("01140000", cvse(47, "03"))),
}

by_request = pytest.mark.parametrize(("value", "golden"), REQUESTS.values(), ids=REQUESTS)
by_reply = pytest.mark.parametrize(("value", "golden"), REPLIES.values(), ids=REPLIES)
Decode = Callable[[bytes, int], object]
EVERYTHING: list[tuple[Decode, bytes]] = [
    *((decode_key_request_message, golden) for _, golden in REQUESTS.values()),
    *((decode_key_reply_message, golden) for _, golden in REPLIES.values()),
]
everything = pytest.mark.parametrize(("decode", "golden"), EVERYTHING, ids=[*REQUESTS, *REPLIES])


@by_request
def test_a_request_as_octets_and_back(value: KeyRequest, golden: bytes) -> None:
    assert encode_key_request_message(value, VENDOR_ID).hex() == golden.hex()
    assert decode_key_request_message(golden, VENDOR_ID) == value


@by_reply
def test_a_reply_as_octets_and_back(value: KeyReply, golden: bytes) -> None:
    assert encode_key_reply_message(value, VENDOR_ID).hex() == golden.hex()
    assert decode_key_reply_message(golden, VENDOR_ID) == value


def test_what_never_leaves_the_kdc() -> None:
    """An admission without a record says nothing; R and the stored outcome have no item."""
    assert encode_key_reply_message(Admission(None, KEYS, 1.0), VENDOR_ID) == h("01120000")
    with_outcome = Admission(RECORD, KEYS, 1_800_000_000.0, Secret(b"\xf0" * 40), TICKET)
    assert encode_key_reply_message(with_outcome, VENDOR_ID) == REPLIES["admitted"][1]
    settled, golden = REPLIES["settled"]
    assert isinstance(settled, Settled) and isinstance(settled.outcome, Issued)
    issued = settled.outcome
    with_seed = Issued(
        issued.alias,
        issued.class_id,
        issued.lifetime_s,
        issued.home_address,
        issued.associations,
        issued.wrapping_key,
        Secret(b"\xf1" * 32),
    )
    again = Settled(with_seed, settled.unspent, settled.chargeable_user_identity)
    assert encode_key_reply_message(again, VENDOR_ID) == golden


# --- malformed ----------------------------------------------------------------------------------


@everything
def test_no_message_is_cut_short(decode: Decode, golden: bytes) -> None:
    """At every octet; a cut that ends an item leaves one missing, unless it may be missing."""
    taken = []
    for end in range(len(golden)):
        try:
            taken.append(decode(golden[:end], VENDOR_ID))
        except Malformed:
            continue
    # In a grant operator, attribute 3 and both terms may be missing; they stand last.
    assert len(taken) <= 4 and decode(golden, VENDOR_ID) not in taken


@everything
def test_octets_left_over(decode: Decode, golden: bytes) -> None:
    for tail in (b"\0", b"\x26", golden[:1]):
        with pytest.raises(Malformed):
            decode(golden + tail, VENDOR_ID)


@everything
@pytest.mark.parametrize(
    ("position", "octet"),
    [(0, 0), (0, 2), (0, 255), (1, 0), (1, 5), (1, 21), (1, 255), (2, 1), (3, 1)],
)
def test_another_head(decode: Decode, golden: bytes, position: int, octet: int) -> None:
    changed = bytearray(golden)
    changed[position] = octet
    with pytest.raises(Malformed):
        decode(bytes(changed), VENDOR_ID)


@everything
def test_a_request_is_no_reply_and_the_other_way_round(decode: Decode, golden: bytes) -> None:
    other: Decode = (
        decode_key_reply_message
        if decode is decode_key_request_message
        else decode_key_request_message
    )
    with pytest.raises(Malformed):
        other(golden, VENDOR_ID)


def split(message: bytes) -> list[bytes]:
    """The CVSEs of a message."""
    rest, parts = message[4:], []
    while rest:
        length = 4 + int.from_bytes(rest[2:4], "big")
        parts.append(rest[:length])
        rest = rest[length:]
    return parts


TERMS = b"\x00\x25"  # Vendor-Type 37: there may be several


@everything
def test_an_item_or_extension_twice(decode: Decode, golden: bytes) -> None:
    for part in split(golden):
        if part[8:10] == TERMS:
            continue
        with pytest.raises(Malformed):
            decode(golden + part, VENDOR_ID)


@everything
def test_items_that_have_no_place(decode: Decode, golden: bytes) -> None:
    present = {part[8:10] for part in split(golden)}
    items = {int.from_bytes(part[8:10], "big"): part for _, g in EVERYTHING for part in split(g)}
    strange = {kind: part for kind, part in items.items() if part[8:10] not in present}
    optional = {
        decode_key_request_message: {TERMS, b"\x00\x26", b"\x00\x27"},  # and attribute 3, operator
        decode_key_reply_message: {b"\x00\x2d"},  # W
    }[decode]  # type: ignore[index]
    tried = 0
    for part in strange.values():
        if part[8:10] not in optional:
            tried += 1
            with pytest.raises(Malformed):
                decode(golden + part, VENDOR_ID)
    assert tried > 5


@everything
@pytest.mark.parametrize("vendor_type", [0, 7, 8, 11, 13, 31, 50, 255, 65535])
def test_an_unknown_item(decode: Decode, golden: bytes, vendor_type: int) -> None:
    with pytest.raises((Malformed, UnknownVendor)):
        decode(golden + h(cvse(vendor_type, "00")), VENDOR_ID)


@everything
def test_another_vendor(decode: Decode, golden: bytes) -> None:
    if len(golden) > 4:
        with pytest.raises(UnknownVendor):
            decode(golden, 32474)
    with pytest.raises(UnknownVendor):
        decode(golden + bytes.fromhex("26000006" + "00007eda" + "0021"), VENDOR_ID)


@pytest.mark.parametrize("type_", [0, 32, 33, 39, 131, 134])
@everything
def test_nothing_but_cvses(decode: Decode, golden: bytes, type_: int) -> None:
    with pytest.raises(Malformed):
        decode(golden + bytes((type_,)) + h(STATE_ITEM)[1:], VENDOR_ID)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (decode_key_request_message, REQUESTS["grant"][1]),
        (decode_key_reply_message, REPLIES["admitted"][1]),
    ],
)
def test_a_sealed_extension(decode: Decode, message: bytes) -> None:
    sealed = "010000500180000000000100"  # NAI of an FA, E=1, SPI 256
    sealed += (b"a" * 64 + b"@visited.example").hex()  # read in the clear it would be a name
    without = b"".join(part for part in split(message) if part[8:10] + part[14:15] != b"\0\1\1")
    with pytest.raises(Malformed):
        decode(message[:4] + without + h(cvse(1, sealed)), VENDOR_ID)


def replaced(message: bytes, vendor_type: int, old: str, new: str) -> bytes:
    """One item's value changed, its length filled in anew."""
    parts = []
    for part in split(message):
        if int.from_bytes(part[8:10], "big") == vendor_type and h(old) in part[10:]:
            part = h(cvse(vendor_type, part[10:].replace(h(old), h(new), 1).hex()))  # noqa: PLW2901
        parts.append(part)
    changed = message[:4] + b"".join(parts)
    assert changed != message
    return changed


@pytest.mark.parametrize(
    ("name", "vendor_type", "old", "new"),
    [
        pytest.param("grant", 37, "0101030001", "0501030001", id="pair-5"),
        pytest.param("grant", 37, "0101030001", "0001030001", id="pair-0"),
        pytest.param("grant", 37, "0101030001", "0104030001", id="mode-4"),
        pytest.param("grant", 37, "0101030001", "0101030301", id="carrier-3"),
        pytest.param("grant", 37, "0101030001", "01010300ff", id="255-suites"),
        pytest.param("grant", 37, "010020eeee", "020020eeee", id="flag-2"),
        pytest.param("grant", 37, "010020eeee", "010021eeee", id="z-runs-over"),
        pytest.param("grant", 37, "010020eeee", "01001feeee", id="z-too-short"),
        pytest.param("grant", 36, "dddd", "dd", id="digest-of-31"),
        pytest.param("grant", 36, "dddd", "dddddd", id="digest-of-33"),
        pytest.param("grant", 33, "00011170", "011170", id="state-of-91"),
        pytest.param("grant", 33, "d2d2", "d2", id="ticket-of-79"),
        pytest.param("grant", 33, "d2d2", "d2d2d2", id="ticket-of-81"),
        pytest.param("grant", 40, b"home.".hex(), "ff686f6d65", id="realm-not-ascii"),
        pytest.param("grant", 39, b"visited".hex(), "c3bc", id="operator-not-ascii"),
        pytest.param("deny", 41, "0120dddd", "0121dddd", id="digest-runs-over"),
        pytest.param("deny", 41, "000401010004", "000501010004", id="counter-runs-over"),
        pytest.param("deny", 41, "000401010004", "000301010004", id="counter-too-short"),
        pytest.param("deny", 41, "8101", "8102", id="challenge-2"),
    ],
)
def test_a_request_with_a_bad_item(name: str, vendor_type: int, old: str, new: str) -> None:
    with pytest.raises(Malformed):
        decode_key_request_message(replaced(REQUESTS[name][1], vendor_type, old, new), VENDOR_ID)


@pytest.mark.parametrize(
    ("name", "vendor_type", "old", "new"),
    [
        pytest.param("admitted", 34, "01000101c000", "03000101c000", id="kind-3"),
        pytest.param("admitted", 34, "01000101c000", "01020101c000", id="static-2"),
        pytest.param("admitted", 34, "01000101c000", "01000102c000", id="active-2"),
        pytest.param("admitted", 34, "0200011170", "0300011170", id="3-unspent"),
        pytest.param("admitted", 34, "0120dddd", "0220dddd", id="flag-2"),
        pytest.param("admitted", 34, "09612e", "0961ff", id="realm-not-ascii"),
        pytest.param("admitted", 35, "a4a4", "a4", id="key-of-31"),
        pytest.param("admitted", 35, "a4a4", "a4a4a4", id="key-of-33"),
        pytest.param("admitted", 49, "d2d2", "d2", id="ticket-of-79"),
        pytest.param("admitted", 49, "d2d2", "d2d2d2", id="ticket-of-81"),
        pytest.param("settled", 42, "0200011171", "0300011171", id="3-spis"),
        pytest.param("settled", 44, "0258", "02", id="issued-of-21"),
        pytest.param("settled", 46, "0100010024", "0900010024", id="answered-pair-9"),
        pytest.param("settled", 46, "0100010024", "0200010024", id="answered-pair-of-another"),
        pytest.param("settled", 46, "0100010024", "0103010024", id="answered-carrier-3"),
        pytest.param("settled", 46, "0100010024", "0100020024", id="answered-flag-2"),
        pytest.param("settled", 46, "0100010024", "010001ffff", id="keys-run-over"),
        pytest.param("settled", 4, "20000001", "000000ff", id="spi-255"),
        pytest.param("settled", 4, "02000100", "02010100", id="mode-2-derivation-1"),
        pytest.param("settled-denial", 41, "0833333333", "ff33333333", id="state-runs-over"),
        pytest.param("conflict", 47, "00", "04", id="fate-4"),
        pytest.param("conflict", 47, "00", "0000", id="fate-of-2"),
        pytest.param("conflict", 47, "00", "", id="fate-of-0"),
    ],
)
def test_a_reply_with_a_bad_item(name: str, vendor_type: int, old: str, new: str) -> None:
    with pytest.raises(Malformed):
        decode_key_reply_message(replaced(REPLIES[name][1], vendor_type, old, new), VENDOR_ID)


def test_an_association_without_its_info_and_an_info_alone() -> None:
    golden = REPLIES["settled"][1]
    parts = split(golden)
    for left_out in range(4, 8):
        kept = [part for index, part in enumerate(parts) if index != left_out]
        with pytest.raises(Malformed):
            decode_key_reply_message(golden[:4] + b"".join(kept), VENDOR_ID)


def test_an_empty_message() -> None:
    for decode in (decode_key_request_message, decode_key_reply_message):
        for message in (b"", b"\x01", b"\x01\x01\x00"):
            with pytest.raises(Malformed):
                decode(message, VENDOR_ID)


def test_an_empty_item_twice() -> None:
    """Of an item without octets nothing would be left over."""
    once = h("01130000", cvse(42, "00"), cvse(43), cvse(44, "11" * 8, "22" * 8, "0000", "00000000"))
    assert isinstance(decode_key_reply_message(once, VENDOR_ID), Settled)
    with pytest.raises(Malformed):
        decode_key_reply_message(once + h(cvse(43)), VENDOR_ID)


def test_a_record_with_thousands_of_registrations_a_minute_fits_a_packet() -> None:
    times = tuple(1_800_000_000 + n // 160 for n in range(10_000))
    admission = Admission(dataclasses.replace(RECORD, accepted_at=times), KEYS, 1_800_000_000.0)
    octets = encode_key_reply_message(admission, VENDOR_ID)
    assert len(octets) < 2000
    assert decode_key_reply_message(octets, VENDOR_ID) == admission


def test_a_list_beyond_its_count_is_our_own_fault() -> None:
    realms = frozenset(f"{n}.example" for n in range(256))
    admission = Admission(dataclasses.replace(RECORD, roam=realms), KEYS, 1_800_000_000.0)
    with pytest.raises(LocalError):
        encode_key_reply_message(admission, VENDOR_ID)
