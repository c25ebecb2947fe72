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
from kdc.installation import DEFAULT_POLICY, accept_sa_info
from kdc.model import (
    DEFAULT_VENDOR_ID,
    SPI_MAXIMUM,
    SPI_MINIMUM,
    IpAddress,
    Nai,
    Pair,
    Secret,
    SecurityAssociation,
    Suite,
)
from kdc.sealing import open_extension, transcript
from kdc.wire import numbers
from kdc.wire.advertisement import FaAnnouncement, FaPublicKey
from kdc.wire.association import KIND_OF_PAIR
from kdc.wire.extensions import Extension, decode_ip
from kdc.wire.numbers import Kind
from kdc.wire.parts import Part, encode_authenticator_head, encode_realm
from kdc.wire.registration import (
    RegistrationReply,
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

    @property
    def attribute_3(self) -> bytes:
        return FaPublicKey(self.spi, self.key.public_key).octets


@dataclass(frozen=True, slots=True)
class Relayed:
    """One outstanding request: what its Transcript will be computed over."""

    sender: Sender
    access: AccessRequest
    home_agent: IPv4Address
    identification: bytes
    lifetime_s: int
    realm: Nai
    keys: tuple[FaKey, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes to the mobile node, and what the FA has installed or dropped with it.

    `alias` is None in a denial; `associations` are KEY2 and KEY3, empty for a deregistration.
    """

    octets: bytes
    code: int
    lifetime_s: int
    alias: Nai | None = None
    home_address: IPv4Address | None = None
    associations: tuple[SecurityAssociation, ...] = ()


class ForeignAgent:
    """The state of one FA: its keys and its outstanding requests."""

    def __init__(self, identity: FaIdentity, *, policy: frozenset[Suite] = DEFAULT_POLICY) -> None:
        self.identity = identity
        self._policy = policy
        self._keys: tuple[FaKey, ...] = ()  # current first, then the previous one
        self._outstanding: dict[str, set[tuple[Sender, bytes]]] = {}  # by link address
        self._outstanding_total = 0

    # --- keys (section 8) ---

    def rotate_key(self, *, now: float, entropy: Entropy, lifetime_s: int = KEY_LIFETIME_S) -> bool:
        """Makes the next key when it is time; True if a new advertisement has to go out.

        The previous key is kept 600 s after its last advertisement, which the new one replaces.
        """
        current = self._keys[0] if self._keys else None
        if current is not None and now - current.made_at < lifetime_s:
            if len(self._keys) > 1 and now - current.made_at >= KEY_ERASED_AFTER_S:
                self._keys = self._keys[:1]
            return False
        taken = current.spi if current is not None else 0
        spi = taken
        while spi == taken or not SPI_MINIMUM <= spi <= SPI_MAXIMUM:
            spi = int.from_bytes(entropy(4), "big")
        fresh = FaKey(X25519Key.of(Secret(entropy(32))), spi, now)
        self._keys = (fresh, current) if current is not None else (fresh,)
        return True

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
        keys = () if self.identity.clear_keys else self._keys
        # Step 3
        access = AccessRequest(
            realm=request.realm.realm,
            nas_identifier=self.identity.nas_identifier,
            nas_address=self.identity.address,
            fa_nai=self.identity.nai,
            registration_request=octets,
            fa_public_keys=tuple(key.attribute_3 for key in keys),
        )
        return Relayed(
            sender,
            access,
            request.home_agent,
            request.identification,
            request.lifetime_s,
            request.realm,
            keys,
        )

    # --- from the foreign AAA (step 11) ---

    def on_response(self, relayed: Relayed, response: AccessResponse | None) -> Delivery:
        """What the MN gets for its request; None stands for no answer.

        Nothing is installed unless everything that home sealed to this FA is right (section 8).
        """
        # Step 11
        self._settle(relayed)
        request = relayed.access.registration_request
        if response is None:
            return self._deny(request, FA_HOME_TIMEOUT)
        try:
            if isinstance(response, AccessAccept):
                return self._install(relayed, response)
            if isinstance(response, AccessChallenge):
                return self._relay_denial(relayed, response.registration_reply)
        except RemoteError:
            return self._deny(request, FA_REGISTRATION_REFUSED)
        return self._deny(request, FA_REGISTRATION_REFUSED)

    def too_long(self, relayed: Relayed) -> Delivery:
        """The request would pass 4,096 octets of RADIUS (section 9)."""
        self._settle(relayed)
        return self._deny(relayed.access.registration_request, FA_POORLY_FORMED)

    def _settle(self, relayed: Relayed) -> None:
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
        if reply.identification[4:] != relayed.identification[4:]:
            raise ReplyRefused("identification low half does not match")
        _check_home(relayed, reply)
        return Delivery(octets, reply.code, 0)

    def _install(self, relayed: Relayed, accept: AccessAccept) -> Delivery:
        wrapped = accept.fa_wrapped_key
        spi = int.from_bytes(wrapped[:4], "big") if wrapped is not None else None
        octets = accept.registration_reply
        reply = decode_reply_for_fa(octets, self.identity.vendor_id, fa_spi=spi)
        _check_home(relayed, reply)
        if reply.code != ACCEPTED or reply.identification != relayed.identification:
            raise ReplyRefused("not the reply to this request")
        if reply.lifetime_s > relayed.lifetime_s:
            raise ReplyRefused("a lifetime above the one asked for")
        if reply.fa_part is None:
            if relayed.lifetime_s:
                raise ReplyRefused("a deregistration that was not asked for")
            return Delivery(octets, ACCEPTED, 0, accept.user_name)
        key = next((key for key in relayed.keys if key.spi == spi), None)
        seal = None
        if wrapped is not None and key is not None:
            w = unwrap(wrapped, key=key.key, spi=key.spi, fa_nai=self.identity.nai)
            seal = Seal(w)
        elif wrapped is not None or not self.identity.clear_keys:
            raise ReplyRefused("wrapped for another key")
        attribute_3 = key.attribute_3 if key is not None else b""
        opened = _FaPart(relayed, reply, attribute_3, seal, self._policy)
        opened.verify_transcript()
        fa_ha, mn_fa = opened.association(Pair.FA_HA), opened.association(Pair.MN_FA)
        alias = Nai(opened.open(numbers.NAI_MN))
        return Delivery(
            octets=_append_mfae(octets[: reply.mhae_end], mn_fa),
            code=ACCEPTED,
            lifetime_s=reply.lifetime_s,
            alias=alias,
            home_address=opened.home_address(),
            associations=(fa_ha, mn_fa),
        )


def _check_home(relayed: Relayed, reply: RegistrationReply) -> None:
    if reply.home_agent != relayed.home_agent:
        raise ReplyRefused("another home agent")
    if reply.realm != relayed.realm:
        raise ReplyRefused("another realm")


def _append_mfae(to_mhae: bytes, mn_fa: SecurityAssociation) -> bytes:
    """The MN's part and an MFAE under KEY3's confirmation key (7.4)."""
    head = encode_authenticator_head(numbers.MOBILE_FOREIGN_AUTHENTICATION, mn_fa.spi)
    message = to_mhae + head
    return message + authenticate(derive_mfae_key(mn_fa.keys), message)


class _FaPart:
    """The extensions behind the MHAE, opened under W; in the clear where `seal` is None."""

    def __init__(
        self,
        relayed: Relayed,
        reply: RegistrationReply,
        attribute_3: bytes,
        seal: Seal | None,
        policy: frozenset[Suite],
    ) -> None:
        if reply.fa_part is None or reply.transcript is None:
            raise ReplyRefused("no part for the FA")
        self._relayed, self._reply, self._attribute_3 = relayed, reply, attribute_3
        self._part: Part = reply.fa_part
        self._transcript = reply.transcript
        self._seal, self._policy = seal, policy

    def open(self, kind: Kind) -> bytes:
        return self._open(self._part[kind])

    def _open(self, extension: Extension) -> bytes:
        if self._seal is None:
            return extension.info  # checked when it was read
        return open_extension(self._seal, extension, self._reply.fixed_header)

    def verify_transcript(self) -> None:
        """All that FA and home have said to each other, and that no SA payload is another's."""
        access, reply = self._relayed.access, self._reply
        computed = transcript(
            request=access.registration_request,
            attribute_3=self._attribute_3,
            attribute_5=access.fa_sa_payload,
            fa_nai=access.fa_nai.octets,
            reply_to_mhae=reply.octets[: reply.mhae_end],
            between=reply.octets[reply.mhae_end : reply.transcript_start],
        )
        # Not a secret: both sides compute it over what they have seen.
        if self._open(self._transcript) != computed:
            raise ReplyRefused("Transcript")
        if reply.part.sa_payloads or self._part.sa_payloads:
            raise ReplyRefused("an answer to nothing that was offered")
        for kind in self._part.extensions:
            self.open(kind)

    def association(self, pair: Pair) -> SecurityAssociation:
        opened = self.open(KIND_OF_PAIR[pair])
        return accept_sa_info(opened, pair, policy=self._policy, granted_s=self._reply.lifetime_s)

    def home_address(self) -> IPv4Address:
        if numbers.IP_MN not in self._part.extensions:
            return self._reply.home_address
        address = decode_ip(self.open(numbers.IP_MN))
        if not isinstance(address, IPv4Address):
            raise Malformed("IP length")
        return address
