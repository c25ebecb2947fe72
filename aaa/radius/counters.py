"""Named counters of one process, and the names that RADIUS uses.

They hold numbers and nothing of a packet; who publishes them is for aaa.serve.
"""

from __future__ import annotations

from typing import Final

UNKNOWN_CLIENT: Final = "radius.unknown_client"
MALFORMED: Final = "radius.malformed"
BAD_AUTHENTICATOR: Final = "radius.bad_authenticator"
DUPLICATE_IN_PROGRESS: Final = "radius.duplicate_in_progress"
DUPLICATE_ANSWERED: Final = "radius.duplicate_answered"
OVERLOAD: Final = "radius.overload"
STATUS_SERVER: Final = "radius.status_server"
REQUESTS: Final = "radius.requests"
ACCEPTS: Final = "radius.accepts"
CHALLENGES: Final = "radius.challenges"
REJECTS: Final = "radius.rejects"
ABANDONED: Final = "radius.abandoned"  # answered after its client had moved on
CLIENT_SENT: Final = "radius_client.sent"
CLIENT_RETRANSMITTED: Final = "radius_client.retransmitted"
CLIENT_UNEXPECTED: Final = "radius_client.unexpected_reply"
CLIENT_MALFORMED: Final = "radius_client.malformed_reply"
CLIENT_BAD_AUTHENTICATOR: Final = "radius_client.bad_authenticator"
CLIENT_NO_ANSWER: Final = "radius_client.no_answer"


class Counters:
    """Counts by name from zero; a name exists once it has been counted."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + count

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        """All counts, by name in order."""
        return dict(sorted(self._counts.items()))
