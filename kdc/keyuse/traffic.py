"""The traffic keys of an association as one of its two holders uses them (PROTOCOL 7.4).

The confirmation key of pair 2 is no traffic key: nothing here returns it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from kdc.crypto.key0 import derive_direction_key
from kdc.errors import LocalError
from kdc.model import KEY_OCTETS, Pair, Secret, SecurityAssociation, Suite, key_octets

SALT_OCTETS: Final = 4  # PROTOCOL 4.3: AES-256-GCM and ChaCha20-Poly1305 are 32 key + 4 salt
AUTHENTICATION: Final = 1  # Protocol-IDs of PROTOCOL 4.3
ENCRYPTION: Final = 2
AEAD: Final = 3

PROTOCOL_NAMES: Final = {
    AUTHENTICATION: "authentication",
    ENCRYPTION: "encryption",
    AEAD: "aead",
}
ALGORITHM_NAMES: Final = {
    Suite(1, 1): "hmac-md5",
    Suite(1, 2): "hmac-sha1",
    Suite(1, 5): "hmac-sha2-256",
    Suite(1, 7): "hmac-sha2-512",
    Suite(2, 3): "3des-cbc",
    Suite(2, 11): "null",
    Suite(2, 12): "aes-256-cbc",
    Suite(3, 20): "aes-256-gcm",
    Suite(3, 28): "chacha20-poly1305",
}


class Party(enum.StrEnum):
    """Who may hold an association.  The SMM of pair 4 is a function of the foreign agent."""

    MOBILE_NODE = "mobile_node"
    FOREIGN_AGENT = "foreign_agent"
    HOME_AGENT = "home_agent"


class Role(enum.StrEnum):
    """Which of the two a holder is; d of 7.4 is 0 from the initiator, 1 from the responder."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


# PROTOCOL section 1: (initiator, responder).
PARTIES: Final = {
    Pair.MN_HA: (Party.MOBILE_NODE, Party.HOME_AGENT),
    Pair.MN_FA: (Party.MOBILE_NODE, Party.FOREIGN_AGENT),
    Pair.FA_HA: (Party.FOREIGN_AGENT, Party.HOME_AGENT),
    Pair.MN_SMM: (Party.MOBILE_NODE, Party.FOREIGN_AGENT),
}


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """What one algorithm takes: its key and, for AEAD, a salt of 4 octets (else empty)."""

    key: Secret
    salt: Secret = field(default_factory=lambda: Secret(b""))


@dataclass(frozen=True, slots=True)
class SuiteKeys:
    """The keys of one suite, seen from its holder.

    Protocol-ID 2 and 3: `outbound` and `inbound`.  Protocol-ID 1: `both`, whose user puts the
    direction into the authenticated octets (7.4).  NULL: none of them.
    """

    suite: Suite
    outbound: TrafficKey | None = None
    inbound: TrafficKey | None = None
    both: TrafficKey | None = None


def role_of(pair: Pair, holder: Party) -> Role:
    """Whether `holder` is initiator or responder of `pair`; raises `LocalError` if neither."""
    initiator, responder = PARTIES[pair]
    if holder is initiator:
        return Role.INITIATOR
    if holder is responder:
        return Role.RESPONDER
    raise LocalError(f"a {holder.value} holds no association of pair {pair.name}")


def peer_of(pair: Pair, holder: Party) -> Party:
    """The other party; raises `LocalError` if `holder` is none of the two."""
    return PARTIES[pair][role_of(pair, holder) is Role.INITIATOR]


def derive_traffic_keys(association: SecurityAssociation, holder: Party) -> tuple[SuiteKeys, ...]:
    """The keys of each suite in the association's order.

    Raises `LocalError` if `holder` is no party of it or `keys` has another length than 4.2 says.
    """
    role = role_of(association.pair, holder)
    if len(association.keys) != key_octets(association.pair, association.suites):
        raise LocalError("the keys of an association have not the length of its suites")
    octets = association.keys.reveal()
    derived, start = [], 0
    for suite in association.suites:
        end = start + KEY_OCTETS[suite]
        derived.append(_suite_keys(suite, Secret(octets[start:end]), role))
        start = end
    return tuple(derived)


def _suite_keys(suite: Suite, key: Secret, role: Role) -> SuiteKeys:
    if not key.reveal():
        return SuiteKeys(suite)
    if suite.protocol_id == AUTHENTICATION:
        return SuiteKeys(suite, both=TrafficKey(key))
    is_responder = role is Role.RESPONDER
    return SuiteKeys(
        suite,
        outbound=_split(suite, derive_direction_key(key, from_responder=is_responder)),
        inbound=_split(suite, derive_direction_key(key, from_responder=not is_responder)),
    )


def _split(suite: Suite, key: Secret) -> TrafficKey:
    if suite.protocol_id != AEAD:
        return TrafficKey(key)
    octets = key.reveal()
    return TrafficKey(Secret(octets[:-SALT_OCTETS]), Secret(octets[-SALT_OCTETS:]))
