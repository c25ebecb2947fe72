"""The home agent's replies (step 9): what each party may hold, sealed to that party.

The same arguments give the same octets, so that a duplicate is answered alike by any server.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address

from aaa.exchange import AccessAccept, AccessChallenge
from aaa.roles.home_agent import HomeAgentPolicy, OpenedRequest
from kdc.crypto.key0 import authenticate
from kdc.crypto.seal import Seal
from kdc.errors import (
    ACCEPTED,
    DENIED_ADMINISTRATIVELY,
    DENIED_IDENTIFICATION,
    NO_PROPOSAL_CHOSEN,
    LocalError,
)
from kdc.model import NTP_OFFSET_S, HomeAddressKind, Nai, Pair, Secret
from kdc.records import Issued, IssuedAssociation, WrappingKey
from kdc.sealing import seal_extension, transcript
from kdc.wire import numbers
from kdc.wire.advertisement import FaPublicKey
from kdc.wire.association import KIND_OF_PAIR, SaInfo, encode_sa_info
from kdc.wire.extensions import Extension, encode_next_spi, encode_status
from kdc.wire.numbers import Kind
from kdc.wire.parts import encode_authenticator_head, encode_part, encode_realm
from kdc.wire.registration import (
    encode_reply_header,
)

_UNSPECIFIED = IPv4Address(0)
_CUI_LABEL = b"roamkey cui v1"


@dataclass(frozen=True, slots=True)
class BuiltReply:
    """Attributes 2 and 4 of an Access-Accept."""

    registration_reply: bytes
    fa_wrapped_key: bytes | None


def alias_nai(alias: bytes, realm: str) -> Nai:
    """`m-<16 hex>@realm`: at most 64 octets unless the realm is longer."""
    return Nai.parse(f"m-{alias.hex()}@{realm}")


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
    infos = list(names)
    address = [(numbers.IP_MN, issued.home_address.packed)] if hidden else []
    if issued.associations:
        infos += [_sa(issued, Pair.MN_HA), _sa(issued, Pair.MN_FA), *address]
    if next_spis:
        infos.append((numbers.NEXT_SPI, encode_next_spi(next_spis)))
    to_mn = _seal_for_mn(opened, header, infos, [], policy)
    if not issued.associations:
        return BuiltReply(to_mn, None)
    infos = [*names, _sa(issued, Pair.FA_HA), _sa(issued, Pair.MN_FA), *address]
    if (issued.wrapping_key is None) != (fa_public_key is None):
        raise LocalError("a wrapping key without the key that it is for, or the other way round")
    return _add_fa_part(
        opened, to_mn, infos, issued.wrapping_key, fa_public_key, vendor_id=policy.vendor_id
    )


def _sa(issued: Issued, pair: Pair) -> tuple[Kind, bytes]:
    item: IssuedAssociation = issued.association(pair)
    info = SaInfo(
        item.spi,
        item.lifetime_s,
        item.key_name,
        item.mode,
        item.derivation,
        item.suites,
        item.secret,
    )
    return KIND_OF_PAIR[pair], encode_sa_info(info)


def _seal_for_mn(
    opened: OpenedRequest,
    header: bytes,
    infos: list[tuple[Kind, bytes]],
    clear: list[Extension],
    policy: HomeAgentPolicy,
) -> bytes:
    """Header, 131, CVSEs and MHAE: all that the MN gets from home."""
    seal, spi = Seal(opened.keys.seal_reply), opened.spi
    sealed = [
        seal_extension(seal, kind=kind, spi=spi, info=info, fixed_header=header)
        for kind, info in infos
    ]
    message = (
        header
        + encode_realm(opened.request.realm)
        + encode_part(policy.vendor_id, [], clear + sealed)
        + encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, spi)
    )
    return message + authenticate(opened.keys.authenticate_reply, message)


def _add_fa_part(
    opened: OpenedRequest,
    to_mn: bytes,
    infos: list[tuple[Kind, bytes]],
    wrapping_key: WrappingKey | None,
    fa_public_key: FaPublicKey | None,
    *,
    vendor_id: int,
) -> BuiltReply:
    """The FA's extensions behind the MHAE, the Transcript last (PROTOCOL sections 3 and 8)."""
    access = opened.structured.access
    header = to_mn[: numbers.REPLY_HEADER_OCTETS]
    seal = Seal(wrapping_key.w) if wrapping_key else None
    spi = fa_public_key.spi if fa_public_key else 0

    def extension(kind: Kind, info: bytes) -> Extension:
        if seal is None:
            return Extension(kind, 0, info)
        return seal_extension(seal, kind=kind, spi=spi, info=info, fixed_header=header)

    between = encode_part(vendor_id, [], [extension(*info) for info in infos])
    bound = transcript(
        request=access.registration_request,
        attribute_3=fa_public_key.octets if fa_public_key else b"",
        attribute_5=access.fa_sa_payload,
        fa_nai=access.fa_nai.octets,
        reply_to_mhae=to_mn,
        between=between,
    )
    last = encode_part(vendor_id, [], [extension(numbers.TRANSCRIPT, bound)])
    wrapped = wrapping_key.wrapped if wrapping_key is not None else None
    return BuiltReply(to_mn + between + last, wrapped)


def build_denial(
    opened: OpenedRequest,
    code: int,
    policy: HomeAgentPolicy,
    *,
    next_spis: tuple[int, ...],
    now: float,
) -> bytes:
    """An authenticated denial, 129 or 133: the list of SPIs sealed, nothing else (section 3)."""
    identification = opened.request.identification
    if code == DENIED_IDENTIFICATION:
        second = (int(now) + NTP_OFFSET_S) % 2**32
        identification = second.to_bytes(4, "big") + identification[4:]
    header = encode_reply_header(
        code=code,
        lifetime_s=0,
        home_address=_UNSPECIFIED,
        home_agent=policy.address,
        identification=identification,
    )
    clear = []
    if code == DENIED_ADMINISTRATIVELY:
        clear.append(Extension(numbers.STATUS, 0, encode_status(NO_PROPOSAL_CHOSEN)))
    infos = [(numbers.NEXT_SPI, encode_next_spi(next_spis))] if next_spis else []
    return _seal_for_mn(opened, header, infos, clear, policy)


def build_accept(  # noqa: PLR0913 - one argument for each attribute
    opened: OpenedRequest,
    issued: Issued,
    reply: BuiltReply,
    policy: HomeAgentPolicy,
    *,
    operator_realm: str | None,
    cui_key: Secret,
    now: float,
) -> AccessAccept:
    """The Access-Accept around a reply (PROTOCOL section 9)."""
    month = datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
    named = (operator_realm or "", str(opened.record.record_id), month)
    identity = b"".join(
        len(part).to_bytes(2, "big") + part for part in (text.encode() for text in named)
    )
    return AccessAccept(
        user_name=alias_nai(issued.alias, policy.realm),
        chargeable_user_identity=hmac.digest(cui_key.reveal(), _CUI_LABEL + identity, "sha256")
        .hex()
        .encode(),
        class_id=issued.class_id,
        session_timeout_s=issued.lifetime_s or None,
        registration_reply=reply.registration_reply,
        fa_wrapped_key=reply.fa_wrapped_key,
    )


def build_challenge(reply: bytes, state: bytes) -> AccessChallenge:
    return AccessChallenge(reply, state)
