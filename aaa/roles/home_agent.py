"""The home agent (step 6): authenticates a mobile node and, by what it sealed, the foreign side.

Every check of PROTOCOL 5.3 stands here in its order, as pure code: it holds the four keys of one
exchange, never KEY0.  Replies are built in home_agent_reply.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from aaa.exchange import AccessRequest, Peer
from kdc.crypto.hpke import fingerprint
from kdc.crypto.key0 import is_authentic
from kdc.crypto.seal import Seal
from kdc.errors import (
    DENIED_ADMINISTRATIVELY,
    DENIED_FA_AUTHENTICATION,
    DENIED_IDENTIFICATION,
    DENIED_MN_AUTHENTICATION,
    AuthenticationFailed,
    Unavailable,
)
from kdc.model import (
    DEFAULT_SUITES,
    DEFAULT_VENDOR_ID,
    ExchangeKeys,
    HomeAddressKind,
    Identification,
    IpAddress,
    Nai,
    Pair,
    Suite,
)
from kdc.records import Record, VerifiedRegistration
from kdc.sealing import open_extension
from kdc.wire import numbers
from kdc.wire.advertisement import FaPublicKey, decode_fa_public_keys
from kdc.wire.extensions import decode_ip
from kdc.wire.payloads import iter_sa_payloads
from kdc.wire.registration import RegistrationRequest, decode_request

_DIGEST_LABEL = b"roamkey duplicate v1"
_OPERATOR_REALM = b"1"  # RFC 5580 §4.1: namespace REALM
_RATE_WINDOW_S = 60
_MAXIMUM_ROUNDS = 3  # PROTOCOL section 6
_PAIRS = (Pair.MN_HA, Pair.MN_FA, Pair.FA_HA)


@dataclass(frozen=True, slots=True)
class HomeAgentPolicy:
    """What the operator decides; the defaults are those of PROTOCOL."""

    address: IPv4Address
    nai: Nai
    realm: str
    vendor_id: int = DEFAULT_VENDOR_ID
    maximum_lifetime_s: int = 1800
    window_s: int = 7
    registrations_per_minute: int = 12
    suites: tuple[Suite, ...] = DEFAULT_SUITES
    pinned_keys: dict[Nai, frozenset[bytes]] | None = None  # None: fa_key_trust = heard
    care_of_prefixes: dict[Nai, tuple[IPv4Network, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StructuredRequest:
    """Step 1 passed: well-formed, nothing of it verified."""

    access: AccessRequest
    request: RegistrationRequest
    fa_public_keys: tuple[FaPublicKey, ...]
    offers: bool  # the MN or the FA offers something to negotiate


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """Steps 2-4 passed: from the holder of KEY0, every seal open."""

    structured: StructuredRequest
    record: Record
    keys: ExchangeKeys
    nai_mn: Nai
    ip_mn: IpAddress
    nai_fa: Nai
    ip_fa: IpAddress
    fk: bytes

    @property
    def request(self) -> RegistrationRequest:
        return self.structured.request

    @property
    def spi(self) -> int:
        return self.structured.request.mhae.spi


@dataclass(frozen=True, slots=True)
class Grant:
    """Every check passed: keys may be made."""

    opened: OpenedRequest
    verified: VerifiedRegistration
    digest: bytes


@dataclass(frozen=True, slots=True)
class Deny:
    """A denial that spends the SPI; `digest` is None where step 6 was not passed."""

    opened: OpenedRequest
    code: int
    digest: bytes | None
    last_seen: Identification | None
    rounds: int
    challenge: bool  # an Access-Challenge with a reply, else an Access-Reject


@dataclass(frozen=True, slots=True)
class Repeat:
    """A duplicate: the outcome of the first one, octet for octet (PROTOCOL 5.5)."""

    opened: OpenedRequest


Verdict = Grant | Deny | Repeat


def read_request(access: AccessRequest, *, vendor_id: int) -> StructuredRequest:
    """Step 1 of 5.3: size, structure, limits, attributes 3 and 5.

    Raises `Malformed` or `UnknownVendor`; nothing has cost more than reading.
    """
    request = decode_request(access.registration_request, vendor_id)
    fa_public_keys = decode_fa_public_keys(access.fa_public_keys)
    payloads = list(iter_sa_payloads(access.fa_sa_payload))
    offers = bool(request.part.sa_payloads or payloads)
    return StructuredRequest(access, request, fa_public_keys, offers)


def open_request(
    structured: StructuredRequest, record: Record | None, keys: ExchangeKeys, *, now: float
) -> OpenedRequest:
    """Steps 2-4 of 5.3; `keys` are a dummy's where `record` is None.

    Raises `AuthenticationFailed`, one outcome for every cause, or `Malformed` for a seal that
    opens to something that 4.1 does not know.
    """
    # Step 6
    request = structured.request
    covered = request.octets[: request.mhae.covered_octets]
    authentic = is_authentic(keys.authenticate_request, covered, request.mhae.digest)
    spi = request.mhae.spi
    # A store that still finds a record under a dead SPI must not revive it (PROTOCOL 5.4).
    known = (
        record is not None and record.active and (spi in record.unspent or spi == record.last_spent)
    )
    if record is not None and record.expires_at is not None and record.expires_at <= now:
        known = False
    if not authentic or not known or record is None:
        raise AuthenticationFailed("not authenticated")
    seal, header, part = Seal(keys.seal_request), request.fixed_header, request.part
    opened = {
        kind: open_extension(seal, extension, header) for kind, extension in part.extensions.items()
    }
    return OpenedRequest(
        structured=structured,
        record=record,
        keys=keys,
        nai_mn=Nai(opened[numbers.NAI_MN]),
        ip_mn=decode_ip(opened[numbers.IP_MN]),
        nai_fa=Nai(opened[numbers.NAI_FA]),
        ip_fa=decode_ip(opened[numbers.IP_FA]),
        fk=opened[numbers.FA_KEY],
    )


def digest_request(access: AccessRequest) -> bytes:
    """SHA-256 over all that makes two requests duplicates (PROTOCOL 5.5)."""
    parts = (
        access.registration_request,
        bytes((len(access.fa_public_keys),)) + b"".join(access.fa_public_keys),
        access.fa_sa_payload,
        access.fa_nai.octets,
        access.nas_address.packed,
    )
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(_DIGEST_LABEL + joined).digest()


class HomeAgent:
    """Judges opened requests against the operator's policy: steps 5-11 of 5.3."""

    def __init__(self, policy: HomeAgentPolicy) -> None:
        self.policy = policy

    def judge(self, opened: OpenedRequest, peer: Peer, *, now: float) -> Verdict:
        """The verdict on an authentic request.

        Raises `AuthenticationFailed` for what a spent SPI may not say, `Unavailable` above the
        rate: neither changes the record.
        """
        record = opened.record
        if opened.nai_mn != record.nai:
            return self._deny(opened, DENIED_MN_AUTHENTICATION)
        try:
            fa_public_key, operator_realm = self._bind_channel(opened, peer)
        except _BindingFailed:
            return self._deny(opened, DENIED_FA_AUTHENTICATION)
        digest = digest_request(opened.structured.access)
        identification = Identification.extend(opened.request.identification, now)
        in_window = abs(identification.unix - int(now)) <= self.policy.window_s
        if digest == record.last_digest and in_window and self._serves_duplicate(opened):
            return Repeat(opened)
        greater = record.last_seen is None or identification > record.last_seen
        if not record.static_spi and opened.spi not in record.unspent and not greater:
            raise AuthenticationFailed("a spent SPI")
        if not (in_window and greater):
            return self._deny(opened, DENIED_IDENTIFICATION, digest, challenge=True)
        if not self._address_allowed(opened):
            return self._deny(opened, DENIED_ADMINISTRATIVELY, digest, identification)
        lifetime_s = min(opened.request.lifetime_s, self.policy.maximum_lifetime_s)
        if opened.structured.offers and lifetime_s:
            return self._no_proposal_chosen(opened, digest, identification)
        if lifetime_s:
            self._check_rate(record, now)
        access = opened.structured.access
        verified = VerifiedRegistration(
            record=record,
            spi=opened.spi,
            identification=identification,
            lifetime_s=lifetime_s,
            fa_nai=access.fa_nai,
            nas_address=access.nas_address,
            operator_realm=operator_realm,
            care_of_address=opened.request.care_of_address,
            fa_public_key=fa_public_key,
            pairs=_PAIRS if lifetime_s else (),
            suites=self.policy.suites,
        )
        return Grant(opened, verified, digest)

    @staticmethod
    def _deny(
        opened: OpenedRequest,
        code: int,
        digest: bytes | None = None,
        last_seen: Identification | None = None,
        *,
        challenge: bool = False,
    ) -> Deny:
        record = opened.record
        return Deny(opened, code, digest, last_seen or record.last_seen, record.rounds, challenge)

    @staticmethod
    def _serves_duplicate(opened: OpenedRequest) -> bool:
        return opened.record.static_spi or opened.spi == opened.record.last_spent

    def _bind_channel(self, opened: OpenedRequest, peer: Peer) -> tuple[bytes | None, str | None]:
        """Step 6: what the MN sealed is what the AAA path asserts, all of it.

        Returns the attribute 3 that FK names and the operator's realm.
        """
        access = opened.structured.access
        fa_realm = access.fa_nai.realm
        if opened.nai_fa != access.fa_nai or opened.ip_fa != access.nas_address:
            raise _BindingFailed
        if isinstance(opened.ip_fa, IPv6Address) or (
            opened.ip_fa != opened.request.care_of_address
        ):
            self._check_care_of(opened)
        if fa_realm not in peer.realms:
            raise _BindingFailed
        if opened.record.roam is not None and fa_realm not in opened.record.roam:
            raise _BindingFailed
        operator_realm = None
        if access.operator_name is not None:
            if access.operator_name[:1] != _OPERATOR_REALM:
                raise _BindingFailed
            operator_realm = access.operator_name[1:].decode("utf-8", "replace").lower()
            if operator_realm != fa_realm:
                raise _BindingFailed
        return self._select_fa_key(opened, peer), operator_realm

    def _check_care_of(self, opened: OpenedRequest) -> None:
        """The care-of address is the FA's own, or lies in its configured prefixes."""
        prefixes = self.policy.care_of_prefixes.get(opened.structured.access.fa_nai, ())
        care_of = opened.request.care_of_address
        if isinstance(opened.ip_fa, IPv6Address) and not prefixes:
            return  # PROTOCOL 5.3: compared only if IPv4
        if not any(care_of in prefix for prefix in prefixes):
            raise _BindingFailed

    def _select_fa_key(self, opened: OpenedRequest, peer: Peer) -> bytes | None:
        keys = opened.structured.fa_public_keys
        if not keys and not any(opened.fk) and peer.clear_fa_keys:
            return None
        for key in keys:
            if fingerprint(key.octets) == opened.fk:
                pinned = self.policy.pinned_keys
                fa_nai = opened.structured.access.fa_nai
                if pinned is not None and key.public_key not in pinned.get(fa_nai, ()):
                    raise _BindingFailed
                return key.octets
        raise _BindingFailed

    @staticmethod
    def _address_allowed(opened: OpenedRequest) -> bool:
        """Step 9: 0.0.0.0, or the address that the record has."""
        record = opened.record
        if opened.ip_mn == IPv4Address(0):
            return True
        if record.home_address_kind is HomeAddressKind.DYNAMIC:
            return opened.ip_mn == record.current_home_address
        return opened.ip_mn == record.home_address

    def _no_proposal_chosen(
        self, opened: OpenedRequest, digest: bytes, identification: Identification
    ) -> Deny:
        """Step 10 as long as nothing is negotiated: no offer is acceptable (PROTOCOL 6)."""
        rounds = opened.record.rounds + 1
        final = rounds >= _MAXIMUM_ROUNDS
        return Deny(
            opened,
            DENIED_ADMINISTRATIVELY,
            digest,
            identification,
            0 if final else rounds,
            challenge=not final,
        )

    def _check_rate(self, record: Record, now: float) -> None:
        recent = sum(at > now - _RATE_WINDOW_S for at in record.accepted_at)
        if recent >= self.policy.registrations_per_minute:
            raise Unavailable("too many registrations of one record")


class _BindingFailed(Exception):
    """Which part of the channel binding failed is told to no one."""
