"""From the file of a foreign AAA to who may ask it, and where its accounting goes."""

from __future__ import annotations

from typing import Any

import pytest

from aaa.config import ForeignConfig
from aaa.proxying import Route
from aaa.serve.foreign_services import (
    accounting_address,
    all_routes,
    asking_homes,
    route_finder,
)
from kdc.errors import LocalError
from kdc.model import Secret

SECRETS = [Secret(b"of the first home"), Secret(b"of the second one")]


def _config(*homes: dict[str, Any]) -> ForeignConfig:
    servers = [
        {
            "name": f"home{number}",
            "address": "192.0.2.1:1812",
            "secret_file": SECRETS[number],
            "realms": ("home.example",),
        }
        | home
        for number, home in enumerate(homes)
    ]
    return ForeignConfig.model_validate(
        {
            "foreign": {
                "listen": ("127.0.0.1:1812",),
                "dynamic_authorization_listen": ("127.0.0.1:3799",),
                "realm": "visited.example",
            },
            "home_server": tuple(servers),
        }
    )


def test_homes_ask_from_the_addresses_at_which_they_are_asked() -> None:
    table = asking_homes(_config({}, {"address": "192.0.2.2:1812", "realms": ("other.example",)}))
    first, second = table.find("192.0.2.1"), table.find("192.0.2.2")
    assert first is not None and second is not None
    assert (first.name, first.secrets) == ("home0", (SECRETS[0],))
    assert (second.name, second.secrets) == ("home1", (SECRETS[1],))
    assert table.find("192.0.2.3") is None


def test_servers_at_one_address_are_one_home_with_a_secret_each() -> None:
    table = asking_homes(_config({}, {"address": "192.0.2.1:11812"}))
    found = table.find("192.0.2.1")
    assert found is not None and found.secrets == tuple(SECRETS)


def test_two_homes_at_one_address_could_not_be_told_apart() -> None:
    with pytest.raises(LocalError, match="the same realms of two servers at one address"):
        asking_homes(_config({}, {"realms": ("other.example",)}))


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "192.0.2.1:1813"),
        ({"address": "[2001:db8::1]:1812"}, "[2001:db8::1]:1813"),
        ({"accounting": "192.0.2.9:11813"}, "192.0.2.9:11813"),
    ],
)
def test_accounting_goes_to_the_next_port_or_where_it_is_said(
    given: dict[str, str], address: str
) -> None:
    assert accounting_address(_config(given).home_server[0]) == address


def test_servers_with_several_realms_are_one_way() -> None:
    config = _config({"realms": ("home.example", ".home.example")})
    (route,) = all_routes(config)
    assert route.servers == ("home0",)
    find = route_finder(config)
    assert find("a.home.example") == Route("the servers of .home.example", ("home0",))
    assert find("other.example") is None
