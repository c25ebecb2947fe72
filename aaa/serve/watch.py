"""What an operator is told of packets and clients: rate-limited log lines, and a trace if asked.

Counting is done where things happen; what an attribute may show is aaa.radius.dictionary's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from aaa.net import observing
from aaa.net.limited_log import LimitedLog
from aaa.net.observing import Hop
from aaa.radius import counters as names
from aaa.radius.clients import Client
from aaa.radius.packet import Packet
from aaa.serve.process import on_user_signal
from aaa.serve.trace import Trace
from kdc.secret_quality import SecretQuality, explain, judge_secret

DAY_S: Final = 86400.0

_DROPPED: Final = {
    names.UNKNOWN_CLIENT: "unknown client",
    names.MALFORMED: "malformed packet",
    names.BAD_AUTHENTICATOR: "bad authenticator",
    names.UNSUPPORTED: "a code that does not belong to this port",
    names.OVERLOAD: "no room for another request",
    names.CLIENT_MALFORMED: "malformed reply",
    names.CLIENT_BAD_AUTHENTICATOR: "bad authenticator of a reply: is the secret right?",
}
_EVERYDAY: Final = {names.CLIENT_UNEXPECTED: "a reply that nobody waits for"}  # a late one
_NOTICED: Final = {
    observing.OVER_LIMIT: "more requests than requests_per_second of this client",
    observing.SHED: "overload: registrations are refused early",
    observing.OLD_SECRET: "previous_secret_file of this client is still used",
}


class Watch:
    """An `aaa.net.observing.Observer`; `on` may be switched at any time."""

    def __init__(
        self, log: structlog.stdlib.BoundLogger, *, vendor_id: int, trace: bool = False
    ) -> None:
        self.on = trace
        self._log = log
        self._limited = LimitedLog(log)
        self._trace = Trace(vendor_id)
        self._unsigned: dict[str, int] = {}  # requests since they were last told

    def toggle(self) -> None:
        """Switches the trace."""
        self.on = not self.on
        self._log.info("trace", on=self.on)

    def packet(self, hop: Hop, octets: bytes, what: str) -> None:
        """Shown."""
        self._trace.packet(hop, octets, what)

    def decided(self, client: str, request: Packet, decision: str) -> None:
        """Shown."""
        self._trace.decided(client, request, decision)

    def dropped(self, hop: Hop, octets: bytes, why: str) -> None:
        """One line of the log in a while, by the client, or by the address of a stranger."""
        event = _DROPPED.get(why) or _EVERYDAY.get(why, why)
        host = hop.address[0]
        if why in _EVERYDAY:
            pass  # counted, and shown if somebody looks on
        elif hop.name:
            self._limited.tell(event, hop.name, address=host)
        else:
            self._limited.tell(event, host)
        if not self.on:
            return
        if why == names.UNKNOWN_CLIENT:
            self._trace.unread(hop, octets, f"dropped, {event}")
        else:
            self._trace.packet(hop, octets, f"dropped, {event}")

    def noticed(self, what: str, client: str) -> None:
        """One line of the log in a while; an exception in use is told once a day."""
        if what == observing.UNSIGNED:
            self._unsigned[client] = self._unsigned.get(client, 0) + 1
        else:
            self._limited.tell(_NOTICED.get(what, what), client)

    def warn_of_exceptions(self, clients: Iterable[Client]) -> None:
        """At the start, and when clients have changed: what of them is taken and weak."""
        for client in clients:
            if SecretQuality.WEAK in map(judge_secret, client.secrets):
                self._log.warning(explain(SecretQuality.WEAK), source=client.name)
            if not client.require_message_authenticator:
                self._log.warning(
                    "require_message_authenticator = false: who is on the way can forge answers"
                    " to this client (CVE-2024-3596)",
                    source=client.name,
                )

    def tell_exceptions(self) -> None:
        """Which of them have been used since the last time, and how often."""
        used, self._unsigned = self._unsigned, {}
        for client, count in sorted(used.items()):
            self._log.warning(
                "Access-Requests without Message-Authenticator were taken by exception",
                source=client,
                count=count,
            )

    async def tell_daily(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(DAY_S)
            self.tell_exceptions()


@asynccontextmanager
async def watching(watch: Watch, clients: Iterable[Client]) -> AsyncIterator[None]:
    """While a process serves: its exceptions are told, SIGUSR1 switches its trace."""
    watch.warn_of_exceptions(clients)
    daily = asyncio.create_task(watch.tell_daily())
    try:
        with on_user_signal(watch.toggle):
            yield
    finally:
        daily.cancel()
        watch.tell_exceptions()
