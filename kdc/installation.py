"""What a receiver checks of an association before it installs it (PROTOCOL 4.2), MN and FA alike.

What was negotiated must be what is delivered; where nothing was, the receiver's own policy decides.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from kdc.errors import ReplyRefused
from kdc.keying import Exchange, Parties, derive_keys
from kdc.model import Mode, Nai, Pair, Secret, SecurityAssociation
from kdc.negotiation import NULL, SPI_BY_HOME, Agreement, Policy, is_raw
from kdc.outcome import secret_octets
from kdc.wire.association import FORMULA_5, MIXED, SaInfo, decode_sa_info
from kdc.wire.payloads import AUTHENTICATION


@dataclass(frozen=True, slots=True)
class Agreed:
    """What two parties have agreed for one pair, and what only these two know of it."""

    agreement: Agreement
    exchange: Exchange | None = None  # of a Diffie-Hellman exchange
    carried: Secret | None = field(default=None, repr=False)  # out of a KE-c or a KE-a 240


def accept_sa_info(
    octets: bytes,
    pair: Pair,
    *,
    policy: Policy,
    granted_s: int,
    parties: Parties,
    agreed: Agreed | None = None,
) -> SecurityAssociation:
    """The association in an opened SA extension; raises `Malformed`, `ReplyRefused` and, for a
    shared secret that does not serve, `NotAcceptable`.

    `granted_s` is the lifetime of the registration, which no association outlives; `agreed` is
    None where this pair was not negotiated.
    """
    info = decode_sa_info(octets, pair)
    if agreed is None:
        _check_default(info, policy)
    else:
        _check_agreed(info, pair, agreed, policy)
        granted_s = min(granted_s, agreed.agreement.lifetime_s)
    if info.lifetime_s > granted_s:
        raise ReplyRefused("an association that outlives its registration")
    if info.derivation == FORMULA_5 and info.mode is Mode.SEMISTATEFUL:
        _check_formula_5(pair, parties, policy)
    info = dataclasses.replace(info, secret=_secret(info, pair, agreed))
    return SecurityAssociation(
        pair,
        info.spi,
        info.lifetime_s,
        info.key_name,
        info.mode,
        info.derivation,
        info.suites,
        derive_keys(info, pair, parties, agreed.exchange if agreed else None),
    )


def _check_default(info: SaInfo, policy: Policy) -> None:
    """What the home side may choose by itself: no exchange, and suites that we would accept."""
    if info.mode is Mode.STATELESS or info.derivation == MIXED:
        raise ReplyRefused("a key mode that was not asked for")
    if info.mode not in policy.modes:
        raise ReplyRefused("a key mode outside the receiver's policy")
    if not policy.suites.issuperset(info.suites):
        raise ReplyRefused("a suite outside the receiver's policy")
    authenticated = any(suite.protocol_id == AUTHENTICATION for suite in info.suites)
    if NULL in info.suites and not authenticated:
        raise ReplyRefused("NULL without authentication")


def _check_agreed(info: SaInfo, pair: Pair, agreed: Agreed, policy: Policy) -> None:
    agreement = agreed.agreement
    if info.suites != agreement.suites:
        raise ReplyRefused("other suites than were agreed")
    if info.mode not in policy.modes or agreement.mode not in (None, info.mode):
        raise ReplyRefused("another key mode than was agreed")
    if pair in SPI_BY_HOME and info.spi != agreement.spi:
        raise ReplyRefused("another SPI than was answered")
    computed = info.mode is Mode.STATELESS or info.derivation == MIXED
    if computed != agreement.has_computed_value:
        raise ReplyRefused("an exchange that was not agreed, or none where one was")
    if computed and info.derivation != MIXED and not is_raw(pair, info.mode, policy):
        raise ReplyRefused("a raw shared secret, which policy does not allow")


def _check_formula_5(pair: Pair, parties: Parties, policy: Policy) -> None:
    """PROTOCOL 7.2: derivation 1 by policy alone, and only for names that cannot run together."""
    named = all(Nai(party.nai).realm for party in parties.of(pair))
    if not policy.formula_5 or not named:
        raise ReplyRefused("derivation 1, which policy does not allow")


def _secret(info: SaInfo, pair: Pair, agreed: Agreed | None) -> Secret:
    """The Secret from wherever it was carried, and from there alone."""
    carried = agreed.carried if agreed is not None else None
    length_octets = secret_octets(pair, info.mode, info.derivation, info.suites)
    if carried is None:
        if len(info.secret) != length_octets:
            raise ReplyRefused("no secret where one is due")
        return info.secret
    if len(info.secret) or len(carried) != length_octets:
        raise ReplyRefused("a secret in two places, or of another length")
    return carried
