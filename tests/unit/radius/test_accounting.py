"""Accounting-Requests octet by octet, as RFC 2866 and RFC 2869 draw them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaa.radius.accounting import (
    AccountingRequest,
    decode_accounting_request,
    encode_accounting_request,
)
from aaa.radius.dictionary import describe
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import (
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    Attributes,
    VerifiedRequest,
    decode,
    encode_request,
    verify_request,
)
from kdc.accounting import AccountingStatus
from kdc.errors import LocalError
from kdc.model import Secret

VENDOR = 32473
SECRET = Secret(b"a secret of sixteen octets")
# RFC 2866 §5.1 (40), §5.5 (44), §5.7 (46), §5.10 (49); RFC 2869 §5.1 to §5.3 (52, 53, 55);
# PROTOCOL section 9: 26 | vendor 32473 = 7ed9 | 6, length 6 | SPI.
STOP_OCTETS = bytes.fromhex(
    "280600000002"  # Acct-Status-Type = Stop
    "2c0473 31"  # Acct-Session-Id = "s1"
    "010a6d2d3140682e6578"  # User-Name = "m-1@h.ex"
    "2005666131"  # NAS-Identifier = "fa1"
    "0406c6336407"  # NAS-IP-Address = 198.51.100.7
    "1904ab00"  # Class
    "7e06 31762e78"  # Operator-Name = "1v.x"
    "370667000000"  # Event-Timestamp = 0x67000000
    "29060000000a"  # Acct-Delay-Time = 10
    "2e0600000e10"  # Acct-Session-Time = 3600
    "2a06ffffffff340600000002"  # Acct-Input-Octets and -Gigawords
    "2b0600000007"  # Acct-Output-Octets
    "2f0600000001300600000002"  # packets
    "310600000006"  # Acct-Terminate-Cause = Admin Reset
    "1a0c00007ed906060001e240"  # Roamkey-SPI = 123456
    "1a0c00007ed9060600000100"  # Roamkey-SPI = 256
    "1a0c00007ed909066140762e"  # Roamkey-FA-NAI = "a@v."
)
STOP = AccountingRequest(
    status=AccountingStatus.STOP,
    session_id=b"s1",
    nas_identifier=b"fa1",
    nas_address=IPv4Address("198.51.100.7"),
    user_name=b"m-1@h.ex",
    classes=(b"\xab\x00",),
    spis=(123456, 256),
    fa_nai=b"a@v.",
    operator_name=b"1v.x",
    event_timestamp=0x67000000,
    delay_time_s=10,
    session_time_s=3600,
    input_octets=0x2FFFFFFFF,
    output_octets=7,
    input_packets=1,
    output_packets=2,
    terminate_cause=6,
)
MINIMUM = ((40, b"\x00\x00\x00\x01"), (44, b"x"), (32, b"nas"))


def _packet(body: bytes) -> VerifiedRequest:
    head = bytes((ACCOUNTING_REQUEST, 1)) + (20 + len(body)).to_bytes(2, "big")
    packet = decode(head + bytes(16) + body)
    return _request(packet.attributes)


def _request(attributes: Attributes, code: int = ACCOUNTING_REQUEST) -> VerifiedRequest:
    return VerifiedRequest(code, 1, bytes(16), attributes, b"", 0)


def test_a_stop_as_its_octets_say() -> None:
    assert decode_accounting_request(_packet(STOP_OCTETS), VENDOR) == STOP


def test_people_read_it_by_name() -> None:
    head = bytes((ACCOUNTING_REQUEST, 1)) + (20 + len(STOP_OCTETS)).to_bytes(2, "big")
    described = describe(decode(head + bytes(16) + STOP_OCTETS))
    for expected in (
        ("Acct-Status-Type", "Stop"),
        ("Acct-Session-Id", "s1"),
        ("Acct-Session-Time", "3600"),
        ("Acct-Input-Gigawords", "2"),
        ("Event-Timestamp", str(0x67000000)),
        ("Roamkey-SPI", "123456"),
        ("Roamkey-SPI", "256"),
    ):
        assert expected in described, described


def test_what_is_sent_verifies_and_holds_the_same_attributes() -> None:
    attributes = encode_accounting_request(STOP, VENDOR)
    octets = encode_request(ACCOUNTING_REQUEST, 7, bytes(16), attributes, SECRET)
    request = verify_request(decode(octets), SECRET)
    without_signature = sorted(item for item in request.attributes if item[0] != 80)
    assert without_signature == sorted(_packet(STOP_OCTETS).attributes)


def test_what_a_network_access_server_of_others_sends() -> None:
    """As FreeRADIUS's radclient and hostapd do: no Roamkey attribute, several Classes, others."""
    foreign = (
        *MINIMUM,
        (4, bytes((192, 0, 2, 1))),
        (95, IPv6Address("2001:db8::1").packed),
        (5, b"\x00\x00\x00\x07"),  # NAS-Port
        (1, b"no address of the form of a NAI"),
        (25, b"one"),
        (25, b"two"),
        (26, b"\x00\x00\x00\x09\x01\x05abc"),  # another vendor's
        (44 + 6, b"m1"),
        (50, b"m2"),  # Acct-Multi-Session-Id, 0+
        (241, b"\x08token"),
        (30, b""),
    )
    said = decode_accounting_request(_request(foreign), VENDOR)
    assert said == AccountingRequest(
        status=AccountingStatus.START,
        session_id=b"x",
        nas_identifier=b"nas",
        nas_address=IPv4Address("192.0.2.1"),
        user_name=b"no address of the form of a NAI",
        classes=(b"one", b"two"),
        multi_session_id=b"m1",
    )


