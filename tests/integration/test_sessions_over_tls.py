"""Dynamic authorization over TLS while parties go and come back, over what they have opened."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaa.roles.mobile_node import Registered
from tests.conftest import PostgresServer
from tests.integration.sessions import Operated
from tests.integration.test_processes import Node
from tests.integration.tls_home import TlsDomains


@pytest.fixture
def operated(tmp_path: Path, postgres: PostgresServer, database_name: str) -> Iterator[Operated]:
    """Configured and not started; nothing runs afterwards."""
    domains = TlsDomains(tmp_path, postgres, database_name)
    domains.configure()
    domains.edit(
        "agent.toml",
        "[radius]\n",
        '[keys]\nfile = "agent.keys"\n\n[radius]\naccounting = true\n',
    )
    try:
        yield Operated(domains)
    finally:
        domains.kill_all()


async def _registered(operated: Operated) -> tuple[str, Registered]:
    domains = operated.domains
    assert isinstance(domains, TlsDomains)
    (enrolment,) = domains.provision(1)
    heard = await domains.start_all_over_tls()
    node = Node(enrolment, random.Random(7))
    await node.register(domains, heard, time.time())
    return str(enrolment.nai), node.answers[0]


@pytest.mark.parametrize("old", [None, "foreign.toml"], ids=["RADIUS 1.1", "RADIUS 1.0"])
async def test_suspended_at_home_and_gone_at_the_agent(operated: Operated, old: str | None) -> None:
    """No party has a port for it: home, proxy and agent are all reached over what they opened."""
    domains = operated.domains
    if old is not None:
        domains.edit(old, "[tls]\n", '[tls]\nradius_versions = ["1.0"]\n')
    nai, answer = await _registered(operated)
    (session,) = await operated.wait_for_sessions(bool)
    assert session["registered"] and session["subscriber"] == nai
    assert (session["peer"], session["operator_realm"]) == ("visited", "visited.example")
    assert str(answer.mn_fa.spi) in operated.agent_keys()
    (told,) = await operated.kdc_json("subscriber", "suspend", nai)
    (ended,) = told["registrations"]
    assert (ended["state"], ended["error_cause"]) == ("acked", None)
    assert str(answer.mn_fa.spi) not in operated.agent_keys()
    (session,) = await operated.wait_for_sessions(lambda found: found[0]["status"] == "stopped")
    assert session["terminate_cause"] == 6  # Admin Reset
    assert domains.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
    for name in ("home", "foreign"):
        assert " connected " in domains.log(name)


async def test_a_proxy_that_comes_back_gets_what_has_waited(operated: Operated) -> None:
    domains = operated.domains
    _, answer = await _registered(operated)
    await operated.wait_for_sessions(bool)
    assert domains.stop("foreign") == 0
    await operated.kdc("sa", "revoke", str(answer.mn_fa.spi), "--no-wait")
    assert operated.disconnects()[-1]["state"] == "pending", "no node has a way: nobody takes it"
    domains.start("foreign")  # nobody has a request for it: it connects to be asked
    ended = await operated.wait_for_disconnect("acked")
    assert ended["attempts"] >= 1
    assert str(answer.mn_fa.spi) not in operated.agent_keys()
