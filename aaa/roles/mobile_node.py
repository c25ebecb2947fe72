"""The mobile node (steps 1, 2 and 12): builds sealed requests and takes its keys from replies.

Its state is a frozen value; the caller stores the new one before it sends (PROTOCOL 5.4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from kdc.crypto.key0 import authenticate, derive_exchange_keys, derive_mfae_key, is_authentic
from kdc.crypto.seal import Seal
from kdc.errors import (
    ACCEPTED,
    DENIED_IDENTIFICATION,
    LocalError,
    Malformed,
    ReplyRefused,
)
from kdc.installation import DEFAULT_POLICY, accept_sa_info
from kdc.model import (
    DEFAULT_VENDOR_ID,
    Enrolment,
    ExchangeKeys,
    Identification,
    IpAddress,
    Nai,
    Pair,
    SecurityAssociation,
    Suite,
)
from kdc.sealing import open_extension, seal_extension
from kdc.wire import numbers
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.association import KIND_OF_PAIR
from kdc.wire.extensions import decode_ip, decode_next_spi, decode_status
from kdc.wire.numbers import Kind
from kdc.wire.parts import encode_authenticator_head, encode_part, encode_realm
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


@dataclass(frozen=True, slots=True)
class Registered:
    """Code 0 with a lifetime: KEY1 and KEY3 are agreed."""

    lifetime_s: int
    home_address: IPv4Address
    alias: Nai
    mn_ha: SecurityAssociation
    mn_fa: SecurityAssociation


@dataclass(frozen=True, slots=True)
class Deregistered:
    """Code 0 with lifetime 0."""


@dataclass(frozen=True, slots=True)
class DeniedByHome:
    """An authenticated denial; try again after what it taught (the state has it)."""

    code: int
    notify_type: int | None = None
    detail: str = ""


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
    vendor_id: int = DEFAULT_VENDOR_ID,
) -> tuple[MobileNodeState, Pending]:
    """Step 1: a sealed Registration Request, and the state to be stored before it is sent.

    `lifetime_s` 0 deregisters.  Raises `LocalError` for a node that has no SPI at all.
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
        + encode_part(vendor_id, [], sealed)
        + encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, spi)
    )
    octets = message + authenticate(keys.authenticate_request, message)
    return state, Pending(octets, spi, identification, lifetime_s, heard, keys)


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


def accept_reply(
    state: MobileNodeState,
    pending: Pending,
    octets: bytes,
    *,
    now: float,
    policy: frozenset[Suite] = DEFAULT_POLICY,
    vendor_id: int = DEFAULT_VENDOR_ID,
) -> tuple[MobileNodeState, Answer]:
    """Step 12: what a reply to `pending` brings, and the state to be stored with it.

    Raises `ReplyRefused`, `Malformed` or `UnknownVendor`; then nothing has changed and the
    request is still outstanding.
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
    return _Opener(state, pending, reply, now).answer(policy)


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
    if reply.part.sa_payloads:
        raise ReplyRefused("an answer to nothing that was offered")
    if reply.lifetime_s > pending.lifetime_s:
        raise ReplyRefused("a lifetime above the one asked for")
    if reply.code == ACCEPTED and (reply.lifetime_s == 0) != (pending.lifetime_s == 0):
        raise ReplyRefused("a lifetime of the other kind")


class _Opener:
    """One authenticated reply being opened."""

    def __init__(
        self, state: MobileNodeState, pending: Pending, reply: RegistrationReply, now: float
    ) -> None:
        self._now = now
        self._state = state
        self._pending = pending
        self._reply = reply
        self._seal = Seal(pending.keys.seal_reply)

    def _open(self, kind: Kind) -> bytes:
        return open_extension(self._seal, self._reply.part[kind], self._reply.fixed_header)

    def answer(self, policy: frozenset[Suite]) -> tuple[MobileNodeState, Answer]:
        state = self._learned_spis()
        if self._reply.code == DENIED_IDENTIFICATION:
            return self._learned_offset(state), DeniedByHome(self._reply.code)
        if self._reply.code != ACCEPTED:
            state = dataclasses.replace(state, answered=self._pending.identification)
            return state, self._denial()
        answered = dataclasses.replace(state, answered=self._pending.identification)
        alias = Nai(self._open(numbers.NAI_MN))
        if Nai(self._open(numbers.NAI_HA)) != self._state.enrolment.home_agent_nai:
            raise ReplyRefused("another home agent's name")
        if self._reply.lifetime_s == 0:
            return answered, Deregistered()
        return answered, self._registered(alias, policy)

    def _registered(self, alias: Nai, policy: frozenset[Suite]) -> Registered:
        if numbers.SA_MN_SMM in self._reply.part.extensions:
            raise ReplyRefused("an association that was not asked for")
        mn_fa = self._association(Pair.MN_FA, policy)
        self._verify_mfae(mn_fa)
        home_address = self._reply.home_address
        if self._reply.part.find(numbers.IP_MN) is not None:
            shown = decode_ip(self._open(numbers.IP_MN))
            if not isinstance(shown, IPv4Address):
                raise Malformed("IP length")
            home_address = shown
        mn_ha = self._association(Pair.MN_HA, policy)
        return Registered(self._reply.lifetime_s, home_address, alias, mn_ha, mn_fa)

    def _association(self, pair: Pair, policy: frozenset[Suite]) -> SecurityAssociation:
        opened = self._open(KIND_OF_PAIR[pair])
        return accept_sa_info(opened, pair, policy=policy, granted_s=self._reply.lifetime_s)

    def _verify_mfae(self, mn_fa: SecurityAssociation) -> None:
        """7.4: a valid MFAE confirms that the FA holds KEY3."""
        mfae = self._reply.mfae
        if mfae is None:
            raise ReplyRefused("no MFAE")
        covered = self._reply.octets[: mfae.covered_octets]
        right = is_authentic(derive_mfae_key(mn_fa.keys), covered, mfae.digest)
        if not right or mfae.spi != mn_fa.spi:
            raise ReplyRefused("MFAE is wrong")

    def _learned_spis(self) -> MobileNodeState:
        if self._reply.part.find(numbers.NEXT_SPI) is None:
            return self._state
        return dataclasses.replace(
            self._state, unspent=decode_next_spi(self._open(numbers.NEXT_SPI))
        )

    def _learned_offset(self, state: MobileNodeState) -> MobileNodeState:
        """133: an offset, not the clock (section 3); the last Identification goes back."""
        home = Identification.extend(self._reply.identification, self._now)
        return dataclasses.replace(state, offset_s=home.unix - int(self._now), last=state.answered)

    def _denial(self) -> DeniedByHome:
        status = self._reply.part.find(numbers.STATUS)
        if status is None:
            return DeniedByHome(self._reply.code)
        notify_type, detail = decode_status(status.info)
        return DeniedByHome(self._reply.code, notify_type, detail)
