"""The keys of an association from its Secret, its parties and a shared secret (PROTOCOL section 7).

The home side and every holder compute them here, so that they cannot differ by who computes.
Which mode and derivation are allowed is judged before (kdc.installation, aaa.roles).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kdc.crypto.derive import (
    Party,
    derive_formula_5,
    derive_mixed,
    derive_raw,
    derive_sp800_108,
)
from kdc.errors import LocalError
from kdc.model import Mode, Pair, Secret, key_octets
from kdc.wire.association import FORMULA_5, MIXED, RAW_DH, SaInfo


@dataclass(frozen=True, slots=True)
class Parties:
    """Names and addresses as they stand in one reply (PROTOCOL 7.2); the SMM is the FA."""

    mobile_node: Party  # alias and assigned home address
    foreign_agent: Party  # Roamkey-FA-NAI and care-of address
    home_agent: Party

    def of(self, pair: Pair) -> tuple[Party, Party]:
        """Initiator and responder of a pair (PROTOCOL section 1)."""
        initiator = self.foreign_agent if pair is Pair.FA_HA else self.mobile_node
        by_home = pair in (Pair.MN_HA, Pair.FA_HA)
        return initiator, self.home_agent if by_home else self.foreign_agent


@dataclass(frozen=True, slots=True)
class Exchange:
    """A Diffie-Hellman exchange: its result, and all that was said for it (PROTOCOL 7.3)."""

    z: Secret = field(repr=False)
    identification: bytes  # 8
    offered: bytes  # the two SA payloads of the last round, as sent
    answered: bytes


def derive_keys(
    info: SaInfo, pair: Pair, parties: Parties | None, exchange: Exchange | None
) -> Secret:
    """`keys` of PROTOCOL 4.2: the suites' in order, then pair 2's confirmation key.

    `info.secret` must be there, wherever it was carried; `parties` may be None in stateful mode
    without an exchange.  Raises `NotAcceptable` where Z is too short, `LocalError` for an exchange
    or parties that are missing.
    """
    if info.mode is Mode.STATEFUL and info.derivation != MIXED:
        return info.secret
    if parties is None:
        raise LocalError("keys of parties that are not named")
    length_octets = key_octets(pair, info.suites)
    if info.mode is Mode.STATELESS or info.derivation == MIXED:
        if exchange is None:
            raise LocalError("keys of an exchange that has not been made")
        return _derive_of_exchange(info, pair, parties, exchange, length_octets)
    initiator, responder = parties.of(pair)
    if info.derivation == FORMULA_5:
        return derive_formula_5(
            info.secret, responder=responder, initiator=initiator, length_octets=length_octets
        )
    return derive_sp800_108(
        info.secret,
        pair=pair,
        spi=info.spi,
        key_name=info.key_name,
        responder=responder,
        initiator=initiator,
        length_octets=length_octets,
    )


def _derive_of_exchange(
    info: SaInfo, pair: Pair, parties: Parties, exchange: Exchange, length_octets: int
) -> Secret:
    if info.derivation == RAW_DH:
        return derive_raw(exchange.z, length_octets)
    initiator, responder = parties.of(pair)
    return derive_mixed(
        exchange.z,
        info.secret,
        identification=exchange.identification,
        pair=pair,
        spi=info.spi,
        key_name=info.key_name,
        initiator_nai=initiator.nai,
        responder_nai=responder.nai,
        offered=exchange.offered,
        answered=exchange.answered,
        length_octets=length_octets,
    )
