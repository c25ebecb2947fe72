"""The foreign agent (steps 2, 3, 9 and 11): relays requests and installs KEY2 and KEY3.

It opens only what home sealed to its own X25519 key.  Timers, sockets and RADIUS are elsewhere;
the caller hands in what arrived and sends what comes out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from aaa.exchange import AccessAccept, AccessChallenge, AccessRequest, AccessResponse
from aaa.roles.foreign_agent_reply import Agree, Asked, FaPart
from aaa.roles.foreign_agent_terms import (
    NOTHING_SAID,
    FaSide,
    FaTerms,
    answer_offers,
)
from kdc.crypto.dh import FIXED_GROUPS, DhKey, agree
from kdc.crypto.hpke import X25519Key, fingerprint, unwrap
from kdc.crypto.key0 import authenticate, derive_mfae_key
from kdc.crypto.seal import Seal
from kdc.errors import (
    ACCEPTED,
    FA_HOME_TIMEOUT,
    FA_POORLY_FORMED,
    FA_REGISTRATION_REFUSED,
    Malformed,
    RemoteError,
    ReplyRefused,
    Unavailable,
    UnknownVendor,
)
from kdc.model import (
    DEFAULT_VENDOR_ID,
    SPI_MAXIMUM,
    SPI_MINIMUM,
    IpAddress,
    Nai,
    Pair,
    Secret,
    SecurityAssociation,
)
from kdc.negotiation import FA_GROUP, OfferPlan, generate_keys
from kdc.wire import numbers
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey
from kdc.wire.parts import encode_authenticator_head, encode_realm
from kdc.wire.registration import (
    RegistrationReply,
    RegistrationRequest,
    decode_reply_for_fa,
    decode_request,
    encode_reply_header,
)

Entropy = Callable[[int], bytes]
Sender = tuple[str, int]  # link address and port of a mobile node
KEY_LIFETIME_S: Final = 3600  # PROTOCOL section 8: at most every hour, at least every day
KEY_ERASED_AFTER_S: Final = 600
MAXIMUM_OUTSTANDING: Final = 4096
MAXIMUM_OUTSTANDING_OF_ONE: Final = 64


@dataclass(frozen=True, slots=True)
class FaIdentity:
    """An FA's names and addresses; all but the care-of address are what its AAAF pins."""

    nai: Nai
    address: IpAddress
    care_of_address: IPv4Address
    nas_identifier: bytes
    vendor_id: int = DEFAULT_VENDOR_ID
    clear_keys: bool = False  # PROTOCOL section 8: no key of its own, where home grants that


@dataclass(frozen=True, slots=True)
class FaKey:
    """An X25519 key of the FA, from its first advertisement on."""

    key: X25519Key = field(repr=False)
    spi: int
    made_at: float
    others: tuple[DhKey, ...] = field(default=(), repr=False)  # `fa_dh = any`: of other groups

    @property
    def dh_keys(self) -> tuple[DhKey, ...]:
        """This key as a value of group 31, and those of other groups."""
        own = DhKey(FIXED_GROUPS[FA_GROUP], self.key.private_key, self.key.public_key)
        return (own, *self.others)

    @property
    def attribute_3(self) -> bytes:
        return FaPublicKey(self.spi, self.key.public_key).octets


