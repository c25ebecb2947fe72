"""What a request is to those who answer it, whichever transport it came by."""

from __future__ import annotations

from typing import Protocol

from aaa.radius.packet import Attributes, VerifiedRequest


class Sender(Protocol):
    """Who sent it, as configured: `name` is the key to all that is known of it."""

    @property
    def name(self) -> str: ...


class Transaction(Protocol):
    """One verified request, to be answered or forgotten exactly once."""

    @property
    def client(self) -> Sender: ...

    @property
    def request(self) -> VerifiedRequest: ...

    def respond(self, code: int, attributes: Attributes) -> None:
        """Signs and sends, the request's Proxy-States behind `attributes`.

        Raises `LocalError` where that does not fit a packet: the transaction is as it was then.
        Without `attributes` it always fits.
        """

    def forget(self) -> None:
        """No answer: a retransmission is worked on anew."""
