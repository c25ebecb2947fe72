"""Named counters of one process, and the names that RADIUS uses.

They hold numbers and nothing of a packet; who publishes them is for aaa.serve.
"""

from __future__ import annotations

from typing import Final

from aaa.radius.packet import ACCESS_ACCEPT, ACCESS_CHALLENGE

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
UNSUPPORTED: Final = "radius.unsupported"  # a code that is not answered here, over TLS
# Connections that we accept.
RADSEC_OPENED: Final = "radsec.opened"
RADSEC_HANDSHAKE_FAILED: Final = "radsec.handshake_failed"
RADSEC_HANDSHAKE_EVICTED: Final = "radsec.handshake_evicted"  # for a newer one; see tls_acceptor
RADSEC_UNKNOWN_PEER: Final = "radsec.unknown_peer"  # verified, but no name of it is configured
RADSEC_NO_VERSION: Final = "radsec.no_version"  # of RADIUS that both ends speak
RADSEC_SELF: Final = "radsec.self"  # our own certificate: we have come to ourselves
RADSEC_NO_ROOM: Final = "radsec.no_room"
RADSEC_REVOKED: Final = "radsec.revoked"  # closed by a reload
RADSEC_IDLE: Final = "radsec.idle"
RADSEC_STALLED: Final = "radsec.stalled"  # it does not read what it is sent
# Connections that we make.
RADSEC_CLIENT_OPENED: Final = "radsec_client.opened"
RADSEC_CLIENT_FAILED: Final = "radsec_client.connect_failed"
RADSEC_CLIENT_WRONG_NAME: Final = "radsec_client.wrong_name"
RADSEC_CLIENT_NO_VERSION: Final = "radsec_client.no_version"
RADSEC_CLIENT_SELF: Final = "radsec_client.self"
RADSEC_CLIENT_LOST: Final = "radsec_client.lost"
RADSEC_CLIENT_RESENT: Final = "radsec_client.resent"
RADSEC_CLIENT_SILENT: Final = "radsec_client.silent"  # no answer to a watchdog
RADSEC_CLIENT_REVOKED: Final = "radsec_client.revoked"

_OF_RESPONSE: Final = {ACCESS_ACCEPT: ACCEPTS, ACCESS_CHALLENGE: CHALLENGES}


def of_response(code: int) -> str:
    """The name that a response of `code` to an Access-Request is counted under."""
    return _OF_RESPONSE.get(code, REJECTS)


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
