"""Step 3: what a foreign AAA forwards, what it refuses, and which replies it takes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from aaa.exchange import AccessRequest, Peer
from aaa.proxying import Forward, Refuse, Route, take_reply
from aaa.radius.packet import Attributes
from aaa.roles.foreign_aaa import Agent, route
from kdc.errors import ReplyRefused
from kdc.model import Nai
from tests.unit.radius.requests import ACCESS, ATTRIBUTES

AGENT = Agent("fa1", Nai.parse("fa1@visited.example"), IPv4Address("198.51.100.7"), b"fa1")
WAYS = {
    "home.example": Route("homes", ("home", "fa1")),
    "back.example": Route("back", ("fa1",)),
}
RECEIVED: Attributes = ((80, bytes(16)), *ATTRIBUTES, (200, b"\x00unknown"))
NOT_ROUTABLE = ((101, (502).to_bytes(4, "big")),)


def _entropy(length_octets: int) -> bytes:
    return b"own state"[:length_octets]


def _route(
    access: AccessRequest = ACCESS,
    attributes: Attributes = RECEIVED,
    client: Agent | Peer = AGENT,
) -> Forward | Refuse:
    return route(
        access,
        attributes,
        client=client,
        own_realm="visited.example",
        way=WAYS.get(access.realm),
        entropy=_entropy,
    )


def test_everything_else_passes_byte_for_byte() -> None:
    forward = _route()
    assert isinstance(forward, Forward)
    assert forward.pool == "homes"
    own = ((126, b"1visited.example"), (33, b"own stat"))
    assert forward.attributes == (*RECEIVED[1:], *own)
    assert forward.proxy_states == (b"own stat",)


def test_any_operator_name_is_replaced() -> None:
    given = ((126, b"1evil.example"), *RECEIVED, (126, b"1home.example"), (33, b"theirs"))
    forward = _route(attributes=given)
    assert isinstance(forward, Forward)
    assert [v for k, v in forward.attributes if k == 126] == [b"1visited.example"]
    assert forward.proxy_states == (b"theirs", b"own stat")


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        (replace(AGENT, fa_nai=Nai.parse("fa2@visited.example")), "fa_nai"),
        (replace(AGENT, nas_address=IPv4Address("198.51.100.8")), "nas_address"),
        (replace(AGENT, nas_identifier=b"fa2"), "nas_identifier"),
    ],
)
def test_an_agent_says_only_what_it_is(agent: Agent, reason: str) -> None:
    assert _route(client=agent) == Refuse(reason)


@pytest.mark.parametrize(
    ("realm", "reason"), [("other.example", "realm"), ("back.example", "back_to_peer")]
)
def test_no_route(realm: str, reason: str) -> None:
    assert _route(replace(ACCESS, realm=realm)) == Refuse(reason, NOT_ROUTABLE)


PROXY = Peer("hub", frozenset({"visited.example", "partner.example"}))


def test_a_proxy_before_us_names_the_operator_itself() -> None:
    for operator in (b"1partner.example", b"1Partner.Example", None):
        given = RECEIVED if operator is None else (*RECEIVED, (126, operator))
        forward = _route(replace(ACCESS, operator_name=operator), given, PROXY)
        assert isinstance(forward, Forward)
        named = [v for k, v in forward.attributes if k == 126]
        assert named == ([] if operator is None else [operator])


@pytest.mark.parametrize(
    ("access", "refused"),
    [
        (replace(ACCESS, fa_nai=Nai.parse("fa1@evil.example")), Refuse("fa_realm")),
        (replace(ACCESS, operator_name=b"1evil.example"), Refuse("operator_realm")),
        (replace(ACCESS, operator_name=b"0ABCD"), Refuse("operator_realm")),
        (replace(ACCESS, operator_name=b""), Refuse("operator_realm")),
    ],
)
def test_a_proxy_before_us_speaks_only_for_its_realms(
    access: AccessRequest, refused: Refuse
) -> None:
    assert _route(access, client=PROXY) == refused


def test_our_own_name_from_others_is_a_loop() -> None:
    ours = replace(
        ACCESS, fa_nai=Nai.parse("fa1@partner.example"), operator_name=b"1Visited.Example"
    )
    stranger = Peer("hub", frozenset({"partner.example"}))
    assert _route(ours, client=stranger) == Refuse("operator_loop", NOT_ROUTABLE)
    assert isinstance(_route(ours, client=PROXY), Forward)  # of our realm, as configured


@pytest.mark.parametrize(("request_code", "code"), [(1, 3), (4, None), (40, 42), (43, 45)])
def test_what_says_no_to_a_request(request_code: int, code: int | None) -> None:
    assert Refuse("realm").code(request_code) == code


def test_loops_end() -> None:
    assert isinstance(_route(attributes=RECEIVED + ((33, b"x"),) * 7), Forward)
    assert _route(attributes=RECEIVED + ((33, b"x"),) * 8) == Refuse("loop", NOT_ROUTABLE)


def test_no_room_for_what_is_added() -> None:
    size = sum(len(v) + 2 for _, v in RECEIVED[1:])
    room = 4096 - 20 - 18 - size - len(b"1visited.example") - 2 - 8 - 2
    full, last = divmod(room, 255)
    filler = ((200, bytes(253)),) * (full - 1) + ((200, bytes(200)), (200, bytes(last + 51)))
    assert isinstance(_route(attributes=RECEIVED + filler), Forward)
    assert _route(attributes=(*RECEIVED, *filler[:-1], (200, bytes(last + 52)))) == Refuse(
        "too_long"
    )
    many = RECEIVED + ((200, b""),) * (200 - len(RECEIVED))
    assert _route(attributes=many) == Refuse("too_many_attributes")


def test_a_reply_loses_its_proxy_states_and_nothing_else() -> None:
    forward = _route(attributes=(*RECEIVED, (33, b"theirs")))
    assert isinstance(forward, Forward)
    reply = ((80, bytes(16)), (1, b"alias"), (33, b"theirs"), (25, b"class"), (33, b"own stat"))
    assert take_reply(reply, forward) == ((1, b"alias"), (25, b"class"))


@pytest.mark.parametrize(
    "states",
    [(), (b"own stat",), (b"theirs",), (b"own stat", b"theirs"), (b"theirs", b"own stat", b"x")],
)
def test_a_reply_with_other_proxy_states_is_discarded(states: tuple[bytes, ...]) -> None:
    forward = _route(attributes=(*RECEIVED, (33, b"theirs")))
    assert isinstance(forward, Forward)
    with pytest.raises(ReplyRefused):
        take_reply(tuple((33, state) for state in states), forward)
