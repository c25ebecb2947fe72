"""A foreign agent advertises itself by ICMP: when, how often, and to whom (RFC 1256 §4.3).

What is advertised comes from a callable, so that a new key is in the next message; the socket is
aaa.net.icmp's.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

import structlog

from aaa.net.icmp import ALL_SYSTEMS, AgentEndpoint
from aaa.roles.mobile_node import Heard
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID
from kdc.wire.icmp import (
    NEVER_A_DEFAULT_ROUTER,
    AdvertisedAgent,
    AgentAdvertisement,
    AgentFlags,
    RouterAddress,
    encode_agent_advertisement,
    next_sequence_number,
)
from kdc.wire.numbers import INFINITE_LIFETIME

INITIAL_ADVERTISEMENTS: Final = 3  # RFC 1256 §6
LONGEST_INITIAL_INTERVAL_S: Final = 16.0
SHORTEST_INTERVAL: Final = 0.75  # RFC 1256 §4.1: MinAdvertisementInterval, of the maximum
LIFETIME_INTERVALS: Final = 3  # RFC 5944 §2.1: a node may miss three
SHORTEST_MULTICAST_GAP_S: Final = 1.0  # RFC 5944 §2.3: the rate MUST be limited
# RFC 1256 §6 allows 2 s; a mobile node is waiting.  Those that ask meanwhile share the answer.
SHORTEST_ANSWER_DELAY_S: Final = 0.05
LONGEST_ANSWER_DELAY_S: Final = 0.25
MAXIMUM_UNICAST_ANSWERS: Final = 8  # of one delay; more solicitations get one multicast answer

log = structlog.get_logger("aaa.agent")


class Advertiser:
    """Advertises on one interface from `start` to `stop`.

    `interface` is a name or a local address; `content` returns what is advertised at this moment.
    `interval_s` is RFC 1256's MaxAdvertisementInterval.  `busy` sets the B bit.
    """

    def __init__(
        self,
        interface: str,
        interval_s: float,
        content: Callable[[], Heard],
        *,
        vendor_id: int = DEFAULT_VENDOR_ID,
        destination: IPv4Address = ALL_SYSTEMS,
        busy: Callable[[], bool] | None = None,
    ) -> None:
        self._interface = interface
        self._interval_s = interval_s
        self._content = content
        self._vendor_id = vendor_id
        self._destination = destination
        self._busy = busy
        self._random = random.SystemRandom()
        self._endpoint: AgentEndpoint | None = None
        self._sequence_number = 0  # of the next message
        self._multicast_sent = 0
        self._last_multicast_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._asking: set[IPv4Address] = set()
        self._answer_all = False
        self._failing = False

    def start(self) -> None:
        """Opens the socket and sends the first advertisement.

        Raises `LocalError`: no such interface, no IPv4 address, or raw sockets not permitted.
        """
        self._loop = asyncio.get_running_loop()
        self._endpoint = AgentEndpoint(self._interface, self._on_solicitation)
        try:
            self._send(self._destination, lifetime_s=self.lifetime_s)
        except BaseException:
            self._endpoint.close()
            raise
        self._sent_to_all()
        log.info("advertising", interface=self._endpoint.interface.name, every_s=self._interval_s)

    def renew(self) -> None:
        """Advertises at once: what `content` returns has changed."""
        assert self._endpoint is not None
        self._multicast_soon()

    def invite(self, node: IPv4Address) -> None:
        """Asks one node to register again: to it alone, we begin anew (RFC 5944 §2.4.4).

        It hears our next message, lest the only one it knows be number 0, and then number 0; the
        next one that goes to all is no other restart.  Raises `LocalError` if that cannot be sent.
        """
        if self._endpoint is None or not self._endpoint.interface.is_neighbour(node):
            raise LocalError(f"{self._interface}: expected a neighbour to invite")
        self._send(node, lifetime_s=self.lifetime_s)
        self._send(node, lifetime_s=self.lifetime_s, sequence_number=0)

    def stop(self) -> None:
        """RFC 1256 §4.3: one last advertisement with lifetime 0, then the socket is closed."""
        if self._endpoint is None:
            return
        for timer in (self._timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        endpoint = self._endpoint
        try:
            self._try_to_send(self._destination, lifetime_s=0)
        finally:
            self._endpoint = None
            endpoint.close()

    @property
    def lifetime_s(self) -> int:
        return min(math.ceil(LIFETIME_INTERVALS * self._interval_s), 0xFFFF)

    # --- to all ---

    def _multicast(self) -> None:
        try:
            self._try_to_send(self._destination, lifetime_s=self.lifetime_s)
        finally:
            self._sent_to_all()

    def _sent_to_all(self) -> None:
        """Sets the timer anew, as for every multicast advertisement (RFC 1256 §4.3)."""
        self._multicast_sent += 1
        self._last_multicast_at = self._loop.time()
        interval_s = self._random.uniform(SHORTEST_INTERVAL, 1.0) * self._interval_s
        if self._multicast_sent < INITIAL_ADVERTISEMENTS:
            interval_s = min(interval_s, LONGEST_INITIAL_INTERVAL_S)
        self._set_timer(interval_s)

    def _multicast_soon(self) -> None:
        """Now, or as soon as the limit on the rate allows."""
        wait_s = self._last_multicast_at + SHORTEST_MULTICAST_GAP_S - self._loop.time()
        if wait_s <= 0:
            self._multicast()
        elif self._timer is None or self._timer.when() > self._loop.time() + wait_s:
            self._set_timer(wait_s)

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._multicast)

    # --- to those who ask ---

    def _on_solicitation(self, source: IPv4Address) -> None:
        assert self._endpoint is not None
        # One that is no neighbour (0.0.0.0, a node with its home address) is on this link all the
        # same; by unicast the routing table would send its answer elsewhere.
        if (
            len(self._asking) < MAXIMUM_UNICAST_ANSWERS
            and self._endpoint.interface.is_neighbour(source)
        ):  # fmt: skip
            self._asking.add(source)
        elif source not in self._asking:
            self._answer_all = True
        if self._answer_timer is None:
            delay_s = self._random.uniform(SHORTEST_ANSWER_DELAY_S, LONGEST_ANSWER_DELAY_S)
            self._answer_timer = self._loop.call_later(delay_s, self._answer)

    def _answer(self) -> None:
        self._answer_timer = None
        asking, self._asking = self._asking, set()
        if self._answer_all:
            self._answer_all = False
            self._multicast_soon()
            return
        for source in asking:
            self._try_to_send(source, lifetime_s=self.lifetime_s)

    # --- one message ---

    def _try_to_send(self, to: IPv4Address, *, lifetime_s: int) -> None:
        """What is not sent is told once, and again when it works again."""
        try:
            self._send(to, lifetime_s=lifetime_s)
        except LocalError as error:
            if not self._failing:
                log.warning("not advertised", reason=str(error))
            self._failing = True
            return
        if self._failing:
            log.info("advertising again")
        self._failing = False

    def _send(
        self, to: IPv4Address, *, lifetime_s: int, sequence_number: int | None = None
    ) -> None:
        """With a `sequence_number` the message is not one of the row."""
        assert self._endpoint is not None
        self._endpoint.refresh()
        source = self._endpoint.interface.address
        if source is None:
            raise LocalError(f"{self._interface}: expected an interface with an IPv4 address")
        agent = advertised_agent(self._content(), source, busy=bool(self._busy and self._busy()))
        number = self._sequence_number if sequence_number is None else sequence_number
        message = AgentAdvertisement(agent, number, lifetime_s)
        self._endpoint.send(encode_agent_advertisement(message, self._vendor_id), to)
        if sequence_number is None:
            self._sequence_number = next_sequence_number(number)


def advertised_agent(heard: Heard, source: IPv4Address, *, busy: bool = False) -> AdvertisedAgent:
    """What is to be heard, as the agent says it from its address `source` on the link.

    The router addresses are the one that its AAA knows it by, then `source`.  We are no router for
    other hosts: code 16, and the lowest preference.  Raises `LocalError`.
    """
    if not isinstance(heard.fa_address, IPv4Address):
        raise LocalError("ICMP advertises IPv4 addresses: expected one as the agent's address")
    addresses = dict.fromkeys((heard.fa_address, source))
    flags = AgentFlags.FOREIGN_AGENT
    if busy:
        flags |= AgentFlags.BUSY
    return AdvertisedAgent(
        heard.announcement,
        (heard.care_of_address,),
        # The home decides on lifetimes; this agent has no limit of its own.
        INFINITE_LIFETIME,
        flags,
        tuple(RouterAddress(address, NEVER_A_DEFAULT_ROUTER) for address in addresses),
    )
