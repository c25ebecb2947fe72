"""The mobile node (steps 1, 2 and 12): builds sealed requests and takes its keys from replies.

Its state is a frozen value; the caller stores the new one before it sends (PROTOCOL 5.4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from aaa.roles.mobile_node_reply import Agree, Asked, OpenedReply
from aaa.roles.mobile_node_terms import MnTerms
from kdc.crypto.dh import agree
from kdc.crypto.key0 import authenticate, derive_exchange_keys, is_authentic
from kdc.crypto.seal import Seal
from kdc.errors import (
    ACCEPTED,
    DENIED_ADMINISTRATIVELY,
    DENIED_IDENTIFICATION,
    NO_PROPOSAL_CHOSEN,
    LocalError,
    ReplyRefused,
)
from kdc.model import (
    DEFAULT_VENDOR_ID,
    Enrolment,
    ExchangeKeys,
    Identification,
    IpAddress,
    Nai,
    Pair,
    SecurityAssociation,
)
from kdc.negotiation import PreparedOffer
from kdc.sealing import seal_extension
from kdc.wire import numbers
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.extensions import decode_failed_pair, decode_status
from kdc.wire.numbers import Kind
from kdc.wire.parts import (
    encode_authenticator_head,
    encode_extensions,
    encode_realm,
    encode_sa_payloads,
)
from kdc.wire.payloads import SaPayload
from kdc.wire.registration import (
    RegistrationReply,
    decode_reply_for_mn,
    encode_request_header,
)

Entropy = Callable[[int], bytes]
_SCOPE_HOST: Final = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Heard:
    """An FA as its advertisement shows it (step 1)."""

    announcement: FaAnnouncement
    fa_address: IpAddress
    care_of_address: IPv4Address


@dataclass(frozen=True, slots=True)
class MobileNodeState:
    """What a mobile node keeps between requests.

    `last` is the Identification of the last request, `answered` of the last one answered with
    code 0 or 129; both with extended seconds.
    """

    enrolment: Enrolment = field(repr=False)
    unspent: tuple[int, ...]
    spent: int | None = None
    last: Identification | None = None
    answered: Identification | None = None
    offset_s: int = 0

    @classmethod
    def enrolled(cls, enrolment: Enrolment) -> MobileNodeState:
        return cls(enrolment, enrolment.spis)


@dataclass(frozen=True, slots=True)
class Pending:
    """One outstanding request."""

    octets: bytes
    spi: int
    identification: Identification
    lifetime_s: int
    heard: Heard
    keys: ExchangeKeys = field(repr=False)
    offers: tuple[PreparedOffer, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """Code 0 with a lifetime: KEY1 and KEY3 are agreed, and the SMM's key where it was offered."""

    lifetime_s: int
    home_address: IPv4Address
    alias: Nai
    mn_ha: SecurityAssociation
    mn_fa: SecurityAssociation
    mn_smm: SecurityAssociation | None = None

    @property
    def associations(self) -> tuple[SecurityAssociation, ...]:
        smm = () if self.mn_smm is None else (self.mn_smm,)
        return (self.mn_ha, self.mn_fa, *smm)


@dataclass(frozen=True, slots=True)
class Deregistered:
    """Code 0 with lifetime 0."""


@dataclass(frozen=True, slots=True)
class DeniedByHome:
    """An authenticated denial; try again after what it taught (the state has it)."""

    code: int
    notify_type: int | None = None
    detail: str = ""
    counter_proposals: Mapping[Pair, SaPayload] = field(default_factory=dict)

    @property
    def failed_pair(self) -> Pair | None:
        """Whose negotiation failed, where home tells it."""
        return decode_failed_pair(self.detail)

    @property
    def is_negotiable(self) -> bool:
        """Whether another offer may be taken (PROTOCOL section 6)."""
        return self.code == DENIED_ADMINISTRATIVELY and self.notify_type == NO_PROPOSAL_CHOSEN


@dataclass(frozen=True, slots=True)
class HintFromFa:
    """An unauthenticated denial: nothing was learned, the node goes on listening."""

    code: int


Answer = Registered | Deregistered | DeniedByHome | HintFromFa


def build_request(  # noqa: PLR0913 - one argument for each extension
    state: MobileNodeState,
    heard: Heard,
    *,
    lifetime_s: int,
    now: float,
    entropy: Entropy,
    home_address: IPv4Address = _SCOPE_HOST,
    layer2: tuple[Kind, bytes] | None = None,
    offers: tuple[PreparedOffer, ...] = (),
    vendor_id: int = DEFAULT_VENDOR_ID,
) -> tuple[MobileNodeState, Pending]:
    """Step 1: a sealed Registration Request, and the state to be stored before it is sent.

    `lifetime_s` 0 deregisters; `offers` were made for the SPI of `next_spi`, fresh for this one.
    Raises `LocalError` for a node that has no SPI at all.
    """
    # Step 1
    state, spi = _take_spi(state)
    identification = _next_identification(state, now, entropy)
    state = dataclasses.replace(state, last=identification)
    enrolment = state.enrolment
    keys = derive_exchange_keys(enrolment.key0, spi)
    header = encode_request_header(
        lifetime_s=lifetime_s,
        home_agent=enrolment.home_agent,
        care_of_address=heard.care_of_address,
        identification=identification.octets,
    )
    seal = Seal(keys.seal_request)
    infos = [(numbers.NAI_MN, enrolment.nai.octets), (numbers.IP_MN, home_address.packed)]
    if layer2 is not None:
        infos.append(layer2)
    infos += [
        (numbers.NAI_FA, heard.announcement.nai.octets),
        (numbers.IP_FA, heard.fa_address.packed),
        (numbers.FA_KEY, heard.announcement.fk),
    ]
    sealed = [
        seal_extension(seal, kind=kind, spi=spi, info=info, fixed_header=header)
        for kind, info in infos
    ]
    message = (
        header
        + encode_realm(Nai.parse("@" + enrolment.realm))
        + encode_extensions(vendor_id, sealed)
        + encode_sa_payloads(vendor_id, [offer.octets for offer in offers])
        + encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, spi)
    )
    octets = message + authenticate(keys.authenticate_request, message)
    return state, Pending(octets, spi, identification, lifetime_s, heard, keys, offers)


