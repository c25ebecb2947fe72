"""Target: a RADIUS packet of any octets, and what its attributes say (aaa.radius).

The promise, judged by plain means beside the product's own: a packet is accepted exactly where RFC
2865 §3 and §5 and RFC 3579 §3.2 allow it; no octet of an accepted one is lost; each code is
verified over what its RFC signs, and not with another secret; everything behind it gives a value or
its own error; what is decoded is encoded to the same values; a verified request can be answered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aaa.exchange import AccessRequest, AccessResponse
from aaa.radius.accounting import (
    decode_accounting_request,
    encode_accounting_request,
)
from aaa.radius.attributes import (
    collect,
    decode_access_request,
    decode_access_response,
    decode_key_reply,
    decode_key_request,
    encode_access_request,
    encode_access_response,
)
from aaa.radius.dictionary import describe
from aaa.radius.dynauth import (
    RequestRefused,
    check_supported,
    decode_dynamic_answer,
    decode_dynamic_request,
    encode_dynamic_request,
)
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    Attributes,
    Packet,
    VerifiedRequest,
    VerifiedResponse,
    decode,
    encode_request,
    encode_response,
    proxy_states,
    verify_request,
    verify_response,
)
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID, Secret
from tests.fuzz.entry import fuzz

MAXIMUM_OCTETS: Final = 4200  # more than a packet may have
SECRET: Final = Secret(b"sixteen octets!!")
OTHER_SECRET: Final = Secret(b"seventeen octets!")
REQUEST_AUTHENTICATOR: Final = bytes(range(16))
_VENDOR: Final = DEFAULT_VENDOR_ID.to_bytes(4, "big")
# RFC 2865, RFC 2866, RFC 5997 and RFC 5176: what may answer what.
_ANSWERS: Final = {1: (2, 3, 11), 4: (5,), 12: (2, 5), 40: (41, 42), 43: (44, 45)}
_RESPONSES: Final = {code for codes in _ANSWERS.values() for code in codes}
_SIGNED_OVER_ZEROS: Final = frozenset({4, 40, 43})  # RFC 2866 §3, RFC 5176 §2.3
_SIGNATURE_NEEDED: Final = frozenset({1, 2, 3, 11, 12, 40, 43})


def judge(octets: bytes) -> None:
    expected = read_plainly(octets)
    try:
        packet = decode(octets, signed=False)
    except MalformedPacket:
        assert expected is None, "refused, though well-formed"
        return
    assert expected is not None, "accepted, though malformed"
    assert packet.attributes == expected
    _check_octets(packet, octets)
    _check_signed(packet, octets)
    _check_vendor_attributes(packet.attributes)
    _check_description(packet)
    if packet.code in _ANSWERS:
        _check_request(packet)
    elif packet.code in _RESPONSES:
        _check_response(packet)
    else:
        _check_refused(packet)


def read_plainly(octets: bytes) -> Attributes | None:
    """The attributes of the packet at the start of `octets`, or None if there is none."""
    length = int.from_bytes(octets[2:4], "big")
    if not 20 <= length <= len(octets) <= 4096:
        return None
    left, attributes = octets[20:length], []
    while left:
        if len(left) < 2 or left[0] == 0 or not 2 <= left[1] <= len(left):
            return None
        attributes.append((left[0], left[2 : left[1]]))
        left = left[left[1] :]
    signatures = [value for kind, value in attributes if kind == 80]
    if len(attributes) > 200 or len(signatures) > 1 or any(len(s) != 16 for s in signatures):
        return None
    return tuple(attributes)


def _check_octets(packet: Packet, octets: bytes) -> None:
    written = b"".join(bytes((kind, len(v) + 2)) + v for kind, v in packet.attributes)
    length = 20 + len(written)
    header = bytes((packet.code, packet.identifier)) + length.to_bytes(2, "big")
    assert packet.octets == header + packet.authenticator + written == octets[:length]
    at = packet.message_authenticator_at
    assert bool(at) == any(kind == 80 for kind, _ in packet.attributes)
    assert not at or packet.octets[at - 2 : at] == b"\x50\x12"


def _check_signed(packet: Packet, octets: bytes) -> None:
    """With `signed`, what needs a Message-Authenticator must have one, and nothing else."""
    needed = packet.code in _SIGNATURE_NEEDED
    try:
        assert decode(octets) == packet
    except MalformedPacket:
        assert needed and not packet.message_authenticator_at
    else:
        assert not needed or packet.message_authenticator_at


def _check_vendor_attributes(attributes: Attributes) -> None:
    """All octets of our vendor are in what is collected, and no others."""
    try:
        collected = collect(attributes, DEFAULT_VENDOR_ID)
    except MalformedPacket:
        return
    ours = [value[4:] for kind, value in attributes if kind == 26 and value[:4] == _VENDOR]
    lengths = sorted(len(v) + 2 for values in collected.values() for v in values)
    assert sum(lengths) == sum(map(len, ours)) and (not lengths or lengths[0] >= 3)


def _check_description(packet: Packet) -> None:
    """Every attribute has a line for people, and no line does anything but say it."""
    described = describe(packet)
    assert len(described) >= len(packet.attributes)
    assert all(text.isprintable() and text.isascii() for line in described for text in line)


def _check_request(packet: Packet) -> None:
    packet = decode(signed_plainly(packet, packet.authenticator), signed=False)
    states, has_signature = proxy_states(packet.attributes), packet.message_authenticator_at
    assert not _is_verified(lambda: verify_request(packet, OTHER_SECRET)) or not has_signature
    good = bool(has_signature) or packet.code not in _SIGNATURE_NEEDED
    assert _is_verified(lambda: verify_request(packet, SECRET)) == good
    lenient = _is_verified(
        lambda: verify_request(packet, SECRET, require_message_authenticator=False)
    )
    # CVE-2024-3596: without Message-Authenticator, a Proxy-State is what a forger needs.
    assert lenient == (good or (packet.code == 1 and not states))
    if not good:
        return
    request = verify_request(packet, SECRET)
    _check_answers(request)
    with suppress(MalformedPacket):
        decode_key_request(request, DEFAULT_VENDOR_ID)
    _check_session(request)
    try:
        access = decode_access_request(request, DEFAULT_VENDOR_ID)
    except MalformedPacket:
        return
    again = _repeated_request(access)
    assert again is None or again == access


def _is_verified(verify: Callable[[], object]) -> bool:
    try:
        verify()
    except (MalformedPacket, BadAuthenticator):
        return False
    return True


def _check_answers(request: VerifiedRequest) -> None:
    """The Proxy-States of a request fit each of its responses, with what signs that."""
    states = proxy_states(request.attributes)
    for code in _ANSWERS[request.code]:
        wire = encode_response(code, request, (), SECRET)
        response = verify_response(
            decode(wire), request.authenticator, SECRET, request_code=request.code
        )
        assert response.identifier == request.identifier
        assert proxy_states(response.attributes) == states


def _check_session(request: VerifiedRequest) -> None:
    """What accounting and dynamic authorization say of a session, through their encoders."""
    try:
        report = decode_accounting_request(request, DEFAULT_VENDOR_ID)
    except MalformedPacket:
        pass
    else:
        assert request.code == 4
        again = _repeated(4, encode_accounting_request(report, DEFAULT_VENDOR_ID))
        assert decode_accounting_request(again, DEFAULT_VENDOR_ID) == report
        assert report.event_time(0.0) >= 0
    try:
        asked = decode_dynamic_request(request, DEFAULT_VENDOR_ID)
    except RequestRefused:
        return
    assert request.code in (40, 43)
    with suppress(RequestRefused):
        check_supported(request, DEFAULT_VENDOR_ID)
    again = _repeated(asked.code, encode_dynamic_request(asked, DEFAULT_VENDOR_ID))
    assert decode_dynamic_request(again, DEFAULT_VENDOR_ID) == asked


def _repeated(code: int, attributes: Attributes) -> VerifiedRequest:
    wire = encode_request(code, 0, REQUEST_AUTHENTICATOR, attributes, SECRET)
    return verify_request(decode(wire), SECRET)


def _repeated_request(access: AccessRequest) -> AccessRequest | None:
    """The same through the encoder; None where one attribute for each value needs more room."""
    attributes = encode_access_request(access, DEFAULT_VENDOR_ID)
    try:
        wire = encode_request(1, 0, REQUEST_AUTHENTICATOR, attributes, SECRET)
    except LocalError:
        assert sum(len(value) + 2 for _, value in attributes) > 4096 - 38 or len(attributes) > 199
        return None
    return decode_access_request(verify_request(decode(wire), SECRET), DEFAULT_VENDOR_ID)


def _check_response(packet: Packet) -> None:
    packet = decode(signed_plainly(packet, REQUEST_AUTHENTICATOR), signed=False)
    for request_code, codes in _ANSWERS.items():
        good = packet.code in codes and (
            bool(packet.message_authenticator_at) or request_code != 1  # RFC 5997 §5
        )
        assert good == _is_verified_response(packet, SECRET, request_code)
        assert not _is_verified_response(packet, OTHER_SECRET, request_code)
    for request_code in (40, 43):
        if _is_verified_response(packet, SECRET, request_code):
            told = verify_response(packet, REQUEST_AUTHENTICATOR, SECRET, request_code=request_code)
            with suppress(MalformedPacket):
                assert decode_dynamic_answer(told).acknowledged == (packet.code in (41, 44))
    if not _is_verified_response(packet, SECRET, 1):
        return
    response = verify_response(packet, REQUEST_AUTHENTICATOR, SECRET)
    with suppress(MalformedPacket):
        decode_key_reply(response, DEFAULT_VENDOR_ID)
    try:
        access = decode_access_response(response, DEFAULT_VENDOR_ID)
    except MalformedPacket:
        return
    assert _repeated_response(access) == access


def _is_verified_response(packet: Packet, secret: Secret, request_code: int) -> bool:
    return _is_verified(
        lambda: verify_response(packet, REQUEST_AUTHENTICATOR, secret, request_code=request_code)
    )


def _repeated_response(access: AccessResponse) -> AccessResponse:
    code, attributes = encode_access_response(access, DEFAULT_VENDOR_ID)
    response = VerifiedResponse(code, 0, REQUEST_AUTHENTICATOR, attributes, b"", 0)
    return decode_access_response(response, DEFAULT_VENDOR_ID)


def _check_refused(packet: Packet) -> None:
    """Another code is neither a request nor a response."""
    assert not _is_verified(lambda: verify_request(packet, SECRET))
    assert not any(_is_verified_response(packet, SECRET, code) for code in _ANSWERS)


def signed_plainly(packet: Packet, authenticator: bytes, secret: Secret = SECRET) -> bytes:
    """The packet as a peer with `secret` signs it; `authenticator` is that of the request.

    RFC 3579 §3.2 and RFC 5176 §3.4 where it has a Message-Authenticator, RFC 2865 §3 and RFC 2866
    §3 where the authenticator is a signature too.
    """
    at, octets, key = packet.message_authenticator_at, packet.octets, secret.reveal()
    over = bytes(16) if packet.code in _SIGNED_OVER_ZEROS else authenticator
    signed = octets[20:]
    if at:
        zeroed = octets[:4] + over + octets[20:at] + bytes(16) + octets[at + 16 :]
        signed = octets[20:at] + hmac.new(key, zeroed, hashlib.md5).digest() + octets[at + 16 :]
    if packet.code in _SIGNED_OVER_ZEROS or packet.code in _RESPONSES:
        authenticator = hashlib.md5(octets[:4] + over + signed + key).digest()
    return octets[:4] + authenticator + signed


if __name__ == "__main__":
    fuzz("packet", judge, maximum_octets=MAXIMUM_OCTETS)
