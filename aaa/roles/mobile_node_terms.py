"""The mobile node's side of a negotiation: what it offers, round after round (PROTOCOL section 6).

A negotiation is a frozen value that every step replaces; which step may follow which is the table
of kdc.negotiation.state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from kdc.crypto.dh import DhKey
from kdc.errors import NotAcceptable
from kdc.model import SPI_MINIMUM, Pair, Secret, Suite
from kdc.negotiation import (
    DEFAULT_MN_HA_PLAN,
    MAXIMUM_ROUNDS,
    Event,
    History,
    OfferPlan,
    Policy,
    PreparedOffer,
    Standing,
    advance,
    generate_keys,
    prepare_counter_offer,
    prepare_offer,
)
from kdc.wire.payloads import SaPayload

Entropy = Callable[[int], bytes]
MN_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)
# The first is offered, the suite that home takes where nothing is; the second on a refusal.
_PREFERRED = ((Suite(3, 20),), (Suite(3, 28),))


@dataclass(frozen=True, slots=True)
class MnTerms:
    """What an MN accepts for pairs 1, 2 and 4, and how it offers those that it offers."""

    policies: Mapping[Pair, Policy] = field(
        default_factory=lambda: dict.fromkeys(MN_PAIRS, Policy(preferred=_PREFERRED))
    )
    plans: Mapping[Pair, OfferPlan] = field(
        default_factory=lambda: {Pair.MN_HA: DEFAULT_MN_HA_PLAN}
    )


@dataclass(frozen=True, slots=True)
class Negotiation:
    """One negotiation of an MN with its home, over at most three requests."""

    standing: Standing = Standing.READY
    failures: int = 0
    histories: Mapping[Pair, History] = field(default_factory=dict)
    counters: Mapping[Pair, SaPayload] = field(default_factory=dict)

    def offer(
        self, terms: MnTerms, *, spi: int, entropy: Entropy
    ) -> tuple[Negotiation, tuple[PreparedOffer, ...]]:
        """The offers of the next request, their public values fresh; `spi` is its KEY0 SPI.

        Raises `NotAcceptable` where a pair has nothing left to offer: a node does not fall back to
        what it did not mean to offer.
        """
        standing = advance(self.standing, Event.OFFER)
        offers = []
        for pair in MN_PAIRS:
            if pair in terms.plans:
                keys = generate_keys(terms.plans[pair], entropy)
                offers.append(self._offer_pair(pair, terms, keys, spi))
        return replace(self, standing=standing), tuple(offers)

    def can_offer(self, terms: MnTerms) -> bool:
        """Whether every pair that is offered has something left."""
        try:
            for pair, plan in terms.plans.items():
                # Any keys do for the question; none are made.
                keys = tuple(DhKey(group, Secret(b""), b"") for group in plan.all_groups)
                self._offer_pair(pair, terms, keys, SPI_MINIMUM)
        except NotAcceptable:
            return False
        return True

    def _offer_pair(
        self, pair: Pair, terms: MnTerms, keys: tuple[DhKey, ...], spi: int
    ) -> PreparedOffer:
        plan, policy = terms.plans[pair], terms.policies[pair]
        history, counter = self.histories.get(pair, History()), self.counters.get(pair)
        if counter is not None:
            try:
                return prepare_counter_offer(
                    counter, policy, plan, history, keys=keys, ke_c_spi=spi
                )
            except NotAcceptable:
                pass  # what we would not have offered: go on with what we would
        offer = prepare_offer(pair, policy, plan, history, keys=keys, ke_c_spi=spi)
        if offer is None:
            raise NotAcceptable("nothing is left to offer")
        return offer

    def accepted(self) -> Negotiation:
        """After code 0."""
        return replace(self, standing=advance(self.standing, Event.ACCEPTED))

    def stale(self) -> Negotiation:
        """After a 133: the same is offered again."""
        return replace(self, standing=advance(self.standing, Event.STALE))

    def exhausted(self) -> Negotiation:
        """Nothing is left to offer."""
        return replace(self, standing=advance(self.standing, Event.EXHAUSTED))

    def refused(
        self,
        offers: tuple[PreparedOffer, ...],
        counters: Mapping[Pair, SaPayload],
        failed: Pair | None = None,
    ) -> Negotiation:
        """After a 129 with Status 14; after the third one nothing more is offered.

        A counter-proposal tells for which pair it is, or the Status which one `failed` (FA-HA:
        none of ours); where neither does, no suite of these offers is offered again.
        """
        failures = self.failures + 1
        if failures >= MAXIMUM_ROUNDS:
            return replace(self.exhausted(), failures=failures)
        histories = dict(self.histories)
        for offer in offers:
            pair = offer.payload.pair
            told = counters or (() if failed is None else (failed,))
            if not told or pair in told:
                histories[pair] = histories.get(pair, History()).rejecting(offer.payload)
        return Negotiation(advance(self.standing, Event.REFUSED), failures, histories, counters)
