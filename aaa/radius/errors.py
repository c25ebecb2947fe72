"""What can be wrong with a RADIUS packet or an exchange of them, as types.

The texts name a rule, never a value; none of them is sent to a peer.
"""

from __future__ import annotations

from kdc.errors import FA_HOME_TIMEOUT, Malformed, RemoteError


class MalformedPacket(Malformed):
    """The octets are no RADIUS packet, or its attributes are not those of PROTOCOL section 9."""


class BadAuthenticator(RemoteError):
    """A Message-Authenticator or Response Authenticator does not verify: drop, count, no answer."""


class NoAnswer(RemoteError):
    """No authentic reply came within all retransmissions; the FA answers the MN with 78."""

    reply_code = FA_HOME_TIMEOUT


class Stale(RemoteError):
    """An Event-Timestamp outside the window: drop, count, no answer."""
