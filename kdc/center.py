"""KeyDistributionCenter: lends the keys of one exchange, makes keys, describes what to commit.

It decides nothing about a request (aaa.roles.home_agent does) and stores nothing (kdc.store).
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Final, Protocol

from kdc.changes import SpiStep, describe_denial, describe_grant
from kdc.crypto.derive import Party
from kdc.crypto.hpke import W_OCTETS, wrap
from kdc.crypto.key0 import KEY0_OCTETS, derive_exchange_keys
from kdc.errors import Malformed, Unavailable
from kdc.keying import Exchange, Parties, derive_keys
from kdc.model import (
    HomeAddressKind,
    Mode,
    Nai,
    Pair,
    Secret,
    alias_nai,
)
from kdc.outcome import decode_outcome, derive_secret, secret_octets
from kdc.records import (
    UNSPENT_SPIS,
    Admission,
    Decision,
    Denied,
    DenyDecision,
    GrantDecision,
    Issued,
    IssuedAssociation,
    Record,
    RecordChange,
    RepeatDecision,
    Settled,
    StoredRecord,
    Terms,
    VerifiedRegistration,
    WrappingKey,
)
from kdc.wire.advertisement import FaPublicKey, decode_fa_public_key
from kdc.wire.association import SEED_OCTETS, SaInfo
from kdc.wire.payloads import with_spi

Entropy = Callable[[int], bytes]
WRAPPING_KEY_LIFETIME_S: Final = 600  # PROTOCOL section 8
_MAXIMUM_WRAPPING_KEYS: Final = 4096
_CUI_LABEL: Final = b"roamkey cui v1"
_HOME_SIDE_HOLDS: Final = (Pair.MN_HA, Pair.FA_HA)  # KEY1 and KEY2


class Allocator(Protocol):
    """Free numbers from the database: unguessable, and no one else's."""

    def take_key0(self) -> int: ...

    def take_association(self, expires_at: float) -> int: ...

    def take_home_address(self) -> IPv4Address: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What will have been settled, and the change that must be committed first (None: nothing)."""

    settled: Settled
    change: RecordChange | None


class WrappingKeys:
    """W for each (attribute 3, FA-NAI), used for at most 600 s; bounded, oldest out first."""

    def __init__(self) -> None:
        self._keys: dict[tuple[bytes, bytes], tuple[float, WrappingKey]] = {}

    def select(
        self, fa_public_key: FaPublicKey, fa_nai: Nai, *, now: float, entropy: Entropy
    ) -> WrappingKey:
        """The one in use for this key and name, or a fresh one."""
        slot = (fa_public_key.octets, fa_nai.octets)
        made_at, key = self._keys.get(slot, (now, None))
        if key is not None and 0 <= now - made_at <= WRAPPING_KEY_LIFETIME_S:
            return key
        self._keys.pop(slot, None)
        if len(self._keys) >= _MAXIMUM_WRAPPING_KEYS:
            del self._keys[next(iter(self._keys))]
        key = make_wrapping_key(
            Secret(entropy(W_OCTETS)), Secret(entropy(32)), fa_public_key, fa_nai
        )
        self._keys[slot] = (now, key)
        return key


def make_wrapping_key(
    w: Secret, ephemeral: Secret, fa_public_key: FaPublicKey, fa_nai: Nai
) -> WrappingKey:
    """W with its copy for the foreign agent; `ephemeral` is 32 random octets, used once."""
    wrapped = wrap(
        w,
        ephemeral=ephemeral,
        public_key=fa_public_key.public_key,
        spi=fa_public_key.spi,
        fa_nai=fa_nai,
    )
    return WrappingKey(w, wrapped)


class KeyDistributionCenter:
    """One KDC: the only holder of KEY0 while a request is judged.

    `entropy` is drawn at once for the dummy key against which unknown SPIs are checked.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._dummy_key0 = Secret(entropy(KEY0_OCTETS))
        self._wrapping_keys = WrappingKeys()

    def admit(self, stored: StoredRecord | None, spi: int, *, clock: float) -> Admission:
        """The record without KEY0, and K(use, SPI); keys of a dummy for an unknown SPI.

        Both cases cost the same (PROTOCOL 5.3: no oracle for live SPIs).
        """
        if stored is None:
            return Admission(None, derive_exchange_keys(self._dummy_key0, spi), clock)
        keys = derive_exchange_keys(stored.key0, spi)
        return Admission(stored.record, keys, clock, stored.outcome)

    def prepare(self, decision: Decision, allocator: Allocator, cui_key: Secret) -> Prepared:
        """What a decision comes to once its change is committed.

        Raises `Unavailable` without a free number, or where the outcome of a duplicate is gone.
        """
        now, record = decision.admission.clock, decision.record
        match decision:
            case RepeatDecision():
                if decision.admission.outcome is None:
                    raise Unavailable("the outcome of a duplicate is gone")
                outcome = self.recall(decision.admission.outcome)
                identity = derive_identity(cui_key, record, decision.fa_realm, now)
                return Prepared(Settled(outcome, record.unspent, identity), None)
            case DenyDecision():
                step = self.spend(record, decision.spi, allocator)
                denied = decision.denied
                if denied.challenge:
                    denied = dataclasses.replace(denied, state=self.new_state())
                change = describe_denial(decision, denied, step)
                return Prepared(Settled(denied, step.unspent), change)
            case GrantDecision():
                verified = decision.verified
                step = self.spend(record, decision.spi, allocator)
                issued = self.issue(verified, allocator, now=now)
                change = describe_grant(verified, issued, step, decision.digest, now=now)
                identity = derive_identity(cui_key, record, verified.fa_nai.realm, now)
                return Prepared(Settled(issued, step.unspent, identity), change)

    def spend(self, record: Record, spi: int, allocator: Allocator) -> SpiStep:
        """What the use of `spi` makes of the record's list: it and all before it are spent."""
        if record.static_spi or spi not in record.unspent:
            return SpiStep(record.unspent, record.last_spent, (), ())
        index = record.unspent.index(spi)
        kept = record.unspent[index + 1 :]
        added = tuple(allocator.take_key0() for _ in range(UNSPENT_SPIS - len(kept)))
        dead = record.unspent[:index]
        if record.last_spent is not None:
            dead += (record.last_spent,)
        return SpiStep(kept + added, spi, added, dead)

    def issue(self, verified: VerifiedRegistration, allocator: Allocator, *, now: float) -> Issued:
        """Fresh keys for all terms that were verified (PROTOCOL section 7)."""
        seed = Secret(self._entropy(SEED_OCTETS))
        alias = self._entropy(8)
        home_address = _home_address(verified, allocator, now)
        # Only what is derived by the holders is derived by names.
        named = any(t.mode is not Mode.STATEFUL or t.z is not None for t in verified.terms)
        parties = parties_of(verified, alias, home_address) if named else None
        associations = tuple(
            self._make_association(verified, terms, parties, seed, allocator, now)
            for terms in verified.terms
        )
        wrapping = None
        if associations and verified.fa_public_key is not None:
            wrapping = self._wrapping_keys.select(
                decode_fa_public_key(verified.fa_public_key),
                verified.fa_nai,
                now=now,
                entropy=self._entropy,
            )
        return Issued(
            alias=alias,
            class_id=self._entropy(8),
            lifetime_s=verified.lifetime_s,
            home_address=home_address,
            associations=associations,
            wrapping_key=wrapping,
            seed=seed,
        )

    def _make_association(
        self,
        verified: VerifiedRegistration,
        terms: Terms,
        parties: Parties | None,
        seed: Secret,
        allocator: Allocator,
        now: float,
    ) -> IssuedAssociation:
        spi = allocator.take_association(now + terms.lifetime_s)
        length_octets = secret_octets(terms.pair, terms.mode, terms.derivation, terms.suites)
        secret = derive_secret(seed, terms.pair, spi, length_octets)
        return make_association(
            terms, spi, self._entropy(8), secret, parties, verified.identification.octets
        )

    def recall(self, outcome: Secret) -> Issued | Denied:
        """The outcome of a record's last request, from what the store kept of it.

        Raises `Unavailable` for one that another release has stored.
        """
        try:
            return decode_outcome(outcome)
        except Malformed:
            raise Unavailable("the outcome of a duplicate cannot be read") from None

    def new_state(self) -> bytes:
        """The State of an Access-Challenge: it means nothing to anyone."""
        return self._entropy(8)


