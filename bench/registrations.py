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
from aaa.roles.foreign_agent import FaIdentity, ForeignAgent
from aaa.roles.mobile_node import Heard, MobileNodeState, build_request
from aaa.serve.mobile_node import parse_enrolment
from bench.load import identifier_of
from kdc.model import DEFAULT_VENDOR_ID, Nai, Secret

FA_NAI: Final = Nai.parse("fa1@visited.example")
FA_ADDRESS: Final = IPv4Address("198.51.100.7")
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


def foreign_agent(now: float) -> ForeignAgent:
    """The one FA of the load, with a fresh key."""
    agent = ForeignAgent(FaIdentity(FA_NAI, FA_ADDRESS, FA_ADDRESS, b"fa1"))
    agent.rotate_key(now=now, entropy=os.urandom)
    return agent


def _seal(
    lines: Sequence[str], heard: Heard, fa_public_keys: tuple[bytes, ...], now: float, secret: str
) -> list[tuple[bytes, bytes, bytes]]:
    """For one worker: each enrolment's request as datagram (identifier 0), authenticator, id."""
    built = []
    key = Secret(secret.encode())
    for line in lines:
        state = MobileNodeState.enrolled(parse_enrolment(json.loads(line)))
        _, pending = build_request(state, heard, lifetime_s=LIFETIME_S, now=now, entropy=os.urandom)
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
        datagram = encode_request(ACCESS_REQUEST, 0, authenticator, attributes, key)
        built.append((datagram, authenticator, pending.identification.octets))
    return built


def precompute(
    lines: Sequence[str], *, now: float, secret: str, pool: ProcessPoolExecutor, workers: int
) -> Load:
    """One request of each enrolment line of `kdc subscriber add --json`, for the moment `now`."""
    agent = foreign_agent(now)
    heard = Heard(agent.announcement, FA_ADDRESS, FA_ADDRESS)
    keys = tuple(key.attribute_3 for key in agent._keys)
    share = -(-len(lines) // workers)
    parts = [lines[start : start + share] for start in range(0, len(lines), share)]
    futures = [pool.submit(_seal, part, heard, keys, now, secret) for part in parts]
    built = [item for future in futures for item in future.result()]
    datagrams = [
        _with_identifier(datagram, identifier_of(index), Secret(secret.encode()))
        for index, (datagram, _, _) in enumerate(built)
    ]
    return Load(
        datagrams, [item[1] for item in built], [item[2] for item in built], Secret(secret.encode())
    )


def _with_identifier(datagram: bytes, identifier: int, secret: Secret) -> bytes:
    """The same request under another identifier, signed anew."""
    packet = decode(datagram)
    attributes = tuple(item for item in packet.attributes if item[0] != 80)
    return encode_request(packet.code, identifier, packet.authenticator, attributes, secret)
