"""The home agent's replies (step 9): what each party may hold, sealed to that party.

The same arguments give the same octets, so that a duplicate is answered alike by any server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from aaa.exchange import AccessAccept
from aaa.roles.home_agent import HomeAgentPolicy
from aaa.roles.home_agent_request import OpenedRequest
from kdc.crypto.key0 import authenticate
from kdc.crypto.seal import Seal
from kdc.errors import (
    ACCEPTED,
    DENIED_ADMINISTRATIVELY,
    DENIED_IDENTIFICATION,
    NO_PROPOSAL_CHOSEN,
    LocalError,
)
from kdc.model import NTP_OFFSET_S, HomeAddressKind, Nai, Pair, Secret, alias_nai
from kdc.records import Carrier, Denied, Issued
from kdc.sealing import seal_extension, seal_ke_c, transcript, with_secret
from kdc.wire import numbers
from kdc.wire.advertisement import FaPublicKey
from kdc.wire.association import KIND_OF_PAIR, encode_sa_info, sa_info_of
from kdc.wire.extensions import Extension, encode_failed_pair, encode_next_spi, encode_status
from kdc.wire.numbers import Kind
from kdc.wire.parts import (
    encode_authenticator_head,
    encode_extensions,
    encode_realm,
    encode_sa_payloads,
)
from kdc.wire.payloads import decode_sa_payload, encode_sa_payload
from kdc.wire.registration import encode_reply_header

_UNSPECIFIED: Final = IPv4Address(0)
_MN_HOLDS: Final = (Pair.MN_HA, Pair.MN_FA, Pair.MN_SMM)


@dataclass(frozen=True, slots=True)
class BuiltReply:
    """Attributes 2 and 4 of an Access-Accept."""

    alias: Nai
    registration_reply: bytes
    fa_wrapped_key: bytes | None


def build_reply(
    opened: OpenedRequest,
    issued: Issued,
    policy: HomeAgentPolicy,
    *,
    next_spis: tuple[int, ...],
    fa_public_key: FaPublicKey | None,
) -> BuiltReply:
    """Step 9: a reply with code 0, the MN's part under KEY0, the FA's part under W.

    `next_spis` is empty for a static SPI; `fa_public_key` is the one that FK names, or None where
    clear FA keys were granted.
    """
    # Step 9
    alias = alias_nai(issued.alias, policy.realm)
    hidden = opened.record.home_address_kind is HomeAddressKind.HIDDEN
    header = encode_reply_header(
        code=ACCEPTED,
        lifetime_s=issued.lifetime_s,
        home_address=_UNSPECIFIED if hidden else issued.home_address,
        home_agent=policy.address,
        identification=opened.request.identification,
    )
    names = [(numbers.NAI_MN, alias.octets), (numbers.NAI_HA, policy.nai.octets)]
    next_spi = [(numbers.NEXT_SPI, encode_next_spi(next_spis))] if next_spis else []
    if not issued.associations:
        to_mn = _seal_for_mn(opened, header, names + next_spi, b"", policy)
        return BuiltReply(alias, to_mn, None)
    address = [(numbers.IP_MN, issued.home_address.packed)] if hidden else []
    to_mn = _seal_for_mn(
        opened,
        header,
        [*names, *_sa_infos(issued, _MN_HOLDS, carried=True), *address, *next_spi],
        _answers_for_mn(opened, issued, header, policy),
        policy,
    )
    infos = [
        *names,
        *_sa_infos(issued, (Pair.FA_HA,), carried=True),
        *_sa_infos(issued, (Pair.MN_FA, Pair.MN_SMM), carried=False),
        *address,
    ]
    if (issued.wrapping_key is None) != (fa_public_key is None):
        raise LocalError("a wrapping key without the key that it is for, or the other way round")
    fa_part = _build_fa_part(
        opened, to_mn, infos, issued, fa_public_key, vendor_id=policy.vendor_id
    )
    wrapped = issued.wrapping_key.wrapped if issued.wrapping_key is not None else None
    return BuiltReply(alias, to_mn + fa_part, wrapped)


def _sa_infos(
    issued: Issued, pairs: tuple[Pair, ...], *, carried: bool
) -> list[tuple[Kind, bytes]]:
    """SA-INFOs for one holder; with `carried` that of a KE's secret leaves it out (4.2)."""
    infos = []
    for pair in pairs:
        item = issued.find(pair)
        if item is None:
            continue
        info = sa_info_of(item)
        if carried and item.carrier is not Carrier.SA_INFO:
            info = replace(info, secret=Secret(b""))
        infos.append((KIND_OF_PAIR[pair], encode_sa_info(info)))
    return infos


def _answers_for_mn(
    opened: OpenedRequest, issued: Issued, header: bytes, policy: HomeAgentPolicy
) -> bytes:
    """The CVSEs of the answered SA payloads, a KE-c filled under use 2 (PROTOCOL 5.2)."""
    answers = []
    for item in issued.associations:
        if not item.answered or item.pair is Pair.FA_HA:
            continue
        answered = item.answered
        if item.carrier is Carrier.KE_C:
            answered = seal_ke_c(Seal(opened.keys.seal_reply), item.secret, answered, header)
        answers.append(answered)
    return encode_sa_payloads(policy.vendor_id, answers)


