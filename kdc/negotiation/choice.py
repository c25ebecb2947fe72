"""The responder's side: the first acceptable combination of an offer, and its answer (section 6).

Public values are made and judged in kdc.crypto (a bad point, a composite P); the home agent seals
what goes into a KE-c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kdc.errors import LocalError, NotAcceptable
from kdc.model import Mode, Pair, Suite, key_octets
from kdc.negotiation.terms import (
    FA_GROUP,
    KNOWN_PROTOCOLS,
    NULL,
    SPI_BY_HOME,
    Agreement,
    Policy,
    is_bound,
    is_computed,
    is_raw,
    is_secret,
    is_well_formed,
    proposals_by_number,
    read_transform,
    shared_octets,
)
from kdc.wire.payloads import (
    AUTHENTICATION,
    KeA,
    KeB,
    KeC,
    KeyExchange,
    Proposal,
    SaPayload,
)

Choice = tuple[Proposal, Mode | None]  # a proposal of one transform, and the mode that it names


def select_agreement(offer: SaPayload, policy: Policy) -> Agreement:
    """The first acceptable combination in the initiator's order, lifetimes lowered.

    Raises `NotAcceptable` (129, Status 14) if there is none.
    """
    for proposals in proposals_by_number(offer):
        # Section 6: the KEs of one proposal number form one set.
        kes = [
            ke
            for proposal in proposals
            for ke in proposal.key_exchanges
            if _uses(offer.pair, ke, policy)
        ]
        for chosen, mode in combinations(proposals, policy, kes):
            agreement = _match(SaPayload(offer.pair, chosen), mode, kes, policy)
            if agreement is not None:
                return agreement
    raise NotAcceptable("no proposal chosen")


def build_answer(
    agreement: Agreement, *, spi: int, public_value: bytes = b"", sealed: bytes = b""
) -> SaPayload:
    """The responder's answer: the chosen transforms, and one KE after the last proposal.

    `spi` is the SA's, used for pairs 1 and 3 only.  `public_value` is the responder's for a group,
    the secret (or nothing yet) for sub-type 240; `sealed` the INFO of a KE-c, empty until the home
    side fills it.
    """
    if agreement.has_computed_value != bool(public_value) and not is_secret(agreement.key_exchange):
        raise LocalError("a public value where none is used, or none where one is")
    answered = _answer_key_exchange(agreement.key_exchange, public_value, sealed)
    answer_spi = spi if agreement.pair in SPI_BY_HOME else 0
    kes = (answered,) if answered is not None else ()
    *others, last = agreement.proposals
    proposals = [proposal.answering(answer_spi, ()) for proposal in others]
    return SaPayload(agreement.pair, (*proposals, last.answering(answer_spi, kes)))


def verify_within(agreement: Agreement, policy: Policy) -> Agreement:
    """The agreement of two others with its mode told, if `policy` would have made it.

    For the home side and the FA's answers (pairs 2 and 4).  Raises `NotAcceptable`.
    """
    kes = () if agreement.key_exchange is None else (agreement.key_exchange,)
    last = replace(agreement.proposals[-1], key_exchanges=kes)
    offer = SaPayload(agreement.pair, (*agreement.proposals[:-1], last))
    matched = select_agreement(offer, policy)
    if matched.key_exchange != agreement.key_exchange:
        raise NotAcceptable("key exchange outside our own policy")
    # The octets go on unchanged: lifetimes stay as the FA answered them.
    return replace(agreement, mode=matched.mode)


def combinations(
    proposals: tuple[Proposal, ...], policy: Policy, kes: Sequence[KeyExchange] = ()
) -> Iterator[tuple[tuple[Proposal, ...], Mode | None]]:
    """The combinations that policy has suites and modes for, each of one mode, in order.

    `kes` are those that policy uses: transforms that none of them is bound to differ by suite and
    mode alone, so that an offer of many costs no search of thousands.
    """
    protocols = {proposal.protocol_id for proposal in proposals}
    if not protocols <= KNOWN_PROTOCOLS:  # so there are at most three: the search stays small
        return
    bound = {ke.transform_number for ke in kes if isinstance(ke, KeA)}
    choices = [_choices(proposal, bound, policy) for proposal in proposals]
    for chosen, mode in _of_one_mode(choices, None):
        if AUTHENTICATION in protocols or not any(_is_null(proposal) for proposal in chosen):
            yield chosen, mode


def _is_null(proposal: Proposal) -> bool:
    return Suite(proposal.protocol_id, proposal.transforms[0].transform_id) == NULL


def _choices(proposal: Proposal, bound: set[int], policy: Policy) -> list[Choice]:
    """The usable transforms; of those that differ in nothing that is judged, the first alone."""
    lifetime_s = min(proposal.lifetime_s, policy.maximum_lifetime_s)
    distinct: dict[object, Choice] = {}
    for transform in proposal.transforms:
        read = read_transform(proposal.protocol_id, transform)
        if read is None or read[0] not in policy.suites:
            continue
        suite, mode = read
        if mode is not None and mode not in policy.modes:
            continue
        single = proposal.choosing(transform, lifetime_s)
        number = transform.number if transform.number in bound else None
        distinct.setdefault((suite, mode, number), (single, mode))
    return list(distinct.values())


def _of_one_mode(
    choices: list[list[Choice]], mode: Mode | None
) -> Iterator[tuple[tuple[Proposal, ...], Mode | None]]:
    if not choices:
        yield (), mode
        return
    for proposal, own in choices[0]:
        if own is None or mode is None or own is mode:
            for rest, agreed in _of_one_mode(choices[1:], mode or own):
                yield (proposal, *rest), agreed


def _match(
    chosen: SaPayload, mode: Mode | None, kes: Sequence[KeyExchange], policy: Policy
) -> Agreement | None:
    """The combination with the first KE that serves it, or without one; None if it needs one."""
    for ke in kes:
        implied = Mode.STATELESS if is_computed(ke) else policy.default_mode
        agreement = Agreement(chosen.pair, chosen.proposals, mode or implied, ke)
        if agreement.mode in policy.modes and _allows(agreement, ke, policy):
            return agreement
    without = mode or policy.default_mode
    if without is Mode.STATELESS:
        return None
    return Agreement(chosen.pair, chosen.proposals, without, None)


def _allows(agreement: Agreement, ke: KeyExchange, policy: Policy) -> bool:
    """Whether a KE that policy uses serves this combination; else it is passed over."""
    if not is_bound(ke, agreement.proposals):
        return False
    if not is_computed(ke):
        return agreement.mode is not Mode.STATELESS
    short = shared_octets(ke) < key_octets(agreement.pair, agreement.suites)
    return not (short and is_raw(agreement.pair, agreement.mode, policy))


def _uses(pair: Pair, ke: KeyExchange, policy: Policy) -> bool:
    """Whether policy uses this KE of an offer, whatever is chosen with it."""
    match ke:
        case KeC():
            return ke.spi == policy.ke_c_spi and not ke.sealed
        case KeA() if is_secret(ke):
            return pair is Pair.FA_HA and policy.clear_fa_keys and not ke.data
        case KeA():
            known = ke.group in policy.groups and (ke.group == FA_GROUP or _any_group(pair, policy))
        case KeB():
            known = policy.user_groups and _any_group(pair, policy)
    return known and is_well_formed(ke)


def _any_group(pair: Pair, policy: Policy) -> bool:
    return pair is Pair.MN_HA or policy.fa_dh_any


def _answer_key_exchange(
    ke: KeyExchange | None, public_value: bytes, sealed: bytes
) -> KeyExchange | None:
    match ke:
        case KeA():
            return replace(ke, data=public_value)
        case KeB():
            return replace(ke, public_value=public_value)
        case KeC():
            return replace(ke, sealed=sealed)
    return None
