"""Which foreign agents a mobile node hears, and when it has lost the one it uses (RFC 5944 §2.4).

Pure: what was heard and the clock come in as arguments.  `now` is any clock that never goes back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kdc.wire.icmp import AgentAdvertisement, AgentFlags, tells_restart

MAXIMUM_AGENTS: Final = 32
INITIAL_SOLICITATIONS: Final = 3  # RFC 5944 §2.4: at most one a second, then further apart
LONGEST_SOLICITATION_INTERVAL_S: Final = 64.0  # RFC 5944 §2.4: at least one minute
# RFC 1256 §5.3 asks for up to 1 s, for hosts that start together after a power failure.  A node
# that has just moved is waiting for this very answer; a tenth keeps apart those that came together.
LONGEST_FIRST_DELAY_S: Final = 0.1


class Change(enum.Enum):
    """What an advertisement, or its absence, has changed."""

    NEW = "new"  # an agent not heard before, or not any more
    SAME = "same"
    REKEYED = "rekeyed"  # another FK: the next request names it, the registration stands
    RESTARTED = "restarted"  # RFC 5944 §2.4.4: register again
    WITHDRAWN = "withdrawn"  # lifetime 0
    LOST = "lost"  # RFC 5944 §2.4.2.1: nothing heard for the lifetime


@dataclass(frozen=True, slots=True)
class HeardAdvertisement:
    """The newest advertisement of one agent."""

    message: AgentAdvertisement
    source: IPv4Address
    heard_at: float

    @property
    def expires_at(self) -> float:
        return self.heard_at + self.message.lifetime_s

    @property
    def fa_address(self) -> IPv4Address:
        """The FA's address as its AAA knows it: the first router address, else the source."""
        routers = self.message.agent.router_addresses
        return routers[0].address if routers else self.source

    @property
    def accepts_new(self) -> bool:
        """Whether an agent that we are not registered with would take a registration."""
        agent = self.message.agent
        return AgentFlags.BUSY not in agent.flags and agent.registration_lifetime_s > 0


class AgentList:
    """The agents heard on one link, at most 32, by source address.

    `current` is the one that the node is registered with, if any; no flood of others displaces it.
    """

    def __init__(self) -> None:
        self._agents: dict[IPv4Address, HeardAdvertisement] = {}  # heard longest ago first
        self.current: IPv4Address | None = None

    def __len__(self) -> int:
        return len(self._agents)

    def on_advertisement(
        self, message: AgentAdvertisement, source: IPv4Address, *, now: float
    ) -> Change:
        """Keeps the newest advertisement of each agent."""
        before = self._agents.pop(source, None)
        if message.lifetime_s == 0:
            return Change.WITHDRAWN
        self._agents[source] = HeardAdvertisement(message, source, now)
        if len(self._agents) > MAXIMUM_AGENTS:
            del self._agents[next(item for item in self._agents if item != self.current)]
        if before is None or before.expires_at <= now:
            return Change.NEW
        if tells_restart(before.message.sequence_number, message.sequence_number):
            return Change.RESTARTED
        same = before.message.agent.announcement == message.agent.announcement
        return Change.SAME if same else Change.REKEYED

    def find(self, source: IPv4Address, *, now: float) -> HeardAdvertisement | None:
        """The newest advertisement of an agent, None if it has expired."""
        found = self._agents.get(source)
        return found if found is not None and now < found.expires_at else None

    def select(self, *, now: float) -> HeardAdvertisement | None:
        """The agent to register with: the current one while it is heard, else the last heard."""
        if self.current is not None and (kept := self.find(self.current, now=now)):
            return kept
        for item in reversed(self._agents.values()):
            if now < item.expires_at and item.accepts_new:
                return item
        return None


def solicitation_delays(uniform: Callable[[float, float], float]) -> Iterator[float]:
    """Seconds to wait before each solicitation: three soon, then twice as long each time.

    `uniform` draws between its arguments (RFC 5944 §2.4: the intervals are randomized).
    """
    yield uniform(0, LONGEST_FIRST_DELAY_S)
    for _ in range(INITIAL_SOLICITATIONS - 1):
        yield uniform(1.0, 1.25)
    interval_s = 2.0
    while True:
        yield uniform(interval_s, 1.25 * interval_s)
        interval_s = min(2 * interval_s, LONGEST_SOLICITATION_INTERVAL_S)
