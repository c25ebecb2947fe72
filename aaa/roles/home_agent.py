"""The home agent (step 6): authenticates a mobile node and, by what it sealed, the foreign side.

Steps 5 to 11 of PROTOCOL 5.3 stand here in their order, as pure code; it holds the four keys of one
exchange, never KEY0.  Requests are read in home_agent_request, negotiated in home_agent_terms, and
answered in home_agent_reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from aaa.exchange import Peer
from aaa.proxying import realm_of_operator
from aaa.roles.home_agent_request import OpenedRequest, digest_request
from aaa.roles.home_agent_terms import (
    Exponentiation,
    HomeTerms,
    Outline,
    Refused,
    Situation,
    complete,
    count_reply_octets,
    negotiate,
    terms_to_come,
)
from kdc.crypto.dh import DhShare
from kdc.crypto.hpke import fingerprint
from kdc.errors import (
    DENIED_ADMINISTRATIVELY,
    DENIED_FA_AUTHENTICATION,
    DENIED_IDENTIFICATION,
    DENIED_MN_AUTHENTICATION,
    AuthenticationFailed,
    ChannelBindingFailed,
    Unavailable,
)
from kdc.model import (
    DEFAULT_SUITES,
    DEFAULT_VENDOR_ID,
    HomeAddressKind,
    Identification,
    Nai,
    Pair,
)
from kdc.negotiation import FA_GROUP, Policy, count_failure
from kdc.records import Record, VerifiedRegistration
from kdc.wire.advertisement import FaPublicKey
from kdc.wire.numbers import MAXIMUM_MESSAGE_OCTETS
from kdc.wire.payloads import KeA, ReadSaPayload

_RATE_WINDOW_S = 60


DEFAULT_TERMS = HomeTerms({pair: Policy() for pair in Pair}, DEFAULT_SUITES)


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
    terms: HomeTerms = DEFAULT_TERMS
    pinned_keys: dict[Nai, frozenset[bytes]] | None = None  # None: fa_key_trust = heard
    care_of_prefixes: dict[Nai, tuple[IPv4Network, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """Every check passed: keys may be made."""

    opened: OpenedRequest
    verified: VerifiedRegistration
    digest: bytes


@dataclass(frozen=True, slots=True)
class Agreeable:
    """Every check passed that costs no exponentiation; `outlines` say which are still to be made.

    `HomeAgent.conclude` makes a `Grant` of it, or a `Deny`.
    """

    grant: Grant  # its terms are still empty
    outlines: tuple[Outline, ...]

    @property
    def exponentiations(self) -> tuple[Exponentiation, ...]:
        return tuple(o.exponentiation for o in self.outlines if o.exponentiation is not None)


@dataclass(frozen=True, slots=True)
class Deny:
    """A denial that spends the SPI; `digest` is None where step 6 was not passed."""

    opened: OpenedRequest
    code: int
    digest: bytes | None
    last_seen: Identification | None
    rounds: int
    challenge: bool  # an Access-Challenge with a reply, else an Access-Reject
    counter_proposal: bytes = b""
    pair: Pair | None = None  # whose negotiation failed, where the denial is to tell it


@dataclass(frozen=True, slots=True)
class Repeat:
    """A duplicate: the outcome of the first one, octet for octet (PROTOCOL 5.5)."""

    opened: OpenedRequest


Verdict = Grant | Agreeable | Deny | Repeat


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
        # A denial before step 7 spends the SPI and nothing else: where there is nothing to spend,
        # a hub's replays under another name must not cost a write each.
        spends = not record.static_spi and opened.spi in record.unspent
        if opened.nai_mn != record.nai:
            if not spends:
                raise AuthenticationFailed("another name than the record's")
            return self._deny(opened, DENIED_MN_AUTHENTICATION)
        try:
            fa_public_key, operator_realm = self._bind_channel(opened, peer)
        except ChannelBindingFailed:
            if not spends:
                raise
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
            home_agent_nai=self.policy.nai,
            realm=self.policy.realm,
            terms=(),
        )
        grant = Grant(opened, verified, digest)
        if lifetime_s == 0:
            return grant  # a deregistration's SA payloads are not answered (section 3)
        return self._agree(grant, now)

    def _agree(self, grant: Grant, now: float) -> Verdict:
        """Steps 10 and 11, the exponentiations left for after the rate."""
        opened, verified = grant.opened, grant.verified
        fa_public_key = verified.fa_public_key
        situation = Situation(
            lifetime_s=verified.lifetime_s,
            fa_nai=verified.fa_nai,
            spi=opened.spi,
            fa_spi=int.from_bytes(fa_public_key[2:6], "big") if fa_public_key else None,
        )
        offers = opened.request.part.sa_payloads
        try:
            outlines = negotiate(
                self.policy.terms, offers, opened.structured.fa_payloads, situation
            )
        except Refused as refused:
            return self._no_proposal_chosen(grant, refused.pair, refused.counter_proposal)
        if not self._fits(opened, outlines):
            return self._no_proposal_chosen(grant)
        self._check_rate(opened.record, now)
        agreeable = Agreeable(grant, outlines)
        return agreeable if agreeable.exponentiations else self.conclude(agreeable, {})

    def conclude(self, agreeable: Agreeable, shares: Mapping[Pair, DhShare | None]) -> Grant | Deny:
        """The grant with all its terms; a share is None where a public value was refused (7.3)."""
        made = {pair: share for pair, share in shares.items() if share is not None}
        for wanted in agreeable.exponentiations:
            if wanted.pair not in made:
                return self._no_proposal_chosen(agreeable.grant, wanted.pair)
        terms, grant = complete(agreeable.outlines, made), agreeable.grant
        return Grant(grant.opened, grant.verified.with_terms(terms), grant.digest)

    def _fits(self, opened: OpenedRequest, outlines: tuple[Outline, ...]) -> bool:
        """Whether the reply will fit a message, known before an exponentiation is made for it."""
        terms = terms_to_come(outlines)
        if not any(item.answered for item in terms):
            return True  # what nobody negotiates always fits
        octets = count_reply_octets(
            terms,
            nai_octets=len(self.policy.nai.octets),
            policy_realm_octets=len(self.policy.realm.encode()),
            realm_octets=len(opened.request.realm.octets),
        )
        return octets <= MAXIMUM_MESSAGE_OCTETS

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
            raise ChannelBindingFailed("channel binding")
        if isinstance(opened.ip_fa, IPv6Address) or (
            opened.ip_fa != opened.request.care_of_address
        ):
            self._check_care_of(opened)
        if not peer.may_speak_for(fa_realm):
            raise ChannelBindingFailed("channel binding")
        if opened.record.roam is not None and fa_realm not in opened.record.roam:
            raise ChannelBindingFailed("channel binding")
        operator_realm = None
        if access.operator_name is not None:
            operator_realm = realm_of_operator(access.operator_name)
            if operator_realm != fa_realm:
                raise ChannelBindingFailed("channel binding")
        key = self._select_fa_key(opened, peer)
        _check_fa_values(opened.structured.fa_payloads, key)
        return (key.octets if key is not None else None), operator_realm

    def _check_care_of(self, opened: OpenedRequest) -> None:
        """The care-of address is the FA's own, or lies in its configured prefixes."""
        prefixes = self.policy.care_of_prefixes.get(opened.structured.access.fa_nai, ())
        care_of = opened.request.care_of_address
        if isinstance(opened.ip_fa, IPv6Address) and not prefixes:
            return  # PROTOCOL 5.3: compared only if IPv4
        if not any(care_of in prefix for prefix in prefixes):
            raise ChannelBindingFailed("channel binding")

    def _select_fa_key(self, opened: OpenedRequest, peer: Peer) -> FaPublicKey | None:
        keys = opened.structured.fa_public_keys
        if not keys and not any(opened.fk) and peer.clear_fa_keys:
            return None
        key = next((key for key in keys if fingerprint(key.octets) == opened.fk), None)
        if key is None:
            raise ChannelBindingFailed("channel binding")
        pinned = self.policy.pinned_keys
        fa_nai = opened.structured.access.fa_nai
        if pinned is not None and key.public_key not in pinned.get(fa_nai, ()):
            raise ChannelBindingFailed("channel binding")
        return key

    @staticmethod
    def _address_allowed(opened: OpenedRequest) -> bool:
        """Step 9: 0.0.0.0, or the address that the record has."""
        record = opened.record
        if opened.ip_mn == IPv4Address(0):
            return True
        if record.home_address_kind is HomeAddressKind.DYNAMIC:
            return opened.ip_mn == record.current_home_address
        return opened.ip_mn == record.home_address

    @staticmethod
    def _no_proposal_chosen(
        grant: Grant, pair: Pair | None = None, counter_proposal: bytes = b""
    ) -> Deny:
        """129 with Status 14; the third failure in a row is an Access-Reject (PROTOCOL 6).

        `pair` is the one that failed; told where neither a counter-proposal nor being the first
        tells it, so that the node does not give up suites that nobody refused.
        """
        rounds, final = count_failure(grant.opened.record.rounds)
        told = pair is not Pair.MN_HA and not final and not counter_proposal
        return Deny(
            grant.opened,
            DENIED_ADMINISTRATIVELY,
            grant.digest,
            grant.verified.identification,
            rounds,
            challenge=not final,
            counter_proposal=b"" if final else counter_proposal,
            pair=pair if told else None,
        )

    def _check_rate(self, record: Record, now: float) -> None:
        recent = sum(at > now - _RATE_WINDOW_S for at in record.accepted_at)
        if recent >= self.policy.registrations_per_minute:
            raise Unavailable("too many registrations of one record")


def _check_fa_values(fa_payloads: dict[Pair, ReadSaPayload], key: FaPublicKey | None) -> None:
    """Section 8: the FA's value of group 31 is the key that the MN heard of, and no one else's."""
    own = key.public_key if key is not None else None
    for read in fa_payloads.values():
        for proposal in read.payload.proposals:
            for ke in proposal.key_exchanges:
                if isinstance(ke, KeA) and ke.group == FA_GROUP and ke.data != own:
                    raise ChannelBindingFailed("channel binding")
