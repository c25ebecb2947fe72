"""The structure check and the signatures, one rule at a time."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REJECT,
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    ACCOUNTING_RESPONSE,
    COA_REQUEST,
    DISCONNECT_REQUEST,
    RADSEC_SECRET,
    RESPONSES_TO,
    STATUS_SERVER,
    Packet,
    decode,
    encode_request,
    encode_response,
    verify_request,
    verify_response,
)
from kdc.errors import LocalError
from kdc.model import Secret

SECRET = Secret(b"sixteen octets!!")
AUTHENTICATOR = bytes(range(16))
MESSAGE_AUTHENTICATOR = bytes((80, 18)) + bytes(16)


def _packet(attributes: bytes, *, code: int = ACCESS_REQUEST, length: int | None = None) -> bytes:
    size = 20 + len(attributes) if length is None else length
    return bytes((code, 5)) + size.to_bytes(2, "big") + AUTHENTICATOR + attributes


def _request(*attributes: tuple[int, bytes]) -> bytes:
    return encode_request(ACCESS_REQUEST, 5, AUTHENTICATOR, attributes, SECRET)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        bytes(19),
        _packet(MESSAGE_AUTHENTICATOR, length=19),
        _packet(MESSAGE_AUTHENTICATOR, length=39),
        _packet(MESSAGE_AUTHENTICATOR, length=37),  # cuts the attribute off
        _packet(MESSAGE_AUTHENTICATOR + b"\x01"),  # a lone type octet
        _packet(MESSAGE_AUTHENTICATOR + b"\x01\x00"),
        _packet(MESSAGE_AUTHENTICATOR + b"\x01\x01"),
        _packet(MESSAGE_AUTHENTICATOR + b"\x01\x04a"),
        _packet(MESSAGE_AUTHENTICATOR + b"\x00\x03a"),  # type 0
        _packet(b"\x01\x03a"),  # no Message-Authenticator
        _packet(b"", code=STATUS_SERVER),
        _packet(b"", code=ACCESS_REJECT),
        _packet(MESSAGE_AUTHENTICATOR * 2),
        _packet(bytes((80, 17)) + bytes(15)),
        _packet(bytes((80, 19)) + bytes(17)),
        _packet(MESSAGE_AUTHENTICATOR + b"\x01\x03a" * 200),
        _packet(MESSAGE_AUTHENTICATOR + (b"\x01\xff" + bytes(253)) * 16),
    ],
)
def test_structure_is_refused(octets: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode(octets)


def test_the_largest_packet_with_padding() -> None:
    filler = (b"\x01\xff" + bytes(253)) * 15
    attributes = MESSAGE_AUTHENTICATOR + filler + b"\x03\xe9" + bytes(231)
    assert len(attributes) == 4076
    assert len(decode(_packet(attributes)).octets) == 4096
    with pytest.raises(MalformedPacket):  # 4,097 octets: no UDP packet of RADIUS
        decode(_packet(attributes) + b"p")
    assert len(decode(_packet(attributes[:-233]) + b"padding").octets) == 4096 - 233
    assert decode(_packet(MESSAGE_AUTHENTICATOR + b"\x01\x02" * 199)).attributes[-1] == (1, b"")


@pytest.mark.parametrize("code", [ACCOUNTING_REQUEST, DISCONNECT_REQUEST, COA_REQUEST])
def test_a_signed_request_has_an_authenticator_made_over_zeros(code: int) -> None:
    """RFC 2866 §3 and RFC 5176 §3.4, computed here once more by hand."""
    octets = encode_request(code, 5, AUTHENTICATOR, ((1, b"a"),), SECRET)
    key = SECRET.reveal()
    over_zeros = octets[:4] + bytes(16) + octets[20:]
    assert octets[4:20] == hashlib.md5(over_zeros + key).digest()
    if code == ACCOUNTING_REQUEST:  # RFC 2869 §5.19: no Message-Authenticator may be there
        assert octets[20:] == b"\x01\x03a"
    else:
        unsigned = over_zeros[:22] + bytes(16) + over_zeros[38:]
        assert octets[22:38] == hmac.digest(key, unsigned, "md5")
    assert verify_request(decode(octets), SECRET).code == code
    for at in range(len(octets)):
        with pytest.raises((BadAuthenticator, MalformedPacket)):
            verify_request(
                decode(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :], signed=False),
                SECRET,
            )


def test_accounting_needs_no_message_authenticator_and_dynamic_authorization_does() -> None:
    def signed(code: int, attributes: bytes) -> bytes:
        header = bytes((code, 5)) + (20 + len(attributes)).to_bytes(2, "big")
        key = SECRET.reveal()
        return header + hashlib.md5(header + bytes(16) + attributes + key).digest() + attributes

    request = verify_request(decode(signed(ACCOUNTING_REQUEST, b"\x01\x03a")), SECRET)
    assert request.attributes == ((1, b"a"),)
    with pytest.raises(BadAuthenticator):  # where there is one it must be right
        verify_request(decode(signed(ACCOUNTING_REQUEST, MESSAGE_AUTHENTICATOR)), SECRET)
    for code in (DISCONNECT_REQUEST, COA_REQUEST):
        with pytest.raises(MalformedPacket):
            decode(signed(code, b"\x01\x03a"))
        with pytest.raises(BadAuthenticator):
            verify_request(decode(signed(code, b"\x01\x03a"), signed=False), SECRET)


def test_a_client_without_message_authenticator_may_not_have_a_proxy_state() -> None:
    """CVE-2024-3596: the exception is for plain clients, never for a proxy."""
    plain = decode(_packet(b"\x01\x03a"), signed=False)
    with pytest.raises(BadAuthenticator):
        verify_request(plain, SECRET)
    verify_request(plain, SECRET, require_message_authenticator=False)
    proxied = decode(_packet(b"\x01\x03a\x21\x03p"), signed=False)
    with pytest.raises(BadAuthenticator):
        verify_request(proxied, SECRET, require_message_authenticator=False)
    wrong = decode(_packet(MESSAGE_AUTHENTICATOR), signed=False)
    with pytest.raises(BadAuthenticator):
        verify_request(wrong, SECRET, require_message_authenticator=False)
    status = decode(_packet(b"", code=STATUS_SERVER), signed=False)
    with pytest.raises(BadAuthenticator):
        verify_request(status, SECRET, require_message_authenticator=False)


@pytest.mark.parametrize("request_code", sorted(RESPONSES_TO))
def test_a_response_answers_its_own_kind_of_request(request_code: int) -> None:
    octets = encode_request(request_code, 9, AUTHENTICATOR, ((1, b"a"),), SECRET)
    request = verify_request(decode(octets), SECRET)
    for code in sorted(frozenset().union(*RESPONSES_TO.values())):
        answer = decode(encode_response(code, request, ((25, b"c"),), SECRET))
        accounting = request_code == ACCOUNTING_REQUEST and code == ACCOUNTING_RESPONSE
        assert answer.message_authenticator_at == (0 if accounting else 22)
        if code in RESPONSES_TO[request_code]:
            verify_response(answer, octets[4:20], SECRET, request_code=request_code)
        else:
            with pytest.raises(MalformedPacket):
                verify_response(answer, octets[4:20], SECRET, request_code=request_code)


def test_an_answer_to_accounting_may_be_signed_over_zeros() -> None:
    """By hand what FreeRADIUS 3.2 sends; nothing else but the request's authenticator is taken."""
    octets = encode_request(ACCOUNTING_REQUEST, 9, AUTHENTICATOR, (), SECRET)
    key, head, unsigned = SECRET.reveal(), bytes((5, 9, 0, 38)), bytes((80, 18)) + bytes(16)

    def signed_over(over: bytes) -> Packet:
        body = unsigned[:2] + hmac.digest(key, head + over + unsigned, "md5")
        return decode(head + hashlib.md5(head + octets[4:20] + body + key).digest() + body)

    for over in (bytes(16), octets[4:20]):
        verify_response(signed_over(over), octets[4:20], SECRET, request_code=ACCOUNTING_REQUEST)
    with pytest.raises(BadAuthenticator):
        verify_response(
            signed_over(AUTHENTICATOR), octets[4:20], SECRET, request_code=ACCOUNTING_REQUEST
        )
    with pytest.raises(BadAuthenticator):  # RFC 5997 §3: there it is the request's alone
        verify_response(signed_over(bytes(16)), octets[4:20], SECRET, request_code=STATUS_SERVER)


