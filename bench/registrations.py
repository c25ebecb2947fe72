"""Sealed registrations as load: one request of each subscriber, wrapped as its foreign AAA would.

Everything is computed before a round begins; a request is good for the seven seconds of the
identification window around the moment that it was built for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from aaa.exchange import AccessRequest
from aaa.radius.attributes import collect, encode_access_request
from aaa.radius.packet import (
    ACCESS_ACCEPT,
    ACCESS_REQUEST,
    PROXY_STATE,
    decode,
    encode_request,
    verify_response,
)
from aaa.roles.mobile_node import Heard, MobileNodeState, build_request, next_spi
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from aaa.serve.mobile_node import parse_enrolment
from bench.load import identifier_of
from kdc.crypto.hpke import X25519Key, fingerprint
from kdc.model import DEFAULT_VENDOR_ID, Nai, Secret
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey

FA_NAI: Final = Nai.parse("fa1@visited.example")
FA_ADDRESS: Final = IPv4Address("198.51.100.7")
FA_KEY_SPI: Final = 4097
LIFETIME_S: Final = 600
_REGISTRATION_REPLY: Final = 2
_WRAPPED_KEY: Final = 4


@dataclass(frozen=True)
class Load:
    """Datagrams to send, and what is needed to judge the answers."""

    datagrams: list[bytes]
    authenticators: list[bytes]
    identifications: list[bytes]
    secret: Secret

    def check(self, index: int, octets: bytes) -> None:
        """Raises unless the answer is an authentic Access-Accept with this request's reply."""
        response = verify_response(decode(octets), self.authenticators[index], self.secret)
        if response.code != ACCESS_ACCEPT:
            raise ValueError(f"code {response.code}")
        ours = collect(response.attributes, DEFAULT_VENDOR_ID)
        reply = b"".join(ours[_REGISTRATION_REPLY])
        if reply[1] != 0 or reply[12:20] != self.identifications[index]:
            raise ValueError("not this request's reply")
        if len(ours[_WRAPPED_KEY][0]) != 116:
            raise ValueError("no wrapped key")


def seal(  # noqa: PLR0913, PLR0917 - what a worker is sent
    lines: Sequence[str],
    first: int,
    heard: Heard,
    fa_public_keys: tuple[bytes, ...],
    now: float,
    secret: str,
    terms: MnTerms,
) -> list[tuple[bytes, bytes, bytes]]:
    """For one worker, whose share begins at request `first`: datagram, authenticator, id.

    `lines` are of `kdc subscriber add --json`; `heard` and `fa_public_keys` belong together.
    """
    built = []
    key = Secret(secret.encode())
    for index, line in enumerate(lines, first):
        state = MobileNodeState.enrolled(parse_enrolment(json.loads(line)))
        _, offers = Negotiation().offer(terms, spi=next_spi(state), entropy=os.urandom)
        _, pending = build_request(
            state, heard, lifetime_s=LIFETIME_S, now=now, entropy=os.urandom, offers=offers
        )
        access = AccessRequest(
            realm="home.example",
            nas_identifier=b"fa1",
            nas_address=FA_ADDRESS,
            fa_nai=FA_NAI,
            registration_request=pending.octets,
            fa_public_keys=fa_public_keys,
            operator_name=b"1visited.example",
        )
        attributes = (
            *encode_access_request(access, DEFAULT_VENDOR_ID),
            (PROXY_STATE, os.urandom(8)),
        )
        authenticator = os.urandom(16)
        identifier = identifier_of(index)
        datagram = encode_request(ACCESS_REQUEST, identifier, authenticator, attributes, key)
        built.append((datagram, authenticator, pending.identification.octets))
    return built


def precompute(
    lines: Sequence[str],
    *,
    now: float,
    secret: str,
    terms: MnTerms,
    pool: ProcessPoolExecutor,
    workers: int,
) -> Load:
    """One request of each enrolment line of `kdc subscriber add --json`, for the moment `now`.

    `terms` says what each offers.
    """
    # The FA of the load never opens a reply: its private key is forgotten at once.
    public_key = X25519Key.of(Secret(os.urandom(32))).public_key
    attribute_3 = FaPublicKey(FA_KEY_SPI, public_key).octets
    heard = Heard(FaAnnouncement(FA_NAI, fingerprint(attribute_3)), FA_ADDRESS, FA_ADDRESS)
    share = -(-len(lines) // workers)
    futures = [
        pool.submit(
            seal, lines[start : start + share], start, heard, (attribute_3,), now, secret, terms
        )
        for start in range(0, len(lines), share)
    ]
    datagrams, authenticators, identifications = map(
        list, zip(*(item for future in futures for item in future.result()), strict=True)
    )
    return Load(datagrams, authenticators, identifications, Secret(secret.encode()))
