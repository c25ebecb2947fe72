"""Offers as a party means to make them, with the private values behind their public ones.

What may be offered is policy (terms); how the rounds go on is rounds' affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kdc.crypto.dh import FIXED_GROUPS, DhGroup, DhKey, private_octets
from kdc.errors import LocalError, NotAcceptable
from kdc.model import SPI_MINIMUM, Mode, Pair, Secret
from kdc.negotiation.rounds import History, build_offer, take_counter_proposal
from kdc.negotiation.terms import FA_GROUP, Policy
from kdc.wire.payloads import (
    KE_SECRET,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    ReadSaPayload,
    SaPayload,
    encode_sa_payload,
)

Entropy = Callable[[int], bytes]
DEFAULT_OFFER_LIFETIME_S = 3600


@dataclass(frozen=True, slots=True)
class OfferPlan:
    """How one pair is offered.  Raises `LocalError` for two ways to carry one secret.

    `groups` are offered in order, each with a fresh public value, then `user_group` (KE-b), whose
    primes its owner has verified.  `sealed` asks for the secret in
    a KE-c, `in_the_clear` (pair 3 with clear FA keys alone) in a KE-a 240.  So many
    `alternatives` of the preferred suites are offered at once; the next ones wait for a refusal.
    """

    mode: Mode | None = Mode.STATEFUL
    groups: tuple[int, ...] = ()
    user_group: DhGroup | None = None
    sealed: bool = False
    in_the_clear: bool = False
    lifetime_s: int = DEFAULT_OFFER_LIFETIME_S
    alternatives: int = 1

    def __post_init__(self) -> None:
        if bool(self.all_groups) + self.sealed + self.in_the_clear > 1:
            raise LocalError("an offer has groups, or asks for its secret in a KE, not both")
        if self.mode is Mode.STATELESS and not self.all_groups:
            raise LocalError("a stateless offer needs a group")

    @property
    def all_groups(self) -> tuple[DhGroup, ...]:
        own = () if self.user_group is None else (self.user_group,)
        return (*(FIXED_GROUPS[number] for number in self.groups), *own)


# PROTOCOL section 6: what an MN offers for pair 1 by default, forward secrecy.
DEFAULT_MN_HA_PLAN = OfferPlan(Mode.STATEFUL, (FA_GROUP,))


@dataclass(frozen=True, slots=True)
class PreparedOffer:
    """An SA payload as it goes out, and the keys behind its public values."""

    octets: bytes
    payload: SaPayload
    keys: tuple[DhKey, ...] = field(default=(), repr=False)

    @property
    def read(self) -> ReadSaPayload:
        return ReadSaPayload(self.octets, self.payload)


def generate_keys(plan: OfferPlan, entropy: Entropy) -> tuple[DhKey, ...]:
    """A fresh key for each group of the plan (PROTOCOL 7.3: fresh for each request)."""
    return tuple(
        DhKey.of(group, Secret(entropy(private_octets(group)))) for group in plan.all_groups
    )


def prepare_offer(
    pair: Pair,
    policy: Policy,
    plan: OfferPlan,
    history: History,
    *,
    keys: tuple[DhKey, ...] = (),
    ke_c_spi: int | None = None,
) -> PreparedOffer | None:
    """The offer of this plan, or None where every preferred suite has been rejected.

    `ke_c_spi` is the SPI under which the answer's KE-c will be sealed.
    """
    payload = build_offer(
        pair,
        policy,
        history,
        lifetime_s=plan.lifetime_s,
        mode=plan.mode,
        key_exchanges=_key_exchanges(plan, keys, ke_c_spi),
        alternatives=plan.alternatives,
    )
    return _prepared(payload, keys) if payload is not None else None


def measure_offer(pair: Pair, policy: Policy, plan: OfferPlan) -> int:
    """How many octets the offer of this plan has, before any key is made for it."""
    keys = tuple(DhKey(group, Secret(b""), bytes(group.value_octets)) for group in plan.all_groups)
    offer = prepare_offer(pair, policy, plan, History(), keys=keys, ke_c_spi=SPI_MINIMUM)
    return len(offer.octets) if offer is not None else 0


def prepare_counter_offer(
    counter: SaPayload,
    policy: Policy,
    plan: OfferPlan,
    history: History,
    *,
    keys: tuple[DhKey, ...] = (),
    ke_c_spi: int | None = None,
) -> PreparedOffer:
    """The next offer of this plan out of a counter-proposal.

    Raises `NotAcceptable` if nothing in it is ours.
    """
    taken = take_counter_proposal(
        counter,
        policy,
        history,
        mode=plan.mode,
        key_exchanges=_key_exchanges(plan, keys, ke_c_spi),
    )
    return _prepared(taken, keys)


def _prepared(payload: SaPayload, keys: tuple[DhKey, ...]) -> PreparedOffer:
    return PreparedOffer(encode_sa_payload(payload), payload, keys)


def _key_exchanges(
    plan: OfferPlan, keys: tuple[DhKey, ...], ke_c_spi: int | None
) -> tuple[KeyExchange, ...]:
    if plan.sealed:
        if ke_c_spi is None:
            raise LocalError("a KE-c without the SPI that it is sealed under")
        return (KeC(ke_c_spi),)
    if plan.in_the_clear:
        return (KeA(KE_SECRET, 0, b""),)
    return tuple(key_exchange_of(key) for key in keys)


def key_exchange_of(key: DhKey) -> KeyExchange:
    """The KE payload with this key's public value."""
    group = key.group
    if group.number in FIXED_GROUPS:
        return KeA(group.number, 0, key.public_value)
    prime = group.prime.to_bytes(group.shared_octets, "big")
    generator = group.generator.to_bytes((group.generator.bit_length() + 7) // 8, "big")
    return KeB(prime, generator, key.public_value)


def own_key(ke: KeyExchange | None, keys: tuple[DhKey, ...]) -> DhKey:
    """Our key behind a KE of ours, or of its group; raises `NotAcceptable` where there is none."""
    for key in keys:
        if isinstance(ke, KeA) and key.group.number == ke.group:
            return key
        if isinstance(ke, KeB) and key.public_value == ke.public_value:
            return key
    raise NotAcceptable("a group of which we have no key")


def public_value_of(ke: KeyExchange | None) -> bytes:
    """The public value in a KE; raises `NotAcceptable` for a KE without one."""
    match ke:
        case KeA(group=group) if group != KE_SECRET:
            return ke.data
        case KeB():
            return ke.public_value
    raise NotAcceptable("no public value")
