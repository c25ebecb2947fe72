"""What a foreign AAA does with accounting and dynamic authorization: where to, or why not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from aaa.exchange import Addressing, Peer
from aaa.proxying import Forward, Refuse, Route
from aaa.radius.addressing import decode_addressing
from aaa.radius.attributes import FA_NAI, cut
from aaa.radius.errors import MalformedPacket
from aaa.radius.packet import Attributes
from aaa.roles.foreign_aaa import Agent
from aaa.roles.foreign_aaa_accounting import route_accounting
from aaa.roles.foreign_aaa_dynauth import Asker, Discard, Nak, VisitedDomain, route_dynauth
from kdc.model import Nai

VENDOR = 32473
NOW = 1_800_000_000
FIRST = Agent("fa1", Nai.parse("fa1@visited.example"), IPv4Address("198.51.100.7"), b"fa1")
SECOND = Agent("fa2", Nai.parse("fa2@visited.example"), IPv4Address("198.51.100.8"), b"fa2")
DOMAIN = VisitedDomain(
    "visited.example",
    (FIRST, SECOND),
    (Peer("home", frozenset({"at-home.example"})), Peer("hub", frozenset({"behind.example"}))),
)
OPERATOR = (126, b"1Visited.Example")
TIMESTAMP = (55, NOW.to_bytes(4, "big"))
RECEIVED: Attributes = (
    (80, bytes(16)),
    (1, b"m-0123456789abcdef@Home.example"),
    (32, b"fa2"),
    (4, bytes((198, 51, 100, 8))),
    OPERATOR,
    (25, b"class"),
    TIMESTAMP,
    (33, b"home's own"),
    (241, b"\x08token"),
    (241, b"\x07other"),
    (200, b"\x00unknown"),
)
ASKED = decode_addressing(RECEIVED, VENDOR)


def _entropy(length_octets: int) -> bytes:
    return b"own state"[:length_octets]


def _dynauth(
    request: Addressing = ASKED, attributes: Attributes = RECEIVED, *, now: float = NOW
) -> Forward | Nak | Discard:
    return route_dynauth(
        request,
        attributes,
        asker=Asker("home", {"home.example"}.__contains__),
        domain=DOMAIN,
        now=now,
        entropy=_entropy,
    )


def test_the_agent_gets_what_the_home_sent_less_what_proxies_tell_each_other() -> None:
    """RFC 8559 §4.2, RFC 5176 §3.1: everything else byte for byte and in order."""
    decision = _dynauth()
    assert isinstance(decision, Forward)
    assert decision.pool == "fa2"
    gone = ((80, bytes(16)), OPERATOR, (241, b"\x08token"))
    kept = tuple(a for a in RECEIVED if a not in gone)
    assert decision.attributes == (*kept, (33, b"own stat"))
    assert decision.proxy_states == (b"home's own", b"own stat")


@pytest.mark.parametrize("said", [{"nas_identifier": None}, {"nas_addresses": ()}])
def test_one_name_of_the_agent_is_enough(said: dict[str, None]) -> None:
    decision = _dynauth(replace(ASKED, **said))  # type: ignore[arg-type]
    assert isinstance(decision, Forward) and decision.pool == "fa2"


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"event_timestamp": None}, Nak("no_event_timestamp", 402)),
        ({"event_timestamp": NOW - 301}, Discard("event_timestamp")),
        ({"event_timestamp": NOW + 301}, Discard("event_timestamp")),
        ({"operator_name": None}, Nak("operator", 502)),
        ({"operator_name": b"1other.example"}, Nak("operator", 502)),
        ({"operator_name": b"1at-home.example"}, Nak("operator", 502)),  # back to who asks
        ({"operator_name": b"0visited.example"}, Nak("operator", 502)),
        ({"operator_name": b"1\xff"}, Nak("operator", 502)),
        ({"realm": None}, Nak("home_realm", 502)),
        ({"realm": "another.example"}, Nak("home_realm", 502)),
        ({"nas_identifier": b"fa1"}, Nak("agent", 403)),  # with the address of the second
        ({"nas_identifier": None, "nas_addresses": ()}, Nak("agent", 403)),
        ({"nas_addresses": (SECOND.nas_address, IPv6Address("::1"))}, Nak("agent", 403)),
        ({"fa_nai": FIRST.fa_nai}, Nak("agent", 403)),
    ],
)
def test_what_does_not_reach_an_agent(change: dict[str, object], outcome: Nak | Discard) -> None:
    assert _dynauth(replace(ASKED, **change)) == outcome  # type: ignore[arg-type]


def test_another_operator_behind_us_gets_it_with_the_name_of_the_operator() -> None:
    """RFC 8559 §4.3.2: that name, and the token of its NAS, pass unchanged."""
    other = (126, b"1Behind.Example")
    attributes = tuple(other if a == OPERATOR else a for a in RECEIVED)
    decision = _dynauth(decode_addressing(attributes, VENDOR), attributes)
    assert isinstance(decision, Forward)
    assert decision.pool == "hub"
    kept = tuple(a for a in RECEIVED if a not in ((80, bytes(16)), OPERATOR))
    assert decision.attributes == (*kept, other, (33, b"own stat"))


@pytest.mark.parametrize("now", [NOW - 300, NOW + 300])
def test_the_whole_window_is_current(now: float) -> None:
    assert isinstance(_dynauth(now=now), Forward)


def test_an_old_request_tells_nothing_of_who_is_here() -> None:
    """Whoever replays it hears nothing, whatever else is wrong with it."""
    request = replace(ASKED, event_timestamp=NOW - 301, operator_name=b"1other.example")
    assert _dynauth(request) == Discard("event_timestamp")


def test_loops_end_and_what_does_not_fit_is_the_proxys_trouble() -> None:
    states = ((33, b"x"),) * 7
    assert _dynauth(attributes=RECEIVED + states) == Nak("loop", 502)
    filled = RECEIVED + ((200, bytes(250)),) * 16
    assert _dynauth(attributes=filled) == Nak("too_long", 505)


ACCOUNTED = replace(ASKED, nas_identifier=b"fa1", nas_addresses=(FIRST.nas_address,))


WAYS = {
    "home.example": Route("homes", ("home", "second")),
    "back.example": Route("back", ("fa1",)),
    "round.example": Route("round", ("hub",)),
}


def _accounting(request: Addressing, client: Agent | Peer = FIRST) -> Forward | Refuse:
    return route_accounting(
        request,
        RECEIVED,
        client=client,
        own_realm="visited.example",
        way=None if request.realm is None else WAYS.get(request.realm),
        entropy=_entropy,
    )


@pytest.mark.parametrize(
    "request_", [ACCOUNTED, replace(ACCOUNTED, fa_nai=FIRST.fa_nai, nas_addresses=())]
)
def test_accounting_goes_to_the_visitors_home_in_our_name(request_: Addressing) -> None:
    decision = _accounting(request_)
    assert isinstance(decision, Forward)
    assert decision.pool == "homes"
    kept = tuple(a for a in RECEIVED if a[0] not in (80, 126))
    assert decision.attributes == (*kept, (126, b"1visited.example"), (33, b"own stat"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nas_identifier": b"fa2"}, "nas"),
        ({"nas_addresses": (SECOND.nas_address,)}, "nas"),
        ({"nas_identifier": None, "nas_addresses": ()}, "nas"),
        ({"fa_nai": SECOND.fa_nai}, "fa_nai"),
        ({"realm": None}, "realm"),
        ({"realm": "another.example"}, "realm"),
        ({"realm": "back.example"}, "back_to_peer"),
    ],
)
def test_accounting_that_goes_nowhere(change: dict[str, object], reason: str) -> None:
    decision = _accounting(replace(ACCOUNTED, **change))  # type: ignore[arg-type]
    assert isinstance(decision, Refuse) and decision.reason == reason


HUB = Peer("hub", frozenset({"behind.example"}))


@pytest.mark.parametrize("operator_name", [b"1Behind.Example", None])
def test_a_proxy_before_us_names_its_operators_itself(operator_name: bytes | None) -> None:
    decision = _accounting(replace(ACCOUNTED, operator_name=operator_name), HUB)
    assert isinstance(decision, Forward)
    named = [value for kind, value in decision.attributes if kind == 126]
    assert named == [operator_name] * (operator_name is not None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "operator_realm"),  # ours
        ({"operator_name": b"1another.example"}, "operator_realm"),
        ({"operator_name": b"0behind.example"}, "operator_realm"),
        ({"operator_name": None, "fa_nai": FIRST.fa_nai}, "fa_realm"),
        ({"operator_name": None, "realm": "round.example"}, "back_to_peer"),
    ],
)
def test_a_proxy_before_us_names_nobody_elses(change: dict[str, object], reason: str) -> None:
    decision = _accounting(replace(ACCOUNTED, **change), HUB)  # type: ignore[arg-type]
    assert isinstance(decision, Refuse) and decision.reason == reason


def test_what_is_read_of_a_request() -> None:
    attributes = (
        *RECEIVED,
        (95, IPv6Address("2001:db8::7").packed),
        *cut(FA_NAI, b"a@b.c", VENDOR),
    )
    assert decode_addressing(attributes, VENDOR) == Addressing(
        realm="home.example",
        nas_identifier=b"fa2",
        nas_addresses=(IPv4Address("198.51.100.8"), IPv6Address("2001:db8::7")),
        fa_nai=Nai.parse("a@b.c"),
        operator_name=OPERATOR[1],
        event_timestamp=NOW,
    )
    assert decode_addressing((), VENDOR) == Addressing()


def test_of_two_operators_the_first_counts() -> None:
    """RFC 8559 §3: the second and later ones are invalid attributes, as if they were not there."""
    given = ((126, b"1a.example"), (126, b"1b.example"))
    assert decode_addressing(given, VENDOR).operator_name == b"1a.example"


@pytest.mark.parametrize(
    "attributes",
    [
        ((1, b"a@b.c"), (1, b"a@b.c")),
        ((32, b"a"), (32, b"b")),
        ((4, bytes(3)),),
        ((4, bytes(4)), (4, bytes(4))),
        ((95, bytes(4)),),
        ((55, bytes(8)),),
        ((55, bytes(4)), (55, bytes(4))),
        (*cut(FA_NAI, b"a@b.c", VENDOR), *cut(FA_NAI, b"a@b.c", VENDOR)),
        cut(FA_NAI, b"a" * 232 + b"@b.c", VENDOR),
    ],
)
def test_what_is_there_twice_or_too_long_says_nothing(attributes: Attributes) -> None:
    with pytest.raises(MalformedPacket):
        decode_addressing(attributes, VENDOR)
