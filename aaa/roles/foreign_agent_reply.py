"""What home has sealed to a foreign agent, opened and held to all that was said (section 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from aaa.exchange import AccessRequest
from aaa.roles.foreign_agent_terms import ANSWERED_PAIRS, FaSide, FaTerms
from kdc.crypto.derive import Party
from kdc.crypto.dh import DhKey
from kdc.crypto.seal import Seal
from kdc.errors import Malformed, ReplyRefused
from kdc.installation import Agreed, accept_sa_info
from kdc.keying import Exchange, Parties
from kdc.model import Nai, Pair, Secret, SecurityAssociation
from kdc.negotiation import Agreement, own_key, public_value_of, verify_answer
from kdc.sealing import open_extension, open_ke_c, transcript, without_secret
from kdc.wire import numbers
from kdc.wire.association import KIND_OF_PAIR
from kdc.wire.extensions import Extension, decode_ip
from kdc.wire.numbers import Kind
from kdc.wire.parts import Part
from kdc.wire.payloads import KeA, KeC, KeyExchange, ReadSaPayload, encode_sa_payload
from kdc.wire.registration import RegistrationReply

Agree = Callable[[DhKey, bytes], Secret]
_SMM: Final = Pair.MN_SMM


@dataclass(frozen=True, slots=True)
class Asked:
    """What the FA asked home on behalf of an MN, and with which key home is to have answered."""

    access: AccessRequest
    care_of_address: IPv4Address
    identification: bytes
    offers: Mapping[Pair, ReadSaPayload]  # the MN's
    side: FaSide
    attribute_3: bytes
    keys: tuple[DhKey, ...] = field(repr=False)


class FaPart:
    """The extensions behind the MHAE, opened under W; in the clear where `seal` is None."""

    def __init__(
        self, asked: Asked, reply: RegistrationReply, seal: Seal | None, terms: FaTerms
    ) -> None:
        if reply.fa_part is None or reply.transcript is None:
            raise ReplyRefused("no part for the FA")
        self._asked, self._reply = asked, reply
        self._part: Part = reply.fa_part
        self._transcript = reply.transcript
        self._seal, self._terms = seal, terms

    def _open(self, extension: Extension) -> bytes:
        if self._seal is None:
            return extension.info  # checked when it was read
        return open_extension(self._seal, extension, self._reply.fixed_header)

    def verify(self) -> None:
        """Transcript, every seal, and that no SA payload is another's; raises `RemoteError`."""
        access, reply = self._asked.access, self._reply
        computed = transcript(
            request=access.registration_request,
            attribute_3=self._asked.attribute_3,
            attribute_5=access.fa_sa_payload,
            fa_nai=access.fa_nai.octets,
            reply_to_mhae=reply.octets[: reply.mhae_end],
            between=reply.octets[reply.mhae_end : reply.transcript_start],
        )
        # Not a secret: both sides compute it over what they have seen.
        if self._open(self._transcript) != computed:
            raise ReplyRefused("Transcript")
        self._verify_payloads()
        for extension in self._part.extensions.values():
            self._open(extension)

    def _verify_payloads(self) -> None:
        """Section 8: pairs 2 and 4 are octet for octet what we sent, a KE-c's secret apart."""
        answered, side = self._reply.part.sa_payloads, self._asked.side
        if set(answered) != set(self._asked.offers):
            raise ReplyRefused("an answer to nothing that was offered, or an offer unanswered")
        for pair in ANSWERED_PAIRS:
            if pair not in answered:
                continue
            sent = side.answers.get(pair)
            bare = encode_sa_payload(without_secret(answered[pair].payload))
            if sent is None or sent.agreement is None or bare != sent.octets:
                raise ReplyRefused("an answer that we did not give")
        if (side.fa_ha_offer is None) != (Pair.FA_HA not in self._part.sa_payloads):
            raise ReplyRefused("our offer unanswered, or an answer to none")
        if (_SMM in answered) != (KIND_OF_PAIR[_SMM] in self._part.extensions):
            raise ReplyRefused("an association that was not asked for, or none where one was")

    def alias(self) -> Nai:
        return Nai(self._open(self._part[numbers.NAI_MN]))

    def home_agent_nai(self) -> Nai:
        return Nai(self._open(self._part[numbers.NAI_HA]))

    def home_address(self) -> IPv4Address:
        if numbers.IP_MN not in self._part.extensions:
            return self._reply.home_address
        address = decode_ip(self._open(self._part[numbers.IP_MN]))
        if not isinstance(address, IPv4Address):
            raise Malformed("IP length")
        return address

    def associations(self, agree: Agree) -> tuple[SecurityAssociation, ...]:
        """KEY2, KEY3 and, where it was asked for, the SMM's; raises `RemoteError`."""
        kinds = self._part.extensions
        pairs = [pair for pair in (Pair.FA_HA, Pair.MN_FA, _SMM) if KIND_OF_PAIR[pair] in kinds]
        parties = self._parties()
        return tuple(self._association(pair, parties, agree) for pair in pairs)

    def _parties(self) -> Parties:
        asked, reply = self._asked, self._reply
        return Parties(
            mobile_node=Party(self.alias().octets, self.home_address().packed),
            foreign_agent=Party(asked.access.fa_nai.octets, asked.care_of_address.packed),
            home_agent=Party(self.home_agent_nai().octets, reply.home_agent.packed),
        )

    def _association(self, pair: Pair, parties: Parties, agree: Agree) -> SecurityAssociation:
        kind: Kind = KIND_OF_PAIR[pair]
        return accept_sa_info(
            self._open(self._part[kind]),
            pair,
            policy=self._terms.policies[pair],
            granted_s=self._reply.lifetime_s,
            parties=parties,
            agreed=self._agreed(pair, agree),
        )

    def _agreed(self, pair: Pair, agree: Agree) -> Agreed | None:
        side = self._asked.side
        if pair is Pair.FA_HA:
            if side.fa_ha_offer is None:
                return None
            answer = self._part.sa_payloads[pair]
            agreement = verify_answer(side.fa_ha_offer.payload, answer.payload)
            exchange = self._exchange(
                agreement, agreement.answered, side.fa_ha_offer.octets, answer.octets, agree
            )
            return Agreed(agreement, exchange, self._carried(agreement, answer))
        sent = side.answers.get(pair)
        if sent is None or sent.agreement is None:
            return None
        theirs = sent.agreement.key_exchange
        exchange = self._exchange(sent.agreement, theirs, sent.offered, sent.octets, agree)
        return Agreed(sent.agreement, exchange)  # the FA's own SA-INFO keeps the Secret

    def _exchange(
        self,
        agreement: Agreement,
        theirs: KeyExchange | None,
        offered: bytes,
        answered: bytes,
        agree: Agree,
    ) -> Exchange | None:
        if not agreement.has_computed_value:
            return None
        key = own_key(agreement.key_exchange, self._asked.keys)
        z = agree(key, public_value_of(theirs))
        return Exchange(z, self._asked.identification, offered, answered)

    def _carried(self, agreement: Agreement, answer: ReadSaPayload) -> Secret | None:
        """The secret of pair 3 in its KE-c (under W) or its KE-a 240."""
        match agreement.answered:
            case KeC(sealed=sealed):
                if self._seal is None:
                    raise ReplyRefused("a KE-c without a key that opens it")
                return open_ke_c(self._seal, answer.octets, sealed, self._reply.fixed_header)
            case KeA(data=data) if not agreement.has_computed_value:
                return Secret(data)
        return None
