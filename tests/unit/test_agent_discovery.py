"""Which agent a node takes, and when it has lost it, with a clock of the test's own."""

from __future__ import annotations

import dataclasses
import itertools
from ipaddress import IPv4Address, IPv6Address

import pytest

from aaa.roles.agent_discovery import (
    LONGEST_SOLICITATION_INTERVAL_S,
    MAXIMUM_AGENTS,
    AgentList,
    Change,
    solicitation_delays,
)
from aaa.roles.mobile_node import Heard
from aaa.serve.advertiser import advertised_agent
from kdc.errors import LocalError
from kdc.model import Nai
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.icmp import (
    NEVER_A_DEFAULT_ROUTER,
    AgentAdvertisement,
    AgentFlags,
    RouterAddress,
)

A, B = IPv4Address("198.51.100.7"), IPv4Address("198.51.100.8")


def message(
    number: int, *, key: int = 1, lifetime_s: int = 30, busy: bool = False, limit_s: int = 600
) -> AgentAdvertisement:
    announcement = FaAnnouncement(Nai.parse("fa1@visited.example"), bytes([key]) * 16)
    agent = advertised_agent(Heard(announcement, A, A), A, busy=busy)
    agent = dataclasses.replace(agent, registration_lifetime_s=limit_s)
    return AgentAdvertisement(agent, number, lifetime_s)


def test_an_advertisement_is_valid_for_its_lifetime_and_no_longer() -> None:
    agents = AgentList()
    assert agents.on_advertisement(message(5), A, now=100.0) is Change.NEW
    found = agents.find(A, now=129.9)
    assert found is not None and found.expires_at == 130.0
    assert agents.find(A, now=130.0) is None and agents.select(now=130.0) is None
    assert agents.on_advertisement(message(6), A, now=131.0) is Change.NEW
    assert agents.on_advertisement(message(7), A, now=140.0) is Change.SAME
    assert agents.find(A, now=169.9) is not None
    assert agents.find(B, now=140.0) is None


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (message(5), message(6), Change.SAME),
        (message(5), message(6, key=2), Change.REKEYED),
        (message(5), message(0), Change.RESTARTED),
        (message(5), message(0, key=2), Change.RESTARTED),
        (message(0xFFFF), message(256), Change.SAME),
        (message(5), message(6, lifetime_s=0), Change.WITHDRAWN),
    ],
)
def test_what_an_advertisement_changes(
    before: AgentAdvertisement, after: AgentAdvertisement, change: Change
) -> None:
    agents = AgentList()
    agents.on_advertisement(before, A, now=0.0)
    assert agents.on_advertisement(after, A, now=10.0) is change
    chosen = agents.select(now=10.0)
    if change is Change.WITHDRAWN:
        assert chosen is None
    else:
        assert chosen is not None and chosen.message == after


def test_the_last_agent_heard_is_taken_and_then_kept() -> None:
    agents = AgentList()
    agents.on_advertisement(message(5), A, now=0.0)
    agents.on_advertisement(message(5), B, now=1.0)
    chosen = agents.select(now=2.0)
    assert chosen is not None and chosen.source == B
    agents.current = B
    agents.on_advertisement(message(6), A, now=3.0)
    chosen = agents.select(now=4.0)
    assert chosen is not None and chosen.source == B
    chosen = agents.select(now=31.5)  # B has expired, A has not (RFC 5944 §2.4.2.1)
    assert chosen is not None and chosen.source == A


@pytest.mark.parametrize("closed", [message(5, busy=True), message(5, limit_s=0)])
def test_an_agent_that_takes_nobody_new_is_kept_by_those_it_has(
    closed: AgentAdvertisement,
) -> None:
    agents = AgentList()
    agents.on_advertisement(closed, A, now=0.0)
    assert agents.select(now=1.0) is None
    agents.current = A
    chosen = agents.select(now=1.0)
    assert chosen is not None and chosen.source == A


def test_a_flood_of_agents_is_bounded_and_does_not_displace_the_current_one() -> None:
    agents = AgentList()
    agents.on_advertisement(message(5), A, now=0.0)
    agents.current = A
    for number in range(10_000):
        source = IPv4Address(0x0A000000 + number)
        agents.on_advertisement(message(5, lifetime_s=65535), source, now=0.001 * number)
    assert len(agents) == MAXIMUM_AGENTS
    assert agents.find(A, now=20.0) is not None
    # The newest are kept: an agent that goes on advertising is heard behind any flood.
    assert agents.find(IPv4Address(0x0A000000 + 9_999), now=20.0) is not None
    assert agents.find(IPv4Address(0x0A000000), now=20.0) is None


def test_solicitations_are_three_and_then_ever_further_apart() -> None:
    shortest = list(itertools.islice(solicitation_delays(lambda low, _: low), 12))
    assert shortest == [0, 1, 1, 2, 4, 8, 16, 32, 64, 64, 64, 64]
    longest = list(itertools.islice(solicitation_delays(lambda _, high: high), 12))
    assert longest[:4] == [0.1, 1.25, 1.25, 2.5]
    assert longest[-1] == 1.25 * LONGEST_SOLICITATION_INTERVAL_S
    assert shortest[-1] >= 60  # RFC 5944 §2.4: at least one minute


def test_an_agent_lists_the_address_that_its_aaa_knows_and_then_its_own() -> None:
    announcement = FaAnnouncement(Nai.parse("fa1@visited.example"), bytes(16))
    heard = Heard(announcement, IPv4Address("203.0.113.5"), B)
    agent = advertised_agent(heard, A)
    assert agent.router_addresses == (
        RouterAddress(IPv4Address("203.0.113.5"), NEVER_A_DEFAULT_ROUTER),
        RouterAddress(A, NEVER_A_DEFAULT_ROUTER),
    )
    assert agent.care_of_addresses == (B,)
    assert agent.flags == AgentFlags.FOREIGN_AGENT
    agents = AgentList()
    agents.on_advertisement(AgentAdvertisement(agent, 0, 30), A, now=0.0)
    chosen = agents.select(now=0.0)
    assert chosen is not None and chosen.fa_address == heard.fa_address
    unlisted = dataclasses.replace(agent, router_addresses=())
    agents.on_advertisement(AgentAdvertisement(unlisted, 1, 30), A, now=0.0)
    chosen = agents.select(now=0.0)
    assert chosen is not None and chosen.fa_address == A


def test_an_agent_with_an_ipv6_address_is_not_advertised_by_icmp() -> None:
    announcement = FaAnnouncement(Nai.parse("fa1@visited.example"), bytes(16))
    with pytest.raises(LocalError, match="ICMP advertises IPv4 addresses"):
        advertised_agent(Heard(announcement, IPv6Address("2001:db8::7"), A), A)