def test_accounting_on_needs_no_session() -> None:
    said = decode_accounting_request(
        _request(((40, b"\x00\x00\x00\x07"), (95, IPv6Address("::1").packed), (1, b""))), VENDOR
    )
    assert (said.status, said.session_id) == (AccountingStatus.ACCOUNTING_ON, None)
    assert (said.nas_address, said.user_name) == (IPv6Address("::1"), None)


def test_gigawords_alone_count() -> None:
    said = decode_accounting_request(_request((*MINIMUM, (53, b"\x00\x00\x00\x01"))), VENDOR)
    assert (said.input_octets, said.output_octets) == (None, 2**32)


def test_the_time_of_the_event() -> None:
    bare = decode_accounting_request(_request(MINIMUM), VENDOR)
    assert bare.event_time(1000.5) == 1000.5
    assert replace(bare, delay_time_s=10).event_time(1000.5) == 990.5
    assert replace(bare, delay_time_s=2**32 - 1).event_time(1000.5) == 0.0
    assert replace(bare, delay_time_s=10, event_timestamp=77).event_time(1000.5) == 77.0


@pytest.mark.parametrize(
    "attributes",
    [
        MINIMUM[1:],  # no Acct-Status-Type
        (*MINIMUM, MINIMUM[0]),  # twice
        ((40, b"\x00\x00\x00\x00"), *MINIMUM[1:]),
        ((40, b"\x00\x00\x00\x0f"), *MINIMUM[1:]),  # Failed, reserved
        ((40, b"\x01"), *MINIMUM[1:]),
        (MINIMUM[0], MINIMUM[2]),  # no Acct-Session-Id
        (MINIMUM[0], (44, b""), MINIMUM[2]),
        MINIMUM[:2],  # no NAS
        (*MINIMUM[:2], (32, b"")),
        (*MINIMUM, (4, bytes(3))),
        (*MINIMUM, (4, bytes(4)), (4, bytes(4))),
        (*MINIMUM, (95, bytes(15))),
        (*MINIMUM, (55, bytes(5))),
        (*MINIMUM, (41, b"")),
        (*MINIMUM, (46, bytes(8))),
        (*MINIMUM, (42, bytes(3))),
        (*MINIMUM, (2, bytes(16))),  # User-Password
        (*MINIMUM, (3, bytes(17))),
        (*MINIMUM, (26, b"\x00\x00\x7e\xd9\x06\x05abc")),  # an SPI of 3 octets
        (*MINIMUM, (26, b"\x00\x00\x7e\xd9\x09\x03a"), (26, b"\x00\x00\x7e\xd9\x09\x03a")),
        (*MINIMUM, *((26, b"\x00\x00\x7e\xd9\x06\x06" + bytes((1, 1, 1, n))) for n in range(65))),
    ],
)
def test_malformed(attributes: Attributes) -> None:
    with pytest.raises(MalformedPacket):
        decode_accounting_request(_request(attributes), VENDOR)


def test_only_an_accounting_request() -> None:
    with pytest.raises(MalformedPacket):
        decode_accounting_request(_request(MINIMUM, ACCESS_REQUEST), VENDOR)


@pytest.mark.parametrize(
    "wrong",
    [
        {"session_id": b""},
        {"user_name": b"a" * 254},
        {"input_octets": 2**64},
        {"session_time_s": -1},
        {"delay_time_s": 2**32},
        {"spis": (2**32,)},
        {"event_timestamp": -1},
    ],
)
def test_what_no_attribute_holds(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalError):
        encode_accounting_request(replace(STOP, **wrong), VENDOR)  # type: ignore[arg-type]


_text = st.none() | st.binary(min_size=1, max_size=200)
_integer = st.none() | st.integers(0, 2**32 - 1)
_count = st.none() | st.integers(0, 2**64 - 1)
_requests = st.builds(
    AccountingRequest,
    status=st.sampled_from(AccountingStatus),
    session_id=st.binary(min_size=1, max_size=253),
    nas_identifier=st.binary(min_size=1, max_size=253),
    nas_address=st.none() | st.ip_addresses(),
    user_name=_text,
    classes=st.lists(st.binary(min_size=1, max_size=253), max_size=3).map(tuple),
    spis=st.lists(st.integers(0, 2**32 - 1), max_size=64, unique=True).map(tuple),
    fa_nai=_text,
    operator_name=_text,
    event_timestamp=_integer,
    delay_time_s=st.integers(0, 2**32 - 1),
    session_time_s=_integer,
    input_octets=_count,
    output_octets=_count,
    input_packets=_integer,
    output_packets=_integer,
    terminate_cause=_integer,
    multi_session_id=_text,
)


@given(_requests, st.integers(1, 2**24 - 1))
def test_there_and_back(request: AccountingRequest, vendor_id: int) -> None:
    attributes = encode_accounting_request(request, vendor_id)
    assert decode_accounting_request(_request(attributes), vendor_id) == request


_attributes = st.lists(
    st.tuples(
        st.sampled_from([1, 4, 25, 26, 32, 40, 41, 42, 44, 46, 50, 52, 55, 95, 126]),
        st.binary(max_size=12)
        | st.binary(max_size=8).map(lambda value: b"\x00\x00\x7e\xd9" + value)
        | st.sampled_from([b"\x00\x00\x00\x01", b"\x00\x00\x00\x02"]),
    ),
    max_size=12,
).map(tuple)


@given(_attributes)
def test_any_attributes_are_a_request_or_malformed(attributes: Attributes) -> None:
    try:
        said = decode_accounting_request(_request((*MINIMUM[:1], *attributes)), VENDOR)
    except MalformedPacket:
        return
    assert said.session_id is not None
    assert said.nas_identifier or said.nas_address