def test_every_flipped_octet_of_a_request_is_refused() -> None:
    wire = _request((1, b"@home.example"), (26, b"\x00\x00\x7e\xd9\x01\x03a"), (33, b"state"))
    verify_request(decode(wire), SECRET)
    for position in range(len(wire)):
        broken = bytearray(wire)
        broken[position] ^= 1
        with pytest.raises((MalformedPacket, BadAuthenticator)):
            verify_request(decode(bytes(broken)), SECRET)


def test_every_flipped_octet_of_a_response_is_refused() -> None:
    request = verify_request(decode(_request((33, b"one"), (33, b"two"))), SECRET)
    wire = encode_response(ACCESS_ACCEPT, request, ((18, b"hello"),), SECRET)
    response = verify_response(decode(wire), AUTHENTICATOR, SECRET)
    assert response.attributes[1:] == ((18, b"hello"), (33, b"one"), (33, b"two"))
    for position in range(len(wire)):
        if position == 1:  # the identifier is what a reply is found by, and signed as well
            continue
        broken = bytearray(wire)
        broken[position] ^= 1
        with pytest.raises((MalformedPacket, BadAuthenticator)):
            verify_response(decode(bytes(broken)), AUTHENTICATOR, SECRET)
    with pytest.raises(BadAuthenticator):
        verify_response(decode(wire), bytes(16), SECRET)
    with pytest.raises(BadAuthenticator):
        verify_response(decode(wire), AUTHENTICATOR, Secret(b"another 16 octet"))


