"""The initiator's side: an answer is one of the combinations offered, or refused (section 6).

It takes no policy: what was offered is what its own policy allows.
"""

from __future__ import annotations

from dataclasses import replace

from kdc.errors import NotAcceptable
from kdc.model import SPI_MINIMUM, Mode, Pair
from kdc.negotiation.terms import (
    NULL,
    SPI_BY_HOME,
    Agreement,
    is_bound,
    is_computed,
    is_secret,
    is_well_formed,
    read_transform,
)
from kdc.wire.payloads import AUTHENTICATION, KeA, KeB, KeC, KeyExchange, Proposal, SaPayload


def verify_answer(offer: SaPayload, answer: SaPayload) -> Agreement:
    """The agreement, if the answer is one of the combinations offered; else `NotAcceptable`.

    The SPI and a KE-c's secret are compared by who opens them.
    """
    if answer.pair is not offer.pair:
        raise NotAcceptable("answer for another pair")
    number = answer.proposals[0].number
    if any(proposal.number != number for proposal in answer.proposals):
        raise NotAcceptable("answer with more than one proposal number")
    offered = [proposal for proposal in offer.proposals if proposal.number == number]
    if [p.protocol_id for p in offered] != [p.protocol_id for p in answer.proposals]:
        raise NotAcceptable("answer has not exactly the protocols of an offered proposal")
    for ours, theirs in zip(offered, answer.proposals, strict=True):
        _verify_proposal(ours, theirs)
    _verify_spi(answer)
    key_exchange, answered = _verify_key_exchange(offered, answer)
    proposals = tuple(replace(proposal, key_exchanges=()) for proposal in answer.proposals)
    mode = _verify_mode(proposals, key_exchange)
    return Agreement(answer.pair, proposals, mode, key_exchange, answered)


def _verify_proposal(ours: Proposal, theirs: Proposal) -> None:
    if len(theirs.transforms) != 1 or theirs.transforms[0] not in ours.transforms:
        raise NotAcceptable("answer has not exactly one transform that was offered")
    if theirs.lifetime_s > ours.lifetime_s:
        raise NotAcceptable("answer raises the lifetime")


def _verify_spi(answer: SaPayload) -> None:
    spis = {proposal.spi for proposal in answer.proposals}
    by_home = answer.pair in SPI_BY_HOME
    spi = spis.pop()
    if spis or (spi < SPI_MINIMUM if by_home else spi != 0):
        raise NotAcceptable("SPI of the answer")


def _verify_key_exchange(
    offered: list[Proposal], answer: SaPayload
) -> tuple[KeyExchange | None, KeyExchange | None]:
    """The KE offered and the KE answered; both None where the answer has none."""
    if any(proposal.key_exchanges for proposal in answer.proposals[:-1]):
        raise NotAcceptable("KE before the last proposal of the answer")
    match answer.proposals[-1].key_exchanges:
        case ():
            return None, None
        case (answered,):
            if is_secret(answered) and answer.pair is not Pair.FA_HA:
                raise NotAcceptable("a secret in the clear for another pair than FA-HA")
        case _:
            raise NotAcceptable("two KE in an answer")
    for ke in (ke for proposal in offered for ke in proposal.key_exchanges):
        if _answers(answered, ke) and is_bound(ke, answer.proposals):
            return ke, answered
    raise NotAcceptable("answer has a KE that was not offered")


def _answers(answered: KeyExchange, offered: KeyExchange) -> bool:
    """Whether the offered one may be used and the two differ only in the responder's value."""
    if is_computed(answered):
        if not (is_well_formed(answered) and is_well_formed(offered)):
            return False
    elif _holds_data(offered):
        return False
    match answered, offered:
        case (KeA(), KeA()):
            return answered == replace(offered, data=answered.data)
        case (KeB(), KeB()):
            return answered == replace(offered, public_value=answered.public_value)
        case (KeC(), KeC()):
            return answered.spi == offered.spi
    return False


def _holds_data(offered: KeyExchange) -> bool:
    """An offer of a KE-c or of sub-type 240 is empty; else it is passed over (PROTOCOL 4.3)."""
    match offered:
        case KeA():
            return bool(offered.data)
        case KeC():
            return bool(offered.sealed)
    return False


def _verify_mode(proposals: tuple[Proposal, ...], ke: KeyExchange | None) -> Mode | None:
    """The one mode of the chosen transforms, as far as the answer tells it."""
    read = [read_transform(p.protocol_id, p.transforms[0]) for p in proposals]
    known = [suite_and_mode for suite_and_mode in read if suite_and_mode is not None]
    if len(known) != len(read):
        raise NotAcceptable("answer has a transform that is passed over")
    suites = [suite for suite, _ in known]
    if NULL in suites and all(suite.protocol_id != AUTHENTICATION for suite in suites):
        raise NotAcceptable("NULL without authentication")
    modes = {mode for _, mode in known if mode is not None}
    if len(modes) > 1:
        raise NotAcceptable("answer of two modes")
    mode = modes.pop() if modes else (Mode.STATELESS if is_computed(ke) else None)
    if mode is Mode.STATELESS and not is_computed(ke):
        raise NotAcceptable("stateless without a computed value")
    return mode
