"""What foreign.toml and home.toml say of servers that stand in for each other."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from aaa.cli.settings import describe_settings
from aaa.config import ForeignConfig, load_foreign, load_home
from aaa.radius.pools import HealthPolicy, Pool, Strategy
from aaa.serve.configured_pools import agent_pools, home_pools, realm_table, udp_hop
from aaa.serve.pools import TimedPool
from kdc.config import ConfigurationError

FOREIGN = """
[foreign]
listen = ["127.0.0.1:1813"]
realm = "visited.example"
deadline_s = 2.0

[[client]]
name = "hub"
address = "127.0.0.3/32"
secret_file = "secret"
realms = ["Partner.example"]

[[home_server]]
name = "one"
address = "[::1]:1812"
secret_file = "secret"
realms = ["home.example", ".Short.example"]

[[home_server]]
name = "two"
address = "127.0.0.1:1812"
secret_file = "secret"
realms = ["home.example"]
timeout_s = 0.4
retries = 4
status_server = false
revive_after_s = 20

[[home_server]]
name = "three"
address = "127.0.0.1:1814"
secret_file = "secret"
probe_interval_s = 10

[[pool]]
name = "hubs"
servers = ["three", "one"]
realms = ["*", ".example", "bücher.example"]
strategy = "consistent-hash"
deadline_s = 1.5
"""
HOME = """
[home]
listen = ["127.0.0.1:1812"]
realm = "home.example"

[[home_agent]]
name = "ha1"
address = "192.0.2.1"
server = "127.0.0.1:1815"
secret_file = "secret"

[[home_agent]]
name = "ha2"
address = "192.0.2.2"
server = "127.0.0.1:1816"
secret_file = "secret"

[[home_agent]]
name = "ha1b"
address = "192.0.2.1"
server = "127.0.0.1:1817"
secret_file = "secret"
status_server = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"sixteen octets, at least\n")
    (tmp_path / "secret").chmod(0o600)
    return tmp_path


def read(folder: Path, text: str) -> ForeignConfig:
    path = folder / "foreign.toml"
    path.write_text(text)
    return load_foreign(path)


def test_pools_of_the_file_and_those_that_realms_of_servers_make(folder: Path) -> None:
    config = read(folder, FOREIGN)
    pools = {each.pool.name: each for each in home_pools(config)}
    table = realm_table(config)
    both = table.find("home.example")
    assert both is not None
    assert pools[both] == TimedPool(Pool(both, ("one", "two")), 2.0)
    short = table.find("a.short.example")
    assert short is not None
    assert pools[short] == TimedPool(Pool(short, ("one",)), 2.0)
    hubs = TimedPool(Pool("hubs", ("three", "one"), Strategy.CONSISTENT_HASH), 1.5)
    assert pools["hubs"] == hubs
    for realm in ("other.example", "bücher.example", "somewhere.else"):
        assert table.find(realm) == "hubs"
    assert config.client[0].realms == ("partner.example",)


def test_how_a_server_is_asked_and_watched(folder: Path) -> None:
    one, two, three = (udp_hop(s, s.address) for s in read(folder, FOREIGN).home_server)
    assert one[1] == HealthPolicy(probe_interval_s=30, revive_after_s=60)
    assert (one[0].server.timeout_s, one[0].server.retries) == (1.0, 2)
    assert two[1] == HealthPolicy(status_server=False, revive_after_s=20)
    assert (two[0].server.timeout_s, two[0].server.retries) == (0.4, 4)
    assert three[1].probe_interval_s == 10


def test_what_was_understood_can_be_read_again(folder: Path) -> None:
    config = read(folder, FOREIGN)
    said = "\n".join(describe_settings(config))
    assert read(folder, said.replace("<Secret of 24 octets>", '"secret"')) == config


def test_home_agents_of_one_address_are_one_pool_in_the_order_of_the_file(folder: Path) -> None:
    (folder / "home.toml").write_text(HOME)
    config = load_home(folder / "home.toml")
    pools = agent_pools(config.home_agent, config.home.agent_deadline_s)
    assert pools == {
        IPv4Address("192.0.2.1"): TimedPool(Pool("192.0.2.1", ("ha1", "ha1b")), 2.25),
        IPv4Address("192.0.2.2"): TimedPool(Pool("192.0.2.2", ("ha2",)), 2.25),
    }


def test_two_home_agents_of_one_name(folder: Path) -> None:
    (folder / "home.toml").write_text(HOME.replace('"ha1b"', '"ha1"'))
    with pytest.raises(ConfigurationError, match=r"expected each \[\[home_agent\]\] to have"):
        load_home(folder / "home.toml")


PATTERN = 'expected a realm, such as home.example, a suffix, ".example", or "*"'


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"*"', '"**"', f"pool[0].realms[0]: {PATTERN}"),
        ('"*"', '"single"', f"pool[0].realms[0]: {PATTERN}"),
        ('".Short.example"', '"Short..example"', f"home_server[0].realms[1]: {PATTERN}"),
        ('"*"', '".example"', "pool[0].realms: expected each of them once"),
        ('["three", "one"]', '["three", "three"]', "pool[0].servers: expected each of them once"),
        ('["three", "one"]', "[]", "pool[0].servers: expected at least one"),
        ('["three", "one"]', '["three", "x"]', "expected x of pool hubs as a [[home_server]]"),
        (
            '["three", "one"]',
            '["one"]',
            "expected realms of home_server three, or a [[pool]] that names it",
        ),
        (
            '"*"',
            '"Home.Example"',
            "expected home.example in one [[pool]], or as a realm of [[home_server]] alone",
        ),
        ('"two"', '"one"', "expected each home_server to have a name of its own: one"),
        ('"consistent-hash"', '"random"', "expected 'failover' or 'consistent-hash'"),
        ("deadline_s = 1.5", "deadline_s = 31", "pool[0].deadline_s: expected less than"),
        ("deadline_s = 2.0", "deadline_s = 0", "foreign.deadline_s: expected greater than"),
        ("probe_interval_s = 10", "probe_interval_s = 1", "home_server[2].probe_interval_s"),
        (
            'realms = ["Partner.example"]',
            "",
            "client[0]: expected fa_nai, nas_address and nas_identifier of a foreign agent, or",
        ),
        (
            'realms = ["Partner.example"]',
            'realms = ["partner.example"]\nfa_nai = "fa1@visited.example"',
            "realms alone of a proxy",
        ),
    ],
)
def test_what_is_wrong_with_a_pool_is_said(folder: Path, old: str, new: str, problem: str) -> None:
    assert old in FOREIGN
    with pytest.raises(ConfigurationError) as refused:
        read(folder, FOREIGN.replace(old, new, 1))
    assert problem in str(refused.value)
    assert len(refused.value.problems) == 1


def test_pools_of_one_name(folder: Path) -> None:
    again = '[[pool]]\nname = "hubs"\nservers = ["two"]\nrealms = ["x.example"]\n'
    with pytest.raises(ConfigurationError, match="expected each pool to have a name of its own"):
        read(folder, FOREIGN + again)