def make_association(
    terms: Terms,
    spi: int,
    key_name: bytes,
    secret: Secret,
    parties: Parties | None,
    identification: bytes,
) -> IssuedAssociation:
    """One SA of these terms; its keys only where the home side is one of its two parties."""
    answered = _with_spi(terms, spi)
    keys = None
    if terms.pair in _HOME_SIDE_HOLDS:
        info = SaInfo(
            spi, terms.lifetime_s, key_name, terms.mode, terms.derivation, terms.suites, secret
        )
        exchange = None
        if terms.z is not None:
            exchange = Exchange(terms.z, identification, terms.offered, answered)
        keys = derive_keys(info, terms.pair, parties, exchange)
    return IssuedAssociation(
        pair=terms.pair,
        spi=spi,
        key_name=key_name,
        lifetime_s=terms.lifetime_s,
        mode=terms.mode,
        derivation=terms.derivation,
        suites=terms.suites,
        secret=secret,
        answered=answered,
        carrier=terms.carrier,
        keys=keys,
    )


def _with_spi(terms: Terms, spi: int) -> bytes:
    """The answer as sent: the home side's own bear the SPI of the SA (PROTOCOL 4.3)."""
    if not terms.answered or terms.pair not in _HOME_SIDE_HOLDS:
        return terms.answered
    return with_spi(terms.answered, spi)


