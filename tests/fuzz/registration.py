"""Target: a Registration Request or Reply of any octets (kdc.wire.registration, PROTOCOL 3).

The promise: a message or its own error; and of an accepted message every octet but those of
skippable extensions is in the value, so that the same parts are written again from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from kdc.errors import Malformed, UnknownVendor
from kdc.model import DEFAULT_VENDOR_ID
from kdc.wire import numbers
from kdc.wire.advertisement import decode_announcement
from kdc.wire.parts import (
    Authenticator,
    Part,
    encode_authenticator_head,
    encode_extensions,
    encode_realm,
    encode_sa_payloads,
)
from kdc.wire.payloads import encode_sa_payload
from kdc.wire.registration import (
    RegistrationReply,
    RegistrationRequest,
    decode_home_agent,
    decode_reply_for_fa,
    decode_reply_for_mn,
    decode_request,
    encode_reply_header,
    encode_request_header,
)
from tests.fuzz.entry import fuzz

T = TypeVar("T")

MAXIMUM_OCTETS: Final = 3200  # more than a message may have
# Where the SPI stands in a sealed Transcript that comes last: its CVSE is 10 + 12 + 48 octets.
_TRANSCRIPT_SPI: Final = slice(-52, -48)


def judge(octets: bytes) -> None:
    request = _decoded(lambda: decode_request(octets, DEFAULT_VENDOR_ID))
    if request is not None:
        _check_request(request, octets)
    fa_spi = int.from_bytes(octets[_TRANSCRIPT_SPI], "big")
    for reply in (
        _decoded(lambda: decode_reply_for_fa(octets, DEFAULT_VENDOR_ID, fa_spi=None)),
        _decoded(lambda: decode_reply_for_fa(octets, DEFAULT_VENDOR_ID, fa_spi=fa_spi)),
        _decoded(lambda: decode_reply_for_mn(octets, DEFAULT_VENDOR_ID)),
    ):
        if reply is not None:
            _check_reply(reply, octets)
    _decoded(lambda: decode_announcement(octets, DEFAULT_VENDOR_ID))
    _decoded(lambda: decode_home_agent(octets))


def _decoded(decode: Callable[[], T]) -> T | None:
    try:
        return decode()
    except (Malformed, UnknownVendor):
        return None


def _check_request(request: RegistrationRequest, octets: bytes) -> None:
    header = encode_request_header(
        lifetime_s=request.lifetime_s,
        home_agent=request.home_agent,
        care_of_address=request.care_of_address,
        identification=request.identification,
        flags=request.flags,
    )
    assert request.octets == octets and request.fixed_header == header == octets[:24]
    assert decode_home_agent(octets) == request.home_agent
    assert request.mhae.covered_octets + 32 == len(octets)
    written = [encode_realm(request.realm), *_written(request.part), _written_mhae(request.mhae)]
    assert sorted(written) == sorted(_kept(octets[24:]))


def _check_reply(reply: RegistrationReply, octets: bytes) -> None:
    header = encode_reply_header(
        code=reply.code,
        lifetime_s=reply.lifetime_s,
        home_address=reply.home_address,
        home_agent=reply.home_agent,
        identification=reply.identification,
    )
    assert reply.octets == octets and reply.fixed_header == header == octets[:20]
    written = list(_written(reply.part))
    if reply.realm is not None:
        written.append(encode_realm(reply.realm))
    if reply.mhae is not None:
        written.append(_written_mhae(reply.mhae))
        assert reply.mhae.covered_octets + 32 == reply.mhae_end
    if reply.fa_part is not None and reply.transcript is not None:
        written += _written(reply.fa_part)
        transcript = encode_extensions(DEFAULT_VENDOR_ID, [reply.transcript])
        assert octets[reply.transcript_start :] == transcript
        written.append(transcript)
    if reply.mfae is not None:
        written.append(
            encode_authenticator_head(numbers.MOBILE_FOREIGN_AUTHENTICATION, reply.mfae.spi)
            + reply.mfae.digest
        )
    assert sorted(written) == sorted(_kept(octets[20:]))


def _written(part: Part) -> Iterable[bytes]:
    for extension in part.extensions.values():
        yield encode_extensions(DEFAULT_VENDOR_ID, [extension])
    for pair, read in part.sa_payloads.items():
        assert read.payload.pair is pair and encode_sa_payload(read.payload) == read.octets
        yield encode_sa_payloads(DEFAULT_VENDOR_ID, [read.octets])


def _written_mhae(mhae: Authenticator) -> bytes:
    head = encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, mhae.spi)
    return head + mhae.digest


def _kept(octets: bytes) -> Iterable[bytes]:
    """The extensions in a row, plainly, without those that a receiver skips (RFC 5944 §1.8)."""
    while octets:
        long = octets[0] == numbers.CRITICAL_VENDOR
        length = 4 + int.from_bytes(octets[2:4], "big") if long else 2 + octets[1]
        assert length <= len(octets), "accepted, though an extension overruns the message"
        if octets[0] < 128 or octets[0] == numbers.MOBILE_NODE_NAI:
            yield octets[:length]
        octets = octets[length:]


if __name__ == "__main__":
    fuzz("registration", judge, maximum_octets=MAXIMUM_OCTETS)
