"""What a decision changes of its record, for one transaction; the store only applies it.

The KDC makes the keys (kdc.center); how rows look is kdc.store's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kdc.model import HomeAddressKind
from kdc.outcome import encode_outcome
from kdc.records import (
    Denied,
    DenyDecision,
    Issued,
    NewAssociation,
    NewRegistration,
    RecordChange,
    VerifiedRegistration,
)

_RATE_WINDOW_S: Final = 60


@dataclass(frozen=True, slots=True)
class SpiStep:
    """The list of KEY0 SPIs after one request (PROTOCOL 5.4)."""

    unspent: tuple[int, ...]
    last_spent: int | None
    added: tuple[int, ...]
    removed: tuple[int, ...]


def describe_grant(
    verified: VerifiedRegistration, issued: Issued, step: SpiStep, digest: bytes, *, now: float
) -> RecordChange:
    """The record's next state with its registration and SAs, for one transaction."""
    record = verified.record
    recent = tuple(at for at in record.accepted_at if at > now - _RATE_WINDOW_S)
    accepted = recent if verified.lifetime_s == 0 else (*recent, int(now))
    return RecordChange(
        record_id=record.record_id,
        revision=record.revision,
        unspent=step.unspent,
        last_spent=step.last_spent,
        added_spis=step.added,
        removed_spis=step.removed,
        last_seen=verified.identification,
        rounds=0,
        accepted_at=accepted,
        digest=digest,
        outcome=encode_outcome(issued),
        registration=_describe_registration(verified, issued) if issued.associations else None,
        deregistration=verified.lifetime_s == 0,
    )


def describe_denial(decision: DenyDecision, denied: Denied, step: SpiStep) -> RecordChange:
    """The record's next state after a denial."""
    record = decision.record
    return RecordChange(
        record_id=record.record_id,
        revision=record.revision,
        unspent=step.unspent,
        last_spent=step.last_spent,
        added_spis=step.added,
        removed_spis=step.removed,
        last_seen=decision.last_seen,
        rounds=decision.rounds,
        accepted_at=record.accepted_at,
        digest=decision.digest,
        outcome=encode_outcome(denied) if decision.digest is not None else None,
        denial_code=denied.code,
    )


def _describe_registration(verified: VerifiedRegistration, issued: Issued) -> NewRegistration:
    return NewRegistration(
        class_id=issued.class_id,
        identification=verified.identification,
        fa_nai=verified.fa_nai,
        nas_address=verified.nas_address,
        operator_realm=verified.operator_realm,
        care_of_address=verified.care_of_address,
        home_address=issued.home_address,
        alias=issued.alias,
        lifetime_s=issued.lifetime_s,
        dynamic_address=verified.record.home_address_kind is HomeAddressKind.DYNAMIC,
        associations=tuple(
            NewAssociation(
                pair=item.pair,
                spi=item.spi,
                key_name=item.key_name,
                lifetime_s=item.lifetime_s,
                mode=item.mode,
                derivation=item.derivation,
                suites=item.suites,
                keys=item.keys,
            )
            for item in issued.associations
        ),
    )
