"""The rounds of a negotiation: offers, counter-proposals and what was rejected (section 6).

How many rounds have failed is counted in the record, not here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Final

from kdc.errors import NotAcceptable
from kdc.model import KEY_OCTETS, Mode, Pair, Suite
from kdc.negotiation.choice import combinations
from kdc.negotiation.terms import NULL, Policy, proposals_by_number
from kdc.wire.payloads import (
    KEY_MODE,
    MAXIMUM_KEY_EXCHANGES,
    MAXIMUM_PROPOSALS,
    Attribute,
    KeyExchange,
    Proposal,
    SaPayload,
    Transform,
)

MAXIMUM_NUMBER: Final = 255


@dataclass(frozen=True, slots=True)
class History:
    """What one negotiation has used up: its highest proposal number, the suites rejected."""

    highest_number: int = 0
    rejected: frozenset[tuple[Suite, ...]] = frozenset()

    def rejecting(self, offer: SaPayload) -> History:
        """The history after `offer` was refused: every combination of it is rejected."""
        rejected = set(self.rejected)
        for group in proposals_by_number(offer):
            # Unknown suites are never offered by us, so they need no memory.
            known = [_known_suites(proposal) for proposal in group]
            rejected.update(itertools.product(*known) if all(known) else ())
        highest = max(self.highest_number, offer.proposals[-1].number)
        return History(highest, frozenset(rejected))


def build_offer(  # noqa: PLR0913 - each is a part of the offer
    pair: Pair,
    policy: Policy,
    history: History,
    *,
    lifetime_s: int,
    mode: Mode | None = None,
    key_exchanges: tuple[KeyExchange, ...] = (),
    alternatives: int = MAXIMUM_PROPOSALS,
) -> SaPayload | None:
    """The first `alternatives` of the preferred suites that are not rejected, or None.

    They are numbered above all used so far.

    Each proposal number carries all `key_exchanges` anew, as many numbers as the limits of
    PROTOCOL 4.3 hold.
    """
    attributes = _mode_attributes(mode)
    numbered = itertools.count(history.highest_number + 1)
    groups: list[tuple[Proposal, ...]] = []
    for suites in policy.preferred:
        if suites in history.rejected or not policy.suites.issuperset(suites):
            continue
        if len(groups) == alternatives:
            break
        number = next(numbered)
        groups.append(
            tuple(
                Proposal(number, n, suite.protocol_id, lifetime_s, 0, (transform,))
                for n, suite in enumerate(suites, 1)
                for transform in (Transform(1, suite.transform_id, int(suite != NULL), attributes),)
            )
        )
    return _join(pair, groups, key_exchanges)


def build_counter_proposal(
    offer: SaPayload, policy: Policy, *, lifetime_s: int
) -> SaPayload | None:
    """What a responder that refuses `offer` would take; None if its policy has nothing else."""
    history = History().rejecting(offer)
    return build_offer(offer.pair, policy, history, lifetime_s=lifetime_s)


def is_counter_proposal(offer: SaPayload, payload: SaPayload) -> bool:
    """Whether the payload is no answer to the offer but has numbers above all of its own."""
    highest = offer.proposals[-1].number
    return payload.pair is offer.pair and payload.proposals[0].number > highest


def take_counter_proposal(
    counter: SaPayload,
    policy: Policy,
    history: History,
    *,
    mode: Mode | None = None,
    key_exchanges: tuple[KeyExchange, ...] = (),
) -> SaPayload:
    """The offer of the next request: what of the counter-proposal we would have offered ourselves.

    Of each proposal number the first such combination of suites stays, under its numbers; mode and
    KEs are those of our own plan, or a counter-proposal could take forward secrecy or the KDC's
    secret away.  Raises `NotAcceptable` if nothing stays.
    """
    if counter.proposals[0].number <= history.highest_number:
        raise NotAcceptable("counter-proposal numbers are not above those used")
    groups: list[tuple[Proposal, ...]] = []
    for group in proposals_by_number(counter):
        for chosen, proposed in combinations(group, policy):
            suites = tuple(Suite(p.protocol_id, p.transforms[0].transform_id) for p in chosen)
            ours = suites in policy.preferred and suites not in history.rejected
            if ours and proposed in (None, mode):
                groups.append(tuple(_in_mode(proposal, mode) for proposal in chosen))
                break
    taken = _join(counter.pair, groups, key_exchanges)
    if taken is None:
        raise NotAcceptable("counter-proposal that our own policy would not have offered")
    return taken


def _in_mode(proposal: Proposal, mode: Mode | None) -> Proposal:
    """The proposal, whose one transform names our mode and no other attribute, as our offers do."""
    transform = proposal.transforms[0]
    transform = replace(transform, attributes=_mode_attributes(mode))
    return replace(proposal, spi=0, transforms=(transform,), key_exchanges=())


def _mode_attributes(mode: Mode | None) -> tuple[Attribute, ...]:
    return () if mode is None else (Attribute(KEY_MODE, mode.to_bytes(2, "big")),)


def _join(
    pair: Pair, groups: list[tuple[Proposal, ...]], key_exchanges: tuple[KeyExchange, ...]
) -> SaPayload | None:
    """The payload of as many AND groups as the limits hold, each with the key exchanges."""
    proposals: list[Proposal] = []
    for carried, group in enumerate(groups, 1):
        if len(proposals) + len(group) > MAXIMUM_PROPOSALS or group[0].number > MAXIMUM_NUMBER:
            break
        if carried * len(key_exchanges) > MAXIMUM_KEY_EXCHANGES:
            break
        proposals += (*group[:-1], replace(group[-1], key_exchanges=key_exchanges))
    return SaPayload(pair, tuple(proposals)) if proposals else None


def _known_suites(proposal: Proposal) -> set[Suite]:
    suites = {Suite(proposal.protocol_id, t.transform_id) for t in proposal.transforms}
    return suites & KEY_OCTETS.keys()
