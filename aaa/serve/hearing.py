"""The mobile node's ear: hears foreign agents on one interface, and notices when one is gone.

Which agent is chosen and what counts as lost is decided in aaa.roles.agent_discovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from aaa.net.icmp import ALL_ROUTERS, MOBILE_AGENTS, NodeEndpoint
from aaa.net.udp import Address
from aaa.roles.agent_discovery import (
    AgentList,
    Change,
    HeardAdvertisement,
    solicitation_delays,
)
from aaa.roles.mobile_node import Heard
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID
from kdc.wire.icmp import AgentAdvertisement
from kdc.wire.numbers import MOBILE_IP_PORT


@dataclass(frozen=True, slots=True)
class HeardAgent:
    """A foreign agent to register with.

    `source` is its address on this link.  `registration_lifetime_s` is the longest that it
    accepts, 0xffff for no limit.  `expires_at` is a time of the event loop's clock.
    """

    heard: Heard
    source: IPv4Address
    registration_lifetime_s: int
    expires_at: float

    @property
    def address(self) -> Address:
        """Where registration requests go: UDP 434 (RFC 5944 §3.6.1.2)."""
        return str(self.source), MOBILE_IP_PORT


class NoAgentHeard(LocalError):
    """No foreign agent was heard in time; the text counts what was heard and ignored."""


class Hearing:
    """Listens on one interface while it is open."""

    def __init__(self, interface: str, *, vendor_id: int) -> None:
        """Raises `LocalError`: no such interface, or raw sockets not permitted."""
        self._loop = asyncio.get_running_loop()
        self._agents = AgentList()
        self._news = asyncio.Event()
        self._moved: Change | None = None
        self._endpoint = NodeEndpoint(interface, self._on_advertisement, vendor_id=vendor_id)
        self._random = random.SystemRandom()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, interface: str, *, vendor_id: int = DEFAULT_VENDOR_ID
    ) -> AsyncIterator[Hearing]:
        """Raises `LocalError`: no such interface, or raw sockets not permitted."""
        self = cls(interface, vendor_id=vendor_id)
        try:
            yield self
        finally:
            self._endpoint.close()

    def _on_advertisement(self, message: AgentAdvertisement, source: IPv4Address) -> None:
        change = self._agents.on_advertisement(message, source, now=self._loop.time())
        if source == self._agents.current:
            if change in (Change.RESTARTED, Change.WITHDRAWN):
                self._moved = change
            elif change is Change.NEW:  # it had expired, and nobody was watching
                self._moved = Change.LOST
        self._news.set()

    async def agent(self, timeout_s: float) -> HeardAgent:
        """The agent to register with; solicits until one is heard.

        It is the followed one while that is heard, with its newest key.  Raises `NoAgentHeard`.
        """
        until = self._loop.time() + timeout_s
        delays = solicitation_delays(self._random.uniform)
        groups = (MOBILE_AGENTS, ALL_ROUTERS)
        solicited = 0
        next_at = self._loop.time() + next(delays)
        while True:
            now = self._loop.time()
            found = self._agents.select(now=now)
            if found is not None:
                return _describe(found)
            if now >= until:
                raise NoAgentHeard(self._explain(timeout_s))
            if now >= next_at:
                self._solicit(groups[solicited % 2])
                solicited += 1
                next_at = now + next(delays)
            await self._wait(min(until, next_at) - now)

    def follow(self, agent: HeardAgent) -> None:
        """`agent` is the one that we are registered with: `moved` watches it."""
        self._agents.current = agent.source
        self._moved = None

    async def moved(self) -> Change:
        """Returns when the followed agent is lost, withdrawn or restarted: register (again).

        A lost or withdrawn agent is no longer followed.
        """
        while self._agents.current is not None and self._moved is None:
            now = self._loop.time()
            found = self._agents.find(self._agents.current, now=now)
            if found is None:
                self._moved = Change.LOST
            else:
                await self._wait(found.expires_at - now)
        reason = self._moved or Change.LOST
        self._moved = None
        if reason is not Change.RESTARTED:
            self._agents.current = None
        return reason

    def _solicit(self, group: IPv4Address) -> None:
        # An interface that is down or has no address yet may have one at the next turn.
        with contextlib.suppress(LocalError):
            self._endpoint.refresh()
            if self._endpoint.can_solicit:
                self._endpoint.solicit(group)

    async def _wait(self, timeout_s: float) -> None:
        """Until something is heard, at most `timeout_s`."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)

    def _explain(self, timeout_s: float) -> str:
        text = (
            f"no foreign agent to register with was heard on {self._endpoint.interface.name} "
            f"within {timeout_s:g} s"
        )
        ignored = self._endpoint.ignored
        if len(self._agents):
            text += f"; {len(self._agents)} said that they take no registrations"
        if ignored:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(ignored.items()))
            text += f"; ignored: {reasons}"
        return text


async def hear(
    interface: str, timeout_s: float, *, vendor_id: int = DEFAULT_VENDOR_ID
) -> HeardAgent:
    """The first usable foreign agent on `interface`, a name or a local address.

    Raises `NoAgentHeard`, or `LocalError` if the interface or raw sockets are not there.
    """
    async with Hearing.open(interface, vendor_id=vendor_id) as hearing:
        return await hearing.agent(timeout_s)


def _describe(found: HeardAdvertisement) -> HeardAgent:
    agent = found.message.agent
    # RFC 5944 §2.4: the first care-of address for the first attempt.
    heard = Heard(agent.announcement, found.fa_address, agent.care_of_addresses[0])
    return HeardAgent(heard, found.source, agent.registration_lifetime_s, found.expires_at)