def test_a_right_response_authenticator_over_a_wrong_message_authenticator() -> None:
    # CVE-2024-3596: the MD5 of the Response Authenticator alone can be forged.
    attributes = bytes((80, 18)) + bytes(16) + b"\x12\x07hello"
    header = bytes((2, 5)) + (20 + len(attributes)).to_bytes(2, "big")
    signature = hashlib.md5(header + AUTHENTICATOR + attributes + SECRET.reveal()).digest()
    with pytest.raises(BadAuthenticator):
        verify_response(decode(header + signature + attributes), AUTHENTICATOR, SECRET)


def test_a_message_authenticator_over_the_response_authenticator() -> None:
    attributes = bytes((80, 18)) + bytes(16)
    header = bytes((2, 5)) + (20 + len(attributes)).to_bytes(2, "big")
    over = hmac.digest(SECRET.reveal(), header + bytes(16) + attributes, "md5")
    signed = bytes((80, 18)) + over
    authenticator = hashlib.md5(header + AUTHENTICATOR + signed + SECRET.reveal()).digest()
    with pytest.raises(BadAuthenticator):
        verify_response(decode(header + authenticator + signed), AUTHENTICATOR, SECRET)


@pytest.mark.parametrize(
    "attributes",
    [
        [(80, bytes(16))],
        [(0, b"")],
        [(256, b"")],
        [(1, bytes(254))],
        [(1, b"")] * 200,
        [(1, bytes(253))] * 16,
    ],
)
def test_encoders_refuse_what_decoders_would(attributes: list[tuple[int, bytes]]) -> None:
    request = verify_request(decode(_request()), SECRET)
    with pytest.raises(LocalError):
        encode_request(ACCESS_REQUEST, 5, AUTHENTICATOR, attributes, SECRET)
    with pytest.raises(LocalError):
        encode_response(ACCESS_ACCEPT, request, attributes, SECRET)


def test_encoders_refuse_other_codes_and_a_second_proxy_state() -> None:
    request = verify_request(decode(_request()), SECRET)
    with pytest.raises(LocalError):
        encode_response(ACCESS_ACCEPT, request, [(33, b"mine")], SECRET)
    with pytest.raises(LocalError):
        encode_response(ACCESS_REQUEST, request, [], SECRET)
    with pytest.raises(LocalError):
        encode_request(ACCESS_ACCEPT, 5, AUTHENTICATOR, [], SECRET)
    with pytest.raises(LocalError):
        encode_request(ACCESS_REQUEST, 5, b"short", [], SECRET)


def test_packets_and_errors_do_not_show_the_secret() -> None:
    wire = _request((1, b"@home.example"))
    with pytest.raises(BadAuthenticator) as refused:
        verify_request(decode(wire), Secret(b"another 16 octet"))
    shown = repr(verify_request(decode(wire), SECRET)) + str(refused.value)
    assert "sixteen" not in shown
    assert "another" not in shown


def test_an_answer_to_status_server_may_have_one_authenticator() -> None:
    """RFC 5997 §5: 0-1 Message-Authenticator; what is there has to be right."""
    request_authenticator = bytes(range(16))

    def answer(body: bytes, secret: bytes, code: int = 2) -> Packet:
        header = bytes([code, 0]) + (20 + len(body)).to_bytes(2, "big")
        signed = hashlib.md5(header + request_authenticator + body + secret).digest()
        return decode(header + signed + body, signed=False)

    key = RADSEC_SECRET
    response = verify_response(
        answer(b"", b"radsec"), request_authenticator, key, request_code=STATUS_SERVER
    )
    assert (response.code, response.attributes) == (2, ())
    with pytest.raises(BadAuthenticator):
        verify_response(
            answer(b"", b"radsic"), request_authenticator, key, request_code=STATUS_SERVER
        )
    with pytest.raises(BadAuthenticator):
        verify_response(answer(b"", b"radsec"), bytes(16), key, request_code=STATUS_SERVER)
    wrong = bytes([80, 18]) + bytes(16)
    with pytest.raises(BadAuthenticator):
        verify_response(
            answer(wrong, b"radsec"), request_authenticator, key, request_code=STATUS_SERVER
        )
    with pytest.raises(MalformedPacket):
        verify_response(
            answer(b"", b"radsec", code=3), request_authenticator, key, request_code=STATUS_SERVER
        )
    with pytest.raises(BadAuthenticator):  # for anything else it is not enough
        verify_response(answer(b"", b"radsec"), request_authenticator, key)
    with pytest.raises(MalformedPacket):
        decode(answer(b"", b"radsec").octets)
