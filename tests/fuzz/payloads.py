"""Target: SA payloads of any octets (kdc.wire.payloads, PROTOCOL 4.3).

The promise: a payload has one tree and a tree one sequence of octets, so that what is accepted is
encoded to the octets that it was; anything else is `Malformed`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from kdc.errors import Malformed
from kdc.wire.payloads import (
    MAXIMUM_FA_SA_PAYLOAD_OCTETS,
    MAXIMUM_KEY_EXCHANGES,
    MAXIMUM_PROPOSALS,
    MAXIMUM_TRANSFORMS,
    SaPayload,
    decode_fa_sa_payloads,
    decode_sa_payload,
    encode_sa_payload,
    with_spi,
)
from tests.fuzz.entry import fuzz

MAXIMUM_OCTETS: Final = 1536  # more than attribute 5 may have
_SPI: Final = 0x01020304


def judge(octets: bytes) -> None:
    _check_row(octets)
    try:
        payload = decode_sa_payload(octets)
    except Malformed:
        _check_refused(octets)
        return
    assert encode_sa_payload(payload) == octets
    _check_limits(payload)
    filled = with_spi(octets, _SPI)
    expected = tuple(replace(proposal, spi=_SPI) for proposal in payload.proposals)
    assert decode_sa_payload(filled) == replace(payload, proposals=expected)


def _check_limits(payload: SaPayload) -> None:
    """PROTOCOL 4.3: 8 proposals, 16 transforms each, 4 KEs a payload; none of them empty."""
    assert 1 <= len(payload.proposals) <= MAXIMUM_PROPOSALS
    assert sum(len(p.key_exchanges) for p in payload.proposals) <= MAXIMUM_KEY_EXCHANGES
    assert all(1 <= len(p.transforms) <= MAXIMUM_TRANSFORMS for p in payload.proposals)


def _check_refused(octets: bytes) -> None:
    """What is no payload changes in nothing but the place of its SPIs, or is refused here too."""
    with suppress(Malformed):
        assert len(with_spi(octets, _SPI)) == len(octets)


def _check_row(octets: bytes) -> None:
    """Attribute 5: the payloads in a row are all of its octets."""
    try:
        payloads = decode_fa_sa_payloads(octets)
    except Malformed:
        return
    assert len(octets) <= MAXIMUM_FA_SA_PAYLOAD_OCTETS
    assert b"".join(read.octets for read in payloads.values()) == octets
    assert all(encode_sa_payload(read.payload) == read.octets for read in payloads.values())
    assert all(read.payload.pair is pair for pair, read in payloads.items())


if __name__ == "__main__":
    fuzz("payloads", judge, maximum_octets=MAXIMUM_OCTETS)
