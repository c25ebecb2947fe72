"""SA payloads written by hand, broken ones too, and a home agent that they are put to.

No encoder of the product is used for them: it could not write what breaks a rule.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import NamedTuple

from aaa.exchange import AccessAccept, AccessChallenge, AccessReject, AccessRequest
from aaa.roles.mobile_node import DeniedByHome, Pending, accept_reply
from kdc.crypto.key0 import authenticate
from kdc.model import Pair
from kdc.negotiation import Policy
from kdc.wire.numbers import MOBILE_HOME_AUTHENTICATION
from kdc.wire.parts import encode_authenticator_head, encode_sa_payloads
from kdc.wire.registration import decode_reply_for_fa
from tests.protocol.test_negotiated_cycle import home_terms
from tests.protocol.world import VISITED, World
from tests.vectors_loader import octets

VENDOR_ID = 32473
MHAE_OCTETS = 38

# --- SA payloads by hand (Figs 17-23) ---------------------------------------------------------


def sized(kind: int, sub_type: int, body: bytes, *, off_by: int = 0) -> bytes:
    """A payload; `off_by` makes its Length a lie."""
    return bytes((kind, sub_type)) + (4 + len(body) + off_by).to_bytes(2, "big") + body


def transform(
    number: int = 1,
    identifier: int = 20,
    attributes: str = "",
    *,
    key_count: int = 1,
    reserved: int = 0,
    kind: int = 3,
    sub_type: int = 0,
    off_by: int = 0,
) -> bytes:
    head = bytes((number, identifier, key_count, reserved))
    return sized(kind, sub_type, head + octets(attributes), off_by=off_by)


def proposal(
    *transforms: bytes,
    number: int = 1,
    count: int = 1,
    protocol: int = 3,
    lifetime: int = 3600,
    spi: int = 0,
    transform_count: int | None = None,
    sub_type: int = 0,
    off_by: int = 0,
) -> bytes:
    """`count` is the Protocol-Number."""
    transforms = transforms or (transform(),)
    of_transforms = len(transforms) if transform_count is None else transform_count
    head = bytes((number, count, protocol, of_transforms))
    head += lifetime.to_bytes(4, "big") + spi.to_bytes(4, "big")
    return sized(2, sub_type, head + b"".join(transforms), off_by=off_by)


def ke_a(group: int, data: bytes, number: int = 0, reserved: str = "000000") -> bytes:
    return sized(4, group, bytes((number,)) + octets(reserved) + data)


def ke_b(prime: bytes, generator: bytes, value: bytes, *, trailing: bytes = b"") -> bytes:
    fields = (len(part).to_bytes(2, "big") + part for part in (prime, generator, value))
    return sized(4, 241, b"".join(fields) + trailing)


def ke_c(spi: int, sealed: bytes = b"") -> bytes:
    return sized(4, 242, spi.to_bytes(4, "big") + sealed)


def sa(*parts: bytes, pair: int = 1, off_by: int = 0) -> bytes:
    return sized(1, pair, b"".join(parts), off_by=off_by)


# --- asking a home ----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What came back: a code, and what it says."""

    code: int
    says: object = None


@dataclass(frozen=True)
class Asked:
    """SA payloads of a mobile node, attribute 5, and the home that they are put to."""

    offers: tuple[bytes, ...] = ()
    attribute_5: bytes = b""
    home: Policy = field(default_factory=lambda: Policy(preferred=()))
    extra: bytes = b""  # CVSEs beside them

    def put(self, world: World) -> tuple[Pending, AccessRequest]:
        """The request as an honest node and agent would send it, these octets in it."""
        agent = world.agents[0]
        pending = world.request(agent, offers=())
        head = pending.octets[:-MHAE_OCTETS] + encode_sa_payloads(VENDOR_ID, list(self.offers))
        head += self.extra + encode_authenticator_head(MOBILE_HOME_AUTHENTICATION, pending.spi)
        message = head + authenticate(pending.keys.authenticate_request, head)
        access = AccessRequest(
            realm="home.example",
            nas_identifier=agent.identity.nas_identifier,
            nas_address=agent.identity.address,
            fa_nai=agent.identity.nai,
            registration_request=message,
            fa_public_keys=(agent._keys[0].attribute_3,),
            fa_sa_payload=self.attribute_5,
        )
        return dataclasses.replace(pending, octets=message), access

    def world(self) -> World:
        terms = dict.fromkeys(Pair, self.home)
        return World(home_terms=dataclasses.replace(home_terms(), policies=terms))

    def judge(self) -> Verdict:
        world = self.world()
        pending, access = self.put(world)
        before = world.store.stored
        response = world.home.handle(access, VISITED, world.now).response
        if isinstance(response, AccessReject):
            if response.code in (134, 140):
                assert world.store.stored == before, "a malformed request has changed the record"
            assert world.store.registrations == []
            return Verdict(response.code)
        if isinstance(response, AccessChallenge):
            return self._denial(world, pending, response)
        return Verdict(0, _chosen(world, response))

    @staticmethod
    def _denial(world: World, pending: Pending, response: AccessChallenge) -> Verdict:
        assert world.store.record.last_spent == pending.spi, "a denial has not spent its SPI"
        assert world.store.record.rounds == 1 and world.store.registrations == []
        _, answer = accept_reply(world.node, pending, response.registration_reply, now=world.now)
        assert isinstance(answer, DeniedByHome) and answer.counter_proposals == {}
        return Verdict(answer.code, answer.notify_type)


def _chosen(world: World, accept: AccessAccept) -> dict[int, tuple[object, ...]]:
    """For each answered pair: proposal number, transform numbers, sub-type of the KE or None."""
    assert accept.fa_wrapped_key is not None and len(world.store.registrations) == 1
    spi = int.from_bytes(accept.fa_wrapped_key[:4], "big")
    reply = decode_reply_for_fa(accept.registration_reply, VENDOR_ID, fa_spi=spi)
    assert reply.fa_part is not None
    chosen: dict[int, tuple[object, ...]] = {}
    for pair, read in (reply.part.sa_payloads | reply.fa_part.sa_payloads).items():
        # Cut by hand: 4 octets of SA, then the proposals, each of one transform.
        rest, transforms, ke = read.octets[4:], [], None
        while rest:
            length = int.from_bytes(rest[2:4], "big")
            if rest[0] == 4:
                ke = rest[1]
            else:
                transforms.append(rest[20])
            rest = rest[length:]
        chosen[int(pair)] = (read.octets[8], transforms, ke)
    return chosen
