"""Golden replies that a mobile node or a foreign agent must refuse, through their own roles."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import pytest

from aaa.exchange import AccessAccept
from aaa.roles.foreign_agent import Delivery, FaIdentity, FaKey, ForeignAgent, Relayed
from aaa.roles.mobile_node import Heard, MobileNodeState, Pending, Registered, accept_reply
from kdc.crypto.hpke import X25519Key
from kdc.crypto.key0 import derive_exchange_keys
from kdc.errors import RemoteError
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Identification, Nai, Pair, Secret
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.registration import decode_request
from tests.protocol.agents import EVERYTHING, terms_offering
from tests.vectors_loader import Vector, octets, vector_id, vectors

NOW = 1_800_000_000.0
_REPLIES = vectors("reply")
_AT_NODE = [v for v in _REPLIES if v["id"].startswith("p-reply-mn-refuses")]
_GOOD = next(v for v in _REPLIES if v["id"] == "p-reply-fa-installs")
_AT_AGENT = [v for v in _REPLIES if v["in"]["at"] == "fa-install" and "refuse" in v]


def _node(given: Vector) -> tuple[MobileNodeState, Pending]:
    """A node that has sent the request which the vector's reply answers."""
    key0, spi = Secret(octets(given["key0"])), given["spi"]
    enrolment = Enrolment(
        Nai.parse("alice@home.example"),
        key0,
        (spi,),
        IPv4Address(octets(given["home_agent"])),
        Nai.parse("ha1@home.example"),
        octets(given["realm"]).decode(),
    )
    care_of = IPv4Address(octets(given["care_of"]))
    heard = Heard(FaAnnouncement(Nai(octets(given["fa_nai"])), bytes(16)), care_of, care_of)
    pending = Pending(
        b"",
        spi,
        Identification.extend(octets(given["identification"]), NOW),
        given["request_lifetime"],
        heard,
        derive_exchange_keys(key0, spi),
    )
    return MobileNodeState(enrolment, (), spi), pending


@pytest.mark.parametrize("vector", _AT_NODE, ids=vector_id)
def test_the_node_installs_nothing(vector: Vector) -> None:
    state, pending = _node(vector["in"])
    with pytest.raises(RemoteError):
        accept_reply(state, pending, octets(vector["in"]["octets"]), now=NOW)


def test_the_node_takes_the_good_one() -> None:
    flipped = next(v for v in _AT_NODE if v["id"] == "p-reply-mn-refuses-mfae-flip")
    good = next(v for v in _REPLIES if v["id"] == "p-reply-mn-good")
    state, pending = _node(flipped["in"])
    reply = octets(good["in"]["octets"])
    _, answer = accept_reply(state, pending, reply, now=NOW)
    assert isinstance(answer, Registered)


def _deliver(given: Vector) -> Delivery:
    """What an agent that has said what the vector says makes of the vector's reply."""
    request = octets(given["request"])
    header = decode_request(request, DEFAULT_VENDOR_ID)
    identity = FaIdentity(
        Nai(octets(given["fa_nai"])), header.care_of_address, header.care_of_address, b"fa1"
    )
    policies = dict.fromkeys(Pair, EVERYTHING)
    agent = ForeignAgent(identity, terms_offering(octets(given["offer3"] or ""), policies))
    key = FaKey(X25519Key.of(Secret(octets(given["x25519_private"]))), given["spi"], NOW)
    agent._keys = (key,)
    relayed = agent.on_request(request, ("link", 1))
    assert isinstance(relayed, Relayed)
    assert relayed.access.fa_sa_payload == octets(_GOOD["in"]["fa_sa_payload"])
    sent = dataclasses.replace(relayed.access, fa_sa_payload=octets(given["fa_sa_payload"]))
    accept = AccessAccept(
        Nai.parse("m-0000000000000000@home.example"),
        b"cui",
        bytes(8),
        header.lifetime_s,
        octets(given["octets"]),
        octets(given["attribute_4"]),
    )
    return agent.on_response(dataclasses.replace(relayed, access=sent), accept)


def test_the_agent_installs_the_good_one() -> None:
    delivery = _deliver(_GOOD["in"])
    assert delivery.code == 0
    assert Pair.FA_HA in {item.pair for item in delivery.associations}


@pytest.mark.parametrize("vector", _AT_AGENT, ids=vector_id)
def test_the_agent_installs_and_relays_nothing_and_says_67(vector: Vector) -> None:
    given = vector["in"]
    request = octets(given["request"])
    delivery = _deliver(given)
    assert delivery.code == 67 and delivery.associations == ()
    assert delivery.octets[:20] == bytes([3, 67]) + bytes(2 + 4) + request[8:12] + request[16:24]
