"""Disconnect- and CoA-Requests octet by octet, and what each of them is refused for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaa.radius.dynauth import (
    DynamicAnswer,
    DynamicRequest,
    ErrorCause,
    RequestRefused,
    check_event_timestamp,
    check_supported,
    decode_dynamic_answer,
    decode_dynamic_request,
    encode_dynamic_answer,
    encode_dynamic_request,
    read_event_timestamp,
)
from aaa.radius.errors import MalformedPacket, Stale
from aaa.radius.packet import (
    ACCOUNTING_REQUEST,
    COA_ACK,
    COA_NAK,
    COA_REQUEST,
    DISCONNECT_ACK,
    DISCONNECT_NAK,
    DISCONNECT_REQUEST,
    Attributes,
    VerifiedRequest,
    VerifiedResponse,
    decode,
    encode_request,
    verify_request,
)
from kdc.errors import LocalError
from kdc.model import Secret

VENDOR = 32473
SECRET = Secret(b"a secret of sixteen octets")
OCTETS = bytes.fromhex(
    "01074068 2e6578"  # User-Name = "@h.ex"
    "7e0631562e78"  # Operator-Name = "1V.x" (RFC 8559 §3)
    "2005666131"  # NAS-Identifier = "fa1"
    "0406c6336407"  # NAS-IP-Address = 198.51.100.7
    "1904ab00"  # Class
    "370667000000"  # Event-Timestamp (RFC 2869 §5.3)
    "1a0c00007ed906060001e240"  # Roamkey-SPI = 123456
    "1a0c00007ed9060600000100"  # Roamkey-SPI = 256
)
DISCONNECT = DynamicRequest(
    code=DISCONNECT_REQUEST,
    realm="h.ex",
    class_id=b"\xab\x00",
    spis=(123456, 256),
    event_timestamp=0x67000000,
    nas_identifier=b"fa1",
    nas_address=IPv4Address("198.51.100.7"),
    operator_realm="v.x",
)


def _attributes(octets: bytes = OCTETS) -> Attributes:
    head = bytes((ACCOUNTING_REQUEST, 1)) + (20 + len(octets)).to_bytes(2, "big")
    return decode(head + bytes(16) + octets).attributes


def _request(attributes: Attributes, code: int = DISCONNECT_REQUEST) -> VerifiedRequest:
    return VerifiedRequest(code, 1, bytes(16), attributes, b"", 0)


def _cause(attributes: Attributes, code: int = DISCONNECT_REQUEST) -> ErrorCause:
    with pytest.raises(RequestRefused) as refused:
        decode_dynamic_request(_request(attributes, code), VENDOR)
    return refused.value.error_cause


def _without(kind: int) -> Attributes:
    return tuple(item for item in _attributes() if item[0] != kind)


def test_a_disconnect_request_as_its_octets_say() -> None:
    assert decode_dynamic_request(_request(_attributes()), VENDOR) == DISCONNECT
    asks = decode_dynamic_request(_request(_attributes(), COA_REQUEST), VENDOR)
    assert asks == replace(DISCONNECT, code=COA_REQUEST)
    check_supported(_request(_attributes()), VENDOR)


def test_what_is_sent_verifies_with_its_message_authenticator_first() -> None:
    attributes = encode_dynamic_request(replace(DISCONNECT, operator_realm="V.x"), VENDOR)
    octets = encode_request(DISCONNECT_REQUEST, 7, bytes(16), attributes, SECRET)
    request = verify_request(decode(octets), SECRET)
    assert octets[20:22] == b"\x50\x12"
    assert sorted(request.attributes[1:]) == sorted(_attributes())
    check_supported(request, VENDOR)


@pytest.mark.parametrize("kind", [1, 25, 26, 55])
def test_missing(kind: int) -> None:
    assert ErrorCause.MISSING_ATTRIBUTE.value == 402
    assert _cause(_without(kind)) is ErrorCause.MISSING_ATTRIBUTE
    if kind != 26:
        assert _cause((*_without(kind), (kind, b""))) is ErrorCause.MISSING_ATTRIBUTE


def test_the_name_or_the_address_of_the_nas() -> None:
    nameless = tuple(item for item in _without(32) if item[0] != 4)
    assert _cause(nameless) is ErrorCause.MISSING_ATTRIBUTE
    for one_of_them in (_without(32), _without(4)):
        decode_dynamic_request(_request(one_of_them), VENDOR)
    both = (*_attributes(), (95, bytes(16)))
    assert _cause(both) is ErrorCause.NAS_IDENTIFICATION_MISMATCH
    sixth = decode_dynamic_request(
        _request((*_without(4), (95, IPv6Address("2001:db8::7").packed))), VENDOR
    )
    assert sixth.nas_address == IPv6Address("2001:db8::7")


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ((*_attributes(), (25, b"other")), 404),
        ((*_attributes(), (1, b"@h.ex")), 404),
        ((*_attributes(), (126, b"1v.x")), 404),
        ((*_without(55), (55, bytes(3))), 404),
        ((*_attributes(), (55, bytes(4))), 404),
        ((*_without(1), (1, b"\xff@h.ex")), 404),
        ((*_without(1), (1, b"alice")), 407),
        ((*_without(4), (4, bytes(3))), 404),
        ((*_attributes(), (26, b"\x00\x00\x7e\xd9\x06\x05abc")), 404),
        ((*_attributes(), (26, b"\x00\x00\x7e\xd9")), 404),
        ((*_attributes(), (26, b"\x00\x00\x7e\xd9\x06\x06\x00\x00\x00\xff")), 407),
        ((*_attributes(), *((26, b"\x00\x00\x7e\xd9\x06\x06\x01\x01\x01" + bytes((n,)))
                            for n in range(3))), 407),
    ],
)  # fmt: skip
def test_refused(attributes: Attributes, cause: int) -> None:
    assert _cause(attributes) == cause


def test_an_spi_said_twice_is_one() -> None:
    twice = _attributes() + tuple(item for item in _attributes() if item[0] == 26)
    assert decode_dynamic_request(_request(twice), VENDOR).spis == (123456, 256)


def test_an_operator_that_no_realm_names() -> None:
    for name in (b"0TADIG", b"", b"1\xff"):
        changed = (*_without(126), (126, name))
        assert decode_dynamic_request(_request(changed), VENDOR).operator_realm is None


def test_no_other_code() -> None:
    assert _cause(_attributes(), ACCOUNTING_REQUEST) is ErrorCause.INVALID_REQUEST


@pytest.mark.parametrize(
    ("added", "code", "cause"),
    [
        ((31, b"00-11"), DISCONNECT_REQUEST, 401),  # Calling-Station-Id
        ((24, b"state"), DISCONNECT_REQUEST, 401),  # RFC 5176 §3.6: State, 0
        ((6, b"\x00\x00\x00\x11"), DISCONNECT_REQUEST, 401),  # §3.2: Service-Type MUST NOT
        ((6, b"\x00\x00\x00\x11"), COA_REQUEST, 405),  # Authorize Only
        ((26, b"\x00\x00\x00\x09\x01\x05abc"), DISCONNECT_REQUEST, 401),
        ((26, b"\x00\x00\x7e\xd9\x04\x05abc"), DISCONNECT_REQUEST, 401),
        ((27, b"\x00\x00\x00\x11"), COA_REQUEST, 401),  # a change that we do not make
    ],
)
def test_mandatory_and_not_supported(added: tuple[int, bytes], code: int, cause: int) -> None:
    request = _request((*_attributes(), added), code)
    decode_dynamic_request(request, VENDOR)  # a proxy passes it on
    with pytest.raises(RequestRefused) as refused:
        check_supported(request, VENDOR)
    assert refused.value.error_cause == cause


@pytest.mark.parametrize("added", [(33, b"proxy"), (44, b"s1"), (18, b"bye"), (241, b"\x08t")])
def test_what_changes_no_session_is_passed_over(added: tuple[int, bytes]) -> None:
    check_supported(_request((*_attributes(), added)), VENDOR)
    check_supported(_request((*_attributes(), added, (24, b"s")), COA_REQUEST), VENDOR)


def test_the_window_is_300_s_to_both_sides() -> None:
    assert read_event_timestamp(_request(_attributes())) == 0x67000000
    for now in (700, 1000, 1300.0):
        check_event_timestamp(1000, now)
    for now in (699.9, 1300.1, 0, 2**32):
        with pytest.raises(Stale):
            check_event_timestamp(1000, now)


def test_answers() -> None:
    assert encode_dynamic_answer(DISCONNECT_REQUEST) == (DISCONNECT_ACK, ())
    assert encode_dynamic_answer(COA_REQUEST, state=b"s") == (COA_ACK, ((24, b"s"),))
    nak = encode_dynamic_answer(DISCONNECT_REQUEST, ErrorCause.SESSION_CONTEXT_NOT_FOUND)
    assert nak == (DISCONNECT_NAK, ((101, b"\x00\x00\x01\xf7"),))
    assert encode_dynamic_answer(COA_REQUEST, 405)[0] == COA_NAK
    with pytest.raises(LocalError):
        encode_dynamic_answer(ACCOUNTING_REQUEST)


def _answer(code: int, *attributes: tuple[int, bytes]) -> DynamicAnswer:
    return decode_dynamic_answer(VerifiedResponse(code, 1, bytes(16), attributes, b"", 0))


def test_answers_read() -> None:
    assert _answer(DISCONNECT_ACK) == DynamicAnswer(True)
    assert _answer(COA_ACK, (55, b"\x00\x00\x00\x05")) == DynamicAnswer(True, None, 5)
    assert _answer(COA_NAK) == DynamicAnswer(False)
    two = _answer(DISCONNECT_NAK, (101, b"\x00\x00\x01\xf7"), (101, b"\x00\x00\x01\xf6"))
    assert two == DynamicAnswer(False, 503)
    for code, attributes in (
        (5, ()),
        (DISCONNECT_NAK, ((101, b"\x01"),)),
        (DISCONNECT_ACK, ((55, b"\x01"),)),
    ):
        with pytest.raises(MalformedPacket):
            _answer(code, *attributes)


_texts = st.binary(min_size=1, max_size=253)
_requests = st.builds(
    DynamicRequest,
    code=st.sampled_from([DISCONNECT_REQUEST, COA_REQUEST]),
    realm=st.sampled_from(["home.example", "x", "münchen.example"]),
    class_id=_texts,
    spis=st.lists(st.integers(256, 2**32 - 1), min_size=1, max_size=4, unique=True).map(tuple),
    event_timestamp=st.integers(0, 2**32 - 1),
    nas_identifier=_texts,
    nas_address=st.none() | st.ip_addresses(),
    operator_realm=st.none() | st.sampled_from(["visited.example", "x"]),
    session_id=st.none() | _texts,
    state=st.none() | _texts,
)


@given(_requests, st.integers(1, 2**24 - 1))
def test_there_and_back(request: DynamicRequest, vendor_id: int) -> None:
    attributes = encode_dynamic_request(request, vendor_id)
    assert decode_dynamic_request(_request(attributes, request.code), vendor_id) == request


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 4, 25, 26, 32, 44, 55, 95, 126]), st.binary(max_size=12)),
        max_size=8,
    ),
    st.lists(st.integers(0, 7), unique=True),
)
def test_any_attributes_are_a_request_or_refused(
    added: list[tuple[int, bytes]], kept: list[int]
) -> None:
    attributes = (*(_attributes()[n] for n in kept), *added)
    try:
        said = decode_dynamic_request(_request(attributes), VENDOR)
    except RequestRefused:
        return
    assert said.realm
    assert said.class_id
    assert 1 <= len(said.spis) <= 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": ACCOUNTING_REQUEST},
        {"spis": ()},
        {"spis": (256, 257, 258, 259, 260)},
        {"nas_identifier": None, "nas_address": None},
        {"event_timestamp": -1},
    ],
)
def test_what_no_request_holds(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalError):
        encode_dynamic_request(replace(DISCONNECT, **wrong), VENDOR)  # type: ignore[arg-type]
