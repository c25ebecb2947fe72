"""A verified request in memory, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from aaa.radius.packet import Attributes, VerifiedRequest


@dataclass(frozen=True)
class Named:
    name: str


@dataclass
class Asked:
    """Fails a test in which it is answered or forgotten a second time."""

    client: Named
    request: VerifiedRequest
    answers: list[tuple[int, Attributes]] = field(default_factory=list)
    forgotten: int = 0

    def respond(self, code: int, attributes: Attributes) -> None:
        assert not self.answers and not self.forgotten
        self.answers.append((code, attributes))

    def forget(self) -> None:
        assert not self.answers and not self.forgotten
        self.forgotten += 1


def asked(client: str, code: int, attributes: Attributes, *, identifier: int = 7) -> Asked:
    return Asked(Named(client), VerifiedRequest(code, identifier, bytes(16), attributes, b"", 0))