def parties_of(verified: VerifiedRegistration, alias: bytes, home_address: IPv4Address) -> Parties:
    """The names of the reply (PROTOCOL 7.2)."""
    return Parties(
        mobile_node=Party(alias_nai(alias, verified.realm).octets, home_address.packed),
        foreign_agent=Party(verified.fa_nai.octets, verified.care_of_address.packed),
        home_agent=Party(verified.home_agent_nai.octets, verified.record.home_agent.packed),
    )


def _home_address(verified: VerifiedRegistration, allocator: Allocator, now: float) -> IPv4Address:
    """The record's own, or a dynamic one: kept by a renewal, fresh at another FA (section 3)."""
    record = verified.record
    if record.home_address_kind is not HomeAddressKind.DYNAMIC:
        return record.home_address or IPv4Address(0)
    registered = record.registered_until is not None and record.registered_until > now
    current = record.current_home_address
    if registered and current is not None:
        if verified.lifetime_s == 0 or record.current_fa == verified.fa_nai:
            return current
    elif verified.lifetime_s == 0:
        return IPv4Address(0)
    return allocator.take_home_address()


def derive_identity(cui_key: Secret, record: Record, fa_realm: str, now: float) -> bytes:
    """Chargeable-User-Identity: one for each operator, record and month (PROTOCOL section 9).

    The operator is told by the realm of the FA, which step 6 has verified and with which an
    Operator-Name must agree: left out, it would make one identity for all operators.
    """
    month = datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
    named = (fa_realm, str(record.record_id), month)
    identity = b"".join(
        len(part).to_bytes(2, "big") + part for part in (text.encode() for text in named)
    )
    return hmac.digest(cui_key.reveal(), _CUI_LABEL + identity, "sha256").hex().encode()
