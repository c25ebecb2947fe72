"""Dynamic home addresses through real processes: at one home process, and at two KDCs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import psycopg

from aaa.net.mobile_ip import MobileIpSocket
from aaa.roles.mobile_node import Deregistered, Heard, Registered
from aaa.serve.mobile_node import exchange
from kdc.model import DEFAULT_VENDOR_ID, Enrolment
from tests.integration.domains import Domains
from tests.integration.split import PATIENCE, TERMS, Node, SplitHome

NETWORK = IPv4Network("10.200.0.0/16")
SMALL = IPv4Network("10.201.0.0/28")  # fourteen addresses


def given_out(domains: Domains) -> dict[str, str]:
    """The dynamic addresses that nobody else may have, by subscriber."""
    with psycopg.connect(domains.postgres.conninfo(domains.database_name)) as connection:
        return dict(
            connection.execute(
                "SELECT s.nai, host(r.dynamic_address) FROM key0_records AS r"
                " JOIN subscribers AS s ON s.id = r.subscriber_id"
                " WHERE r.dynamic_address IS NOT NULL"
            ).fetchall()
        )


async def visit(domains: Domains, heard: Heard, node: Node, port: str) -> IPv4Address:
    pending = node.request(heard)
    async with MobileIpSocket.open(domains.ports[port]) as link:
        node.state, answer = await exchange(
            link, node.state, pending, PATIENCE, terms=TERMS, vendor_id=DEFAULT_VENDOR_ID
        )
    assert isinstance(answer, Registered), answer
    return answer.home_address


async def test_one_process_gives_keeps_and_takes_back_addresses(domains: Domains) -> None:
    domains.edit("home.toml", 'realm = "home.example"', f'realm = "home.example"\n'
                 f'dynamic_addresses = "{NETWORK}"')  # fmt: skip
    enrolments = domains.provision(2, "--home-address-kind", "dynamic")
    heard = await domains.start_all()
    one, two = (Node(enrolment, 1) for enrolment in enrolments)
    first = await visit(domains, heard, one, "agent")
    other = await visit(domains, heard, two, "agent")
    assert first in NETWORK and other in NETWORK and first != other
    assert await visit(domains, heard, one, "agent") == first, "a renewal keeps it"
    names = [str(enrolment.nai) for enrolment in enrolments]
    assert given_out(domains) == {names[0]: str(first), names[1]: str(other)}
    pending = one.request(heard, lifetime_s=0)
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        one.state, answer = await exchange(
            link, one.state, pending, PATIENCE, terms=TERMS, vendor_id=DEFAULT_VENDOR_ID
        )
    assert isinstance(answer, Deregistered)
    assert given_out(domains) == {names[1]: str(other)}


def with_dynamic_addresses(split: SplitHome, network: IPv4Network) -> None:
    for kdc in ("kdc1", "kdc2"):
        split.edit(
            f"{kdc}.toml",
            'realm = "home.example"',
            f'realm = "home.example"\ndynamic_addresses = "{network}"',
        )


def dynamic(split: SplitHome, count: int, home_agent: str = "ha1") -> list[Node]:
    enrolments: list[Enrolment] = split.subscribers(
        count, "--home-address-kind", "dynamic", home_agent=home_agent
    )
    return [Node(enrolment, seed) for seed, enrolment in enumerate(enrolments)]


async def at_once(split: SplitHome, node: Node, agent: str) -> IPv4Address:
    """One request, one answer: no denial that a retransmission would hide."""
    assert await node.try_once(split, agent) == 0
    return node.visits[-1].answer.home_address


async def test_two_kdcs_give_each_address_once(split: SplitHome) -> None:
    """A renewal keeps it, another agent gives a fresh one, deregistration frees it."""
    with_dynamic_addresses(split, SMALL)
    ours, others = dynamic(split, 7), dynamic(split, 7, "ha2")
    extra = dynamic_extra(split)
    await split.launch("kdc1", "kdc2", "ha1", "ha2", "home", "foreign", "fa1", "fa3", "fa4")
    addresses: dict[int, IPv4Address] = {}
    # By turns at both KDCs, each of which keeps addresses ready that the other may give away.
    pairs = [(n, a) for both in zip(ours, others, strict=True)
             for n, a in zip(both, ("fa3", "fa4"), strict=True)]  # fmt: skip
    for node, agent in pairs[:10]:
        addresses[id(node)] = await at_once(split, node, agent)
    assert len(set(addresses.values())) == 10
    for node, agent in pairs[:10]:
        renewed = await at_once(split, node, agent)
        assert renewed == addresses[id(node)], "a renewal at the same agent keeps it"
    moved = await at_once(split, ours[0], "fa1")
    assert moved not in addresses.values(), "another agent, another address"
    back = await at_once(split, ours[0], "fa3")
    assert back != moved
    addresses[id(ours[0])] = back
    for node, agent in pairs[10:]:  # down to the last one of the network
        addresses[id(node)] = await at_once(split, node, agent)
    assert len(set(addresses.values())) == 14 == SMALL.num_addresses - 2
    assert all(address in SMALL for address in addresses.values())
    assert set(given_out(split).values()) == {str(a) for a in addresses.values()}
    assert await extra.try_once(split, "fa3") == 67, "none is left"
    assert isinstance(await others[0].ask(split, "fa4", lifetime_s=0), Deregistered)
    freed = addresses.pop(id(others[0]))
    assert await at_once(split, extra, "fa3") == freed, "the one that was given back"
    assert set(given_out(split).values()) == {str(a) for a in addresses.values()} | {str(freed)}


def dynamic_extra(split: SplitHome) -> Node:
    (enrolment,) = split.subscribers(1, "--home-address-kind", "dynamic", name="extra")
    return Node(enrolment, 99)
