"""radclient accounts for a session, ends it and asks for a new one: at our proxy and beyond it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from aaa.demo.configurations import AGENTS
from tests.integration.domains import Domains
from tests.integration.radclient import SIGNED, Heard, Radclient, needs_radclient
from tests.integration.sessions import Sessions
from tests.integration.test_processes import Node

pytestmark = needs_radclient

WRONG = b"another secret that is long enough"
OLD_S = 1000  # outside of the window of 300 s (PROTOCOL section 9)


@dataclass
class Stage:
    """Both domains with one registered node, and radclient beside them."""

    sessions: Sessions
    radclient: Radclient
    registered: dict[str, Any]  # the node's own session as home has it

    async def ask(
        self, port: str, command: str, lines: list[str], secret: bytes, *, tries: int = 1
    ) -> Heard:
        address = self.sessions.ports[port]
        return await asyncio.to_thread(
            self.radclient.ask, address, command, lines, secret, tries=tries
        )

    def secret(self, name: str) -> bytes:
        return self.sessions.domains.secret(name)


@pytest.fixture
async def stage(domains: Domains) -> AsyncIterator[Stage]:
    sessions = Sessions(domains)
    try:
        (enrolment,) = domains.provision(1)
        heard = await domains.start_all()
        node = Node(enrolment, random.Random(7))
        await node.register(domains, heard, time.time())
        (session,) = await sessions.wait_for_sessions(bool)
        yield Stage(sessions, Radclient(domains.folder / "radclient"), session)
    finally:
        sessions.close()


async def test_accounting_through_the_proxy(stage: Stage) -> None:
    """Radclient is the agent: what it says is stored at home, in the name of the proxy's realm."""
    said = [
        'Acct-Session-Id = "rc-7"',
        'NAS-Identifier = "fa1"',
        f"NAS-IP-Address = {AGENTS['fa1']}",
        f"Class = 0x{stage.registered['registration']}",
        f'User-Name = "{stage.registered["user_name"]}"',
        'Roamkey-FA-NAI = "fa1@visited.example"',
        *(f"Roamkey-SPI += {spi}" for spi in stage.registered["spis"]),
        'Operator-Name = "1evil.example"',  # replaced by the proxy
    ]
    started = [*said, "Acct-Status-Type = Start"]
    heard = await stage.ask("foreign_accounting", "acct", started, WRONG)
    assert heard.code is None, heard.output
    for status, seconds in (("Start", 0), ("Interim-Update", 60), ("Stop", 90)):
        lines = [*said, f"Acct-Status-Type = {status}", f"Acct-Session-Time = {seconds}"]
        lines.append(f"Acct-Output-Octets = {10 * seconds}")
        heard = await stage.ask("foreign_accounting", "acct", lines, stage.secret("fa1.secret"))
        assert heard.code == "Accounting-Response", heard.output
        found = await stage.sessions.kdc_json("session", "list")
        (session,) = [each for each in found if each["session_id"] == "rc-7"]
        assert session["session_time_s"] == seconds
        assert session["output_octets"] == 10 * seconds
    assert (session["status"], session["operator_realm"]) == ("stopped", "visited.example")
    assert session["registered"] and session["spis"] == stage.registered["spis"]
    assert len(found) == 2
    heard = await stage.ask("foreign_accounting", "status", [SIGNED], stage.secret("fa1.secret"))
    assert heard.code == "Accounting-Response", heard.output


def _asked(stage: Stage, *, realm: str = "visited.example", at: float | None = None) -> list[str]:
    """Of home toward the foreign domain: the session, and where it is (RFC 8559)."""
    return [
        SIGNED,
        'User-Name = "@home.example"',
        'NAS-Identifier = "fa1"',
        f"NAS-IP-Address = {AGENTS['fa1']}",
        f'Operator-Name = "1{realm}"',
        f"Class = 0x{stage.registered['registration']}",
        *(f"Roamkey-SPI += {spi}" for spi in stage.registered["spis"]),
        f"Event-Timestamp = {int(time.time() if at is None else at)}",
    ]


async def test_disconnect_and_coa_through_the_proxy(stage: Stage) -> None:
    """Radclient is the home: the proxy finds the agent by Operator-Name and NAS-Identifier."""
    secret = stage.secret("visited.secret")
    spis = {str(spi) for spi in stage.registered["spis"]}

    async def ask(command: str, lines: list[str]) -> Heard:
        return await stage.ask("foreign_dynauth", command, lines, secret, tries=2)

    for command in ("disconnect", "coa"):
        heard = await stage.ask("foreign_dynauth", command, _asked(stage), WRONG)
        assert heard.code is None, heard.output
        heard = await stage.ask(
            "foreign_dynauth", command, _asked(stage, at=time.time() - OLD_S), secret
        )
        assert heard.code is None, heard.output
    elsewhere = await ask("disconnect", _asked(stage, realm="elsewhere.example"))
    assert elsewhere.code == "Disconnect-NAK", elsewhere.output
    assert elsewhere.text("Error-Cause") == "Proxy-Request-Not-Routable"
    another = [line for line in _asked(stage) if not line.startswith("Class")]
    unknown = await ask("disconnect", [*another, f"Class = 0x{bytes(16).hex()}"])
    assert unknown.code == "Disconnect-NAK", unknown.output
    assert unknown.text("Error-Cause") == "Session-Context-Not-Found"
    assert all(spi in stage.sessions.agent_keys() for spi in spis), "nothing has been ended yet"
    renewed = await ask("coa", _asked(stage))
    # An agent that does not advertise on a link has no way to ask a node (RFC 5944 §2.4.4).
    assert (renewed.code, renewed.text("Error-Cause")) == ("CoA-NAK", "Unsupported-Extension")
    assert all(spi in stage.sessions.agent_keys() for spi in spis), "asking anew ends nothing"
    ended = await ask("disconnect", _asked(stage))
    assert ended.code == "Disconnect-ACK", ended.output
    (session,) = await stage.sessions.wait_for_sessions(
        lambda found: found[0]["status"] == "stopped"
    )
    assert session["terminate_cause"] == 6  # Admin Reset (RFC 2866 §5.10)
    assert not any(spi in stage.sessions.agent_keys() for spi in spis)
