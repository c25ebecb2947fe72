"""What a receiver checks of an association before it installs it (PROTOCOL 4.2), MN and FA alike.

Nothing is negotiated yet: only the home side's default mode and a suite of the receiver's own
policy may be installed.
"""

from __future__ import annotations

from typing import Final

from kdc.errors import ReplyRefused
from kdc.model import Mode, Pair, SecurityAssociation, Suite
from kdc.wire.association import decode_sa_info

# PROTOCOL 4.3, default policy "on": what a home side may choose when nothing was offered.
DEFAULT_POLICY: Final = frozenset(
    {Suite(1, 5), Suite(1, 7), Suite(2, 12), Suite(3, 20), Suite(3, 28)}
)


def accept_sa_info(
    octets: bytes, pair: Pair, *, policy: frozenset[Suite], granted_s: int
) -> SecurityAssociation:
    """The association in an opened SA extension; raises `Malformed` or `ReplyRefused`.

    `granted_s` is the lifetime of the registration, which no association outlives.
    """
    info = decode_sa_info(octets, pair)
    if (info.mode, info.derivation) != (Mode.STATEFUL, 0) or not len(info.secret):
        raise ReplyRefused("a key mode that was not asked for")
    if not policy.issuperset(info.suites):
        raise ReplyRefused("a suite outside the receiver's policy")
    if info.lifetime_s > granted_s:
        raise ReplyRefused("an association that outlives its registration")
    return SecurityAssociation(
        pair,
        info.spi,
        info.lifetime_s,
        info.key_name,
        info.mode,
        info.derivation,
        info.suites,
        info.secret,
    )