def _answer_for_fa(issued: Issued, header: bytes, seal: Seal | None) -> bytes | None:
    """The answered SA payload of pair 3, its KE filled under W or in the clear; None without."""
    item = issued.find(Pair.FA_HA)
    if item is None or not item.answered:
        return None
    if item.carrier is Carrier.KE_SECRET:
        payload = decode_sa_payload(item.answered)
        return encode_sa_payload(with_secret(payload, item.secret))
    if item.carrier is Carrier.KE_C:
        if seal is None:
            raise LocalError("a KE-c for a foreign agent without a key")
        return seal_ke_c(seal, item.secret, item.answered, header)
    return item.answered


def _seal_for_mn(
    opened: OpenedRequest,
    header: bytes,
    infos: list[tuple[Kind, bytes]],
    clear: bytes,
    policy: HomeAgentPolicy,
) -> bytes:
    """Header, 131, CVSEs in the clear, sealed ones, MHAE: all that the MN gets from home."""
    seal, spi = Seal(opened.keys.seal_reply), opened.spi
    sealed = [
        seal_extension(seal, kind=kind, spi=spi, info=info, fixed_header=header)
        for kind, info in infos
    ]
    message = (
        header
        + encode_realm(opened.request.realm)
        + clear
        + encode_extensions(policy.vendor_id, sealed)
        + encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, spi)
    )
    return message + authenticate(opened.keys.authenticate_reply, message)


def _build_fa_part(
    opened: OpenedRequest,
    to_mn: bytes,
    infos: list[tuple[Kind, bytes]],
    issued: Issued,
    fa_public_key: FaPublicKey | None,
    *,
    vendor_id: int,
) -> bytes:
    """The FA's extensions behind the MHAE, the Transcript last (PROTOCOL sections 3 and 8)."""
    access = opened.structured.access
    header = to_mn[: numbers.REPLY_HEADER_OCTETS]
    wrapping_key = issued.wrapping_key
    seal = Seal(wrapping_key.w) if wrapping_key else None
    spi = fa_public_key.spi if fa_public_key else 0

    def extension(kind: Kind, info: bytes) -> Extension:
        if seal is None:
            return Extension(kind, 0, info)
        return seal_extension(seal, kind=kind, spi=spi, info=info, fixed_header=header)

    answer = _answer_for_fa(issued, header, seal)
    between = encode_sa_payloads(vendor_id, [answer] if answer is not None else [])
    between += encode_extensions(vendor_id, [extension(*info) for info in infos])
    bound = transcript(
        request=access.registration_request,
        attribute_3=fa_public_key.octets if fa_public_key else b"",
        attribute_5=access.fa_sa_payload,
        fa_nai=access.fa_nai.octets,
        reply_to_mhae=to_mn,
        between=between,
    )
    last = encode_extensions(vendor_id, [extension(numbers.TRANSCRIPT, bound)])
    return between + last


def build_denial(
    opened: OpenedRequest, denied: Denied, policy: HomeAgentPolicy, *, next_spis: tuple[int, ...]
) -> bytes:
    """An authenticated denial, 129 or 133: the list of SPIs sealed, nothing else (section 3)."""
    identification = opened.request.identification
    if denied.code == DENIED_IDENTIFICATION:
        second = (denied.at + NTP_OFFSET_S) % 2**32
        identification = second.to_bytes(4, "big") + identification[4:]
    header = encode_reply_header(
        code=denied.code,
        lifetime_s=0,
        home_address=_UNSPECIFIED,
        home_agent=policy.address,
        identification=identification,
    )
    counter = [denied.counter_proposal] if denied.counter_proposal else []
    clear = encode_sa_payloads(policy.vendor_id, counter)
    if denied.code == DENIED_ADMINISTRATIVELY:
        detail = encode_failed_pair(denied.pair) if denied.pair is not None else ""
        status = Extension(numbers.STATUS, 0, encode_status(NO_PROPOSAL_CHOSEN, detail))
        clear += encode_extensions(policy.vendor_id, [status])
    infos = [(numbers.NEXT_SPI, encode_next_spi(next_spis))] if next_spis else []
    return _seal_for_mn(opened, header, infos, clear, policy)


def build_accept(
    issued: Issued, reply: BuiltReply, chargeable_user_identity: bytes
) -> AccessAccept:
    """The Access-Accept around a reply (PROTOCOL section 9)."""
    return AccessAccept(
        user_name=reply.alias,
        chargeable_user_identity=chargeable_user_identity,
        class_id=issued.class_id,
        session_timeout_s=issued.lifetime_s or None,
        registration_reply=reply.registration_reply,
        fa_wrapped_key=reply.fa_wrapped_key,
    )