@dataclass(frozen=True, slots=True)
class Relayed:
    """One outstanding request: what its Transcript will be computed over."""

    sender: Sender
    access: AccessRequest
    request: RegistrationRequest
    side: FaSide
    keys: tuple[FaKey, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes to the mobile node, and what the FA has installed or dropped with it.

    `alias` is None in a denial; `associations` are KEY2, KEY3 and perhaps the SMM's, empty for a
    deregistration.  `class_id` is home's name for the registration.
    """

    octets: bytes
    code: int
    lifetime_s: int
    alias: Nai | None = None
    home_address: IPv4Address | None = None
    home_agent_nai: Nai | None = None
    associations: tuple[SecurityAssociation, ...] = ()
    class_id: bytes = b""


class ForeignAgent:
    """The state of one FA: its keys and its outstanding requests."""

    def __init__(self, identity: FaIdentity, terms: FaTerms | None = None) -> None:
        self.identity = identity
        self._terms = terms if terms is not None else FaTerms()
        self._keys: tuple[FaKey, ...] = ()  # current first, then the previous one
        self._outstanding: dict[str, set[tuple[Sender, bytes]]] = {}  # by link address
        self._outstanding_total = 0

    # --- keys (section 8) ---

    def rotate_key(
        self,
        *,
        now: float,
        entropy: Entropy,
        lifetime_s: int = KEY_LIFETIME_S,
        advertised_s: float = 0,
    ) -> bool:
        """Makes the next key when it is time; True if a new advertisement has to go out.

        The previous key is kept until 600 s after its last advertisement has expired, which is
        valid for `advertised_s`.
        """
        current = self._keys[0] if self._keys else None
        if current is not None and now - current.made_at < lifetime_s:
            if len(self._keys) > 1 and now - current.made_at >= (advertised_s + KEY_ERASED_AFTER_S):
                self._keys = self._keys[:1]
            return False
        taken = current.spi if current is not None else 0
        spi = taken
        while spi == taken or not SPI_MINIMUM <= spi <= SPI_MAXIMUM:
            spi = int.from_bytes(entropy(4), "big")
        others = generate_keys(OfferPlan(groups=self._terms.other_groups), entropy)
        fresh = FaKey(X25519Key.of(Secret(entropy(32))), spi, now, others)
        self._keys = (fresh, current) if current is not None else (fresh,)
        return True

    @property
    def has_key(self) -> bool:
        """Whether a first key has been made."""
        return bool(self._keys)

    @property
    def announcement(self) -> FaAnnouncement:
        """What is advertised: NAI and the FK of the current key, all zero for clear keys."""
        if self.identity.clear_keys:
            return FaAnnouncement(self.identity.nai, bytes(numbers.FK_OCTETS))
        return FaAnnouncement(self.identity.nai, fingerprint(self._keys[0].attribute_3))

    # --- from the mobile node (steps 2 and 3) ---

    def on_request(self, octets: bytes, sender: Sender) -> Relayed | Delivery | None:
        """An Access-Request to be sent, or the FA's own denial; None for one that is under way.

        Raises `Unavailable` above the limits of section 8: the request is dropped.
        """
        # Step 2
        try:
            request = decode_request(octets, self.identity.vendor_id)
        except (Malformed, UnknownVendor):
            return self._deny(octets, FA_POORLY_FORMED)
        if request.care_of_address != self.identity.care_of_address:
            return self._deny(octets, FA_POORLY_FORMED)
        of_link = self._outstanding.get(sender[0], set())
        if (sender, octets) in of_link:
            return None
        full = len(of_link) >= MAXIMUM_OUTSTANDING_OF_ONE
        if full or self._outstanding_total >= MAXIMUM_OUTSTANDING:
            # Nothing is remembered of a refused sender: a flood of forged ones must not grow us.
            raise Unavailable("too many outstanding requests")
        of_link.add((sender, octets))
        self._outstanding[sender[0]] = of_link
        self._outstanding_total += 1
        # Step 3
        keys = () if self.identity.clear_keys else self._keys
        side = self._answer(request, keys)
        if side.has_key_exchange:
            keys = keys[:1]  # section 8: attribute 3 once where attribute 5 has a value of ours
        access = AccessRequest(
            realm=request.realm.realm,
            nas_identifier=self.identity.nas_identifier,
            nas_address=self.identity.address,
            fa_nai=self.identity.nai,
            registration_request=octets,
            fa_public_keys=tuple(key.attribute_3 for key in keys),
            fa_sa_payload=side.octets,
        )
        return Relayed(sender, access, request, side, keys)

    def _answer(self, request: RegistrationRequest, keys: tuple[FaKey, ...]) -> FaSide:
        if request.lifetime_s == 0:
            return NOTHING_SAID  # a deregistration's SA payloads are not answered (section 3)
        return answer_offers(
            self._terms,
            request.part.sa_payloads,
            keys[0].dh_keys if keys else (),
            mn_spi=request.mhae.spi,
            fa_spi=keys[0].spi if keys else None,
        )

    # --- from the foreign AAA (step 11) ---

    def on_response(self, relayed: Relayed, response: AccessResponse | None) -> Delivery:
        """What the MN gets for its request, which is then no longer outstanding."""
        self.settle(relayed)
        return self.conclude(relayed, response)

    def conclude(
        self, relayed: Relayed, response: AccessResponse | None, *, agree: Agree = agree
    ) -> Delivery:
        """What the MN gets for its request; None stands for no answer.  Changes no state.

        Nothing is installed unless everything that home sealed to this FA is right (section 8).
        `agree` makes the FA's exponentiations, the first that this request costs it.
        """
        # Step 11
        request = relayed.access.registration_request
        if response is None:
            return self._deny(request, FA_HOME_TIMEOUT)
        try:
            if isinstance(response, AccessAccept):
                return self._install(relayed, response, agree)
            if isinstance(response, AccessChallenge):
                return self._relay_denial(relayed, response.registration_reply)
        except RemoteError:
            return self._deny(request, FA_REGISTRATION_REFUSED)
        return self._deny(request, FA_REGISTRATION_REFUSED)

    def too_long(self, relayed: Relayed) -> Delivery:
        """The request would pass 4,096 octets of RADIUS (section 9)."""
        self.settle(relayed)
        return self._deny(relayed.access.registration_request, FA_POORLY_FORMED)

    def settle(self, relayed: Relayed) -> None:
        """The request is no longer outstanding."""
        link = relayed.sender[0]
        of_link = self._outstanding.get(link, set())
        entry = (relayed.sender, relayed.access.registration_request)
        if entry in of_link:
            of_link.remove(entry)
            self._outstanding_total -= 1
        if not of_link:
            self._outstanding.pop(link, None)

    def _deny(self, request: bytes, code: int) -> Delivery:
        """The FA's own denial: neither MHAE nor MFAE, a hint to the MN (section 3)."""
        if len(request) < numbers.REQUEST_HEADER_OCTETS:
            raise Malformed("nothing to answer")
        header = encode_reply_header(
            code=code,
            lifetime_s=0,
            home_address=IPv4Address(0),
            home_agent=IPv4Address(request[8:12]),
            identification=request[16:24],
        )
        realm = b""
        with contextlib.suppress(RemoteError):  # a header alone tells the MN as much
            realm = encode_realm(decode_request(request, self.identity.vendor_id).realm)
        return Delivery(header + realm, code, 0)

    def _relay_denial(self, relayed: Relayed, octets: bytes) -> Delivery:
        reply = decode_reply_for_fa(octets, self.identity.vendor_id, fa_spi=None)
        if reply.code == ACCEPTED:
            raise ReplyRefused("a grant in an Access-Challenge")
        if reply.identification[4:] != relayed.request.identification[4:]:
            raise ReplyRefused("identification low half does not match")
        _check_home(relayed, reply)
        return Delivery(octets, reply.code, 0)

    def _install(self, relayed: Relayed, accept: AccessAccept, agree: Agree) -> Delivery:
        wrapped = accept.fa_wrapped_key
        spi = int.from_bytes(wrapped[:4], "big") if wrapped is not None else None
        octets = accept.registration_reply
        reply = decode_reply_for_fa(octets, self.identity.vendor_id, fa_spi=spi)
        _check_home(relayed, reply)
        request = relayed.request
        if reply.code != ACCEPTED or reply.identification != request.identification:
            raise ReplyRefused("not the reply to this request")
        if reply.lifetime_s > request.lifetime_s:
            raise ReplyRefused("a lifetime above the one asked for")
        if reply.fa_part is None:
            if request.lifetime_s:
                raise ReplyRefused("a deregistration that was not asked for")
            return Delivery(octets, ACCEPTED, 0, accept.user_name)
        key = next((key for key in relayed.keys if key.spi == spi), None)
        part = FaPart(_asked(relayed, key), reply, self._unwrap(wrapped, key), self._terms)
        part.verify()
        associations = part.associations(agree)
        mn_fa = next(item for item in associations if item.pair is Pair.MN_FA)
        return Delivery(
            octets=_append_mfae(octets[: reply.mhae_end], mn_fa),
            code=ACCEPTED,
            lifetime_s=reply.lifetime_s,
            alias=part.alias(),
            home_address=part.home_address(),
            home_agent_nai=part.home_agent_nai(),
            associations=associations,
            class_id=accept.class_id,
        )

    def _unwrap(self, wrapped: bytes | None, key: FaKey | None) -> Seal | None:
        """W ready for use; None where clear keys were asked for.  Raises `ReplyRefused`."""
        if wrapped is not None and key is not None:
            return Seal(unwrap(wrapped, key=key.key, spi=key.spi, fa_nai=self.identity.nai))
        if wrapped is not None or not self.identity.clear_keys:
            raise ReplyRefused("wrapped for another key")
        return None


def _asked(relayed: Relayed, key: FaKey | None) -> Asked:
    return Asked(
        relayed.access,
        relayed.request.care_of_address,
        relayed.request.identification,
        relayed.request.part.sa_payloads,
        relayed.side,
        key.attribute_3 if key is not None else b"",
        key.dh_keys if key is not None else (),
    )


def _check_home(relayed: Relayed, reply: RegistrationReply) -> None:
    if reply.home_agent != relayed.request.home_agent:
        raise ReplyRefused("another home agent")
    if reply.realm != relayed.request.realm:
        raise ReplyRefused("another realm")


def _append_mfae(to_mhae: bytes, mn_fa: SecurityAssociation) -> bytes:
    """The MN's part and an MFAE under KEY3's confirmation key (7.4)."""
    head = encode_authenticator_head(numbers.MOBILE_FOREIGN_AUTHENTICATION, mn_fa.spi)
    message = to_mhae + head
    return message + authenticate(derive_mfae_key(mn_fa.keys), message)
