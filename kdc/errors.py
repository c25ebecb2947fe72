"""Every error of the protocol, each with the code that it puts on the wire.

The texts are for the party that raises them and for its log: they name a rule, never a value, a
secret or a position, and no text is ever sent to a peer.
"""

from __future__ import annotations

from typing import ClassVar, Final

# Codes of a Registration Reply: RFC 5944 §3.4 and PROTOCOL section 10.
ACCEPTED: Final = 0
FA_REGISTRATION_REFUSED: Final = 67  # mobile node failed authentication, made by the FA
FA_POORLY_FORMED: Final = 70
FA_HOME_TIMEOUT: Final = 78  # RFC 5944 §3.4: registration timed out
DENIED_ADMINISTRATIVELY: Final = 129
DENIED_RESOURCES: Final = 130
DENIED_MN_AUTHENTICATION: Final = 131
DENIED_FA_AUTHENTICATION: Final = 132
DENIED_IDENTIFICATION: Final = 133
DENIED_POORLY_FORMED: Final = 134
DENIED_UNKNOWN_HOME_AGENT: Final = 136
DENIED_VENDOR: Final = 140  # RFC 3115 §2.1: HA vendor-ID or CVSE type not supported

# In words, for an operator.
MEANINGS: Final = {
    DENIED_ADMINISTRATIVELY: "administratively prohibited, or nothing could be agreed",
    DENIED_RESOURCES: "no room, no database or KDC in time, or a clock that is off",
    DENIED_MN_AUTHENTICATION: "the mobile node failed authentication",
    DENIED_FA_AUTHENTICATION: "the foreign agent is not the one that the mobile node means",
    DENIED_IDENTIFICATION: "the identification does not match",
    DENIED_POORLY_FORMED: "poorly formed request",
    DENIED_UNKNOWN_HOME_AGENT: "unknown home agent",
    DENIED_VENDOR: "an extension of a vendor that is not understood",
}

NO_PROPOSAL_CHOSEN: Final = 14  # RFC 2408 §3.14.1


class RoamkeyError(Exception):
    """The base of every error that Roamkey raises on purpose."""


class LocalError(RoamkeyError):
    """Our own side asked for something impossible: a bug or a configuration, no peer's fault."""


class RemoteError(RoamkeyError):
    """A peer sent something that we refuse.  `reply_code` is the denial of PROTOCOL section 10."""

    reply_code: ClassVar[int] = DENIED_POORLY_FORMED


class Malformed(RemoteError):
    """The octets break a rule of structure.  Nothing is written, nothing else is told."""


class UnknownVendor(RemoteError):
    """A critical vendor extension of another vendor or of an unknown type (RFC 3115 §2.1)."""

    reply_code = DENIED_VENDOR


class AuthenticationFailed(RemoteError):
    """Steps 2-5 of PROTOCOL 5.3, and all that is 131: one outcome, whatever the cause."""

    reply_code = DENIED_MN_AUTHENTICATION


class SealBroken(AuthenticationFailed):
    """A sealed extension does not open, or opens to wrong padding."""


class ChannelBindingFailed(RemoteError):
    """What the mobile node sealed is not what the AAA path asserts."""

    reply_code = DENIED_FA_AUTHENTICATION


class NotAcceptable(RemoteError):
    """Negotiation failed or an address is not allowed."""

    reply_code = DENIED_ADMINISTRATIVELY


class Unavailable(RemoteError):
    """Database or KDC not reachable in time, too many of one record, or a clock that is off."""

    reply_code = DENIED_RESOURCES


class ReplyRefused(RemoteError):
    """A mobile node or a foreign agent installs nothing of this reply."""

    reply_code = FA_REGISTRATION_REFUSED