def next_spi(state: MobileNodeState) -> int:
    """The KEY0 SPI that the next request will use; raises `LocalError` without any."""
    return _take_spi(state)[1]


def _take_spi(state: MobileNodeState) -> tuple[MobileNodeState, int]:
    """The next unspent SPI, or the last one again when none is left (PROTOCOL 5.4)."""
    if state.unspent:
        spi = state.unspent[0]
        return dataclasses.replace(state, unspent=state.unspent[1:], spent=spi), spi
    if state.spent is None:
        raise LocalError("the enrolment has no SPI; provision the node anew")
    return state, state.spent


def _next_identification(state: MobileNodeState, now: float, entropy: Entropy) -> Identification:
    """max(clock + offset, last + 1), low half random (PROTOCOL section 3)."""
    low = int.from_bytes(entropy(4), "big")
    at = Identification.at(now + state.offset_s, low)
    if state.last is not None and at.second <= state.last.second:
        return Identification(state.last.second + 1, low)
    return at


def accept_reply(  # noqa: PLR0913 - each with a default that a node rarely leaves
    state: MobileNodeState,
    pending: Pending,
    octets: bytes,
    *,
    now: float,
    terms: MnTerms | None = None,
    vendor_id: int = DEFAULT_VENDOR_ID,
    agree: Agree = agree,
) -> tuple[MobileNodeState, Answer]:
    """Step 12: what a reply to `pending` brings, and the state to be stored with it.

    Raises `RemoteError` for what is refused; then nothing has changed and the request is still
    outstanding.  `agree` makes the exponentiations, for an authentic reply alone.
    """
    # Step 12
    reply = decode_reply_for_mn(octets, vendor_id)
    if reply.identification[4:] != pending.identification.octets[4:]:
        raise ReplyRefused("identification low half does not match")
    if reply.mhae is None:
        return state, HintFromFa(reply.code)
    if reply.mhae.spi != pending.spi:
        raise ReplyRefused("MHAE under another SPI")
    covered = octets[: reply.mhae.covered_octets]
    if not is_authentic(pending.keys.authenticate_reply, covered, reply.mhae.digest):
        raise ReplyRefused("MHAE of the reply is wrong")
    _check_echo(reply, state, pending)
    opened = OpenedReply(_asked(pending), reply)
    spis = opened.next_spis()
    if spis is not None:
        state = dataclasses.replace(state, unspent=spis)
    if reply.code == DENIED_IDENTIFICATION:
        return _learned_offset(state, reply, now), DeniedByHome(reply.code)
    state = dataclasses.replace(state, answered=pending.identification)
    if reply.code != ACCEPTED:
        return state, _denial(reply, opened)
    if opened.home_agent_nai() != state.enrolment.home_agent_nai:
        raise ReplyRefused("another home agent's name")
    if reply.lifetime_s == 0:
        opened.alias()
        return state, Deregistered()
    return state, _registered(opened, reply, terms if terms is not None else MnTerms(), agree)


def _asked(pending: Pending) -> Asked:
    return Asked(
        pending.keys,
        pending.identification.octets,
        pending.heard.announcement.nai,
        pending.heard.care_of_address,
        {offer.payload.pair: offer for offer in pending.offers},
    )


def _check_echo(reply: RegistrationReply, state: MobileNodeState, pending: Pending) -> None:
    """What home repeats of the request; the home's own time stands in a 133."""
    if reply.code != DENIED_IDENTIFICATION and (
        reply.identification != pending.identification.octets
    ):
        raise ReplyRefused("identification does not match")
    if reply.home_agent != state.enrolment.home_agent:
        raise ReplyRefused("another home agent")
    if reply.realm is None or reply.realm.realm != state.enrolment.realm.lower():
        raise ReplyRefused("another realm")
    if reply.lifetime_s > pending.lifetime_s:
        raise ReplyRefused("a lifetime above the one asked for")
    if reply.code == ACCEPTED and (reply.lifetime_s == 0) != (pending.lifetime_s == 0):
        raise ReplyRefused("a lifetime of the other kind")


def _registered(
    opened: OpenedReply, reply: RegistrationReply, terms: MnTerms, agree: Agree
) -> Registered:
    associations = opened.associations(terms, agree)
    opened.verify_mfae(associations[Pair.MN_FA])
    return Registered(
        reply.lifetime_s,
        opened.home_address(),
        opened.alias(),
        associations[Pair.MN_HA],
        associations[Pair.MN_FA],
        associations.get(Pair.MN_SMM),
    )


def _learned_offset(
    state: MobileNodeState, reply: RegistrationReply, now: float
) -> MobileNodeState:
    """133: an offset, not the clock (section 3); the last Identification goes back."""
    home = Identification.extend(reply.identification, now)
    return dataclasses.replace(state, offset_s=home.unix - int(now), last=state.answered)


def _denial(reply: RegistrationReply, opened: OpenedReply) -> DeniedByHome:
    counters = opened.counter_proposals()
    status = reply.part.find(numbers.STATUS)
    if status is None:
        return DeniedByHome(reply.code, counter_proposals=counters)
    notify_type, detail = decode_status(status.info)
    return DeniedByHome(reply.code, notify_type, detail, counters)
