"""radclient, FreeRADIUS' own client, asks our servers everything that it can ask."""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address

import pytest

from aaa.demo.configurations import AGENTS
from aaa.exchange import AccessAccept
from aaa.radius.attributes import encode_access_request
from aaa.roles.foreign_agent import FaIdentity, ForeignAgent, Relayed
from aaa.roles.mobile_node import (
    Heard,
    MobileNodeState,
    Registered,
    accept_reply,
    build_request,
)
from kdc.model import DEFAULT_VENDOR_ID, Nai, Pair
from tests.integration.domains import Domains
from tests.integration.radclient import SIGNED, Radclient, lines_of, needs_radclient
from tests.integration.radclient import Heard as Said
from tests.integration.visits import stored_associations

pytestmark = needs_radclient

SECRETS = {"home": "visited.secret", "foreign": "fa1.secret"}
WRONG = b"another secret that is long enough"


@pytest.fixture
def radclient(domains: Domains) -> Radclient:
    return Radclient(domains.folder / "radclient")


async def _start(domains: Domains) -> None:
    for name in ("home", "foreign"):
        domains.start(name)
    for name, file in SECRETS.items():
        await domains.wait_for(name, file)


def _agent() -> ForeignAgent:
    """fa1, whose RADIUS client is radclient."""
    address = IPv4Address(AGENTS["fa1"])
    agent = ForeignAgent(FaIdentity(Nai.parse("fa1@visited.example"), address, address, b"fa1"))
    agent.rotate_key(now=time.time(), entropy=os.urandom)
    return agent


def _accept(said: Said) -> AccessAccept:
    return AccessAccept(
        user_name=Nai.parse(said.text("User-Name")),
        chargeable_user_identity=said.octets("Chargeable-User-Identity"),
        class_id=said.octets("Class"),
        session_timeout_s=int(said.text("Session-Timeout")),
        registration_reply=said.octets("Roamkey-Registration-Reply"),
        fa_wrapped_key=said.octets("Roamkey-FA-Wrapped-Key"),
    )


@pytest.mark.parametrize("server", ["home", "foreign"])
async def test_auth_registers_a_node(domains: Domains, radclient: Radclient, server: str) -> None:
    """What radclient prints of the Access-Accept opens at the foreign agent and at the node."""
    (enrolment,) = domains.provision(1)
    await _start(domains)
    agent = _agent()
    identity = agent.identity
    heard = Heard(agent.announcement, identity.address, identity.care_of_address)
    state, pending = build_request(
        MobileNodeState.enrolled(enrolment),
        heard,
        lifetime_s=600,
        now=time.time(),
        entropy=os.urandom,
    )
    relayed = agent.on_request(pending.octets, ("link", 1))
    assert isinstance(relayed, Relayed)
    lines = lines_of(encode_access_request(relayed.access, DEFAULT_VENDOR_ID))
    said = radclient.ask(domains.ports[server], "auth", lines, domains.secret(SECRETS[server]))
    assert said.code == "Access-Accept", said.output
    delivery = agent.on_response(relayed, _accept(said))
    _, answer = accept_reply(state, pending, delivery.octets, now=time.time())
    assert isinstance(answer, Registered)
    at_agent = {item.pair: item.keys for item in delivery.associations}
    stored = stored_associations(domains.postgres, domains.database_name)
    at_home = {item.pair: item.keys for item in stored}
    assert at_home[Pair.MN_HA] == answer.mn_ha.keys
    assert at_home[Pair.FA_HA] == at_agent[Pair.FA_HA]
    assert at_agent[Pair.MN_FA] == answer.mn_fa.keys


async def test_a_wrong_secret_hears_nothing_and_is_counted(
    domains: Domains, radclient: Radclient
) -> None:
    await _start(domains)
    lines = [SIGNED, 'User-Name = "@home.example"']
    for server, file in SECRETS.items():
        address = domains.ports[server]
        for command in ("auth", "status"):
            said = radclient.ask(address, command, lines, WRONG, tries=1)
            assert said.code is None, said.output
        said = radclient.ask(address, "status", [SIGNED], domains.secret(file))
        assert said.code == "Access-Accept", said.output
    domains.stop_all()
    for server in SECRETS:
        assert "radius.bad_authenticator=2" in domains.log(server)
