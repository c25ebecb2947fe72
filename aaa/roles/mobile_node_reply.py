"""An authenticated reply being opened by the mobile node that asked for it (step 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from aaa.roles.mobile_node_terms import MnTerms
from kdc.crypto.derive import Party
from kdc.crypto.dh import DhKey
from kdc.crypto.key0 import derive_mfae_key, is_authentic
from kdc.crypto.seal import Seal
from kdc.errors import Malformed, NotAcceptable, ReplyRefused
from kdc.installation import Agreed, accept_sa_info
from kdc.keying import Exchange, Parties
from kdc.model import ExchangeKeys, Nai, Pair, Secret, SecurityAssociation
from kdc.negotiation import (
    Agreement,
    PreparedOffer,
    is_counter_proposal,
    own_key,
    public_value_of,
    verify_answer,
)
from kdc.sealing import open_extension, open_ke_c
from kdc.wire import numbers
from kdc.wire.association import KIND_OF_PAIR
from kdc.wire.extensions import decode_ip, decode_next_spi
from kdc.wire.numbers import Kind
from kdc.wire.payloads import KeC, ReadSaPayload, SaPayload
from kdc.wire.registration import RegistrationReply

Agree = Callable[[DhKey, bytes], Secret]
_SMM: Final = Pair.MN_SMM


@dataclass(frozen=True, slots=True)
class Asked:
    """What the node asked, as far as the reply is opened with it."""

    keys: ExchangeKeys = field(repr=False)
    identification: bytes
    fa_nai: Nai
    care_of_address: IPv4Address
    offers: Mapping[Pair, PreparedOffer]


class OpenedReply:
    """One reply whose MHAE has been verified."""

    def __init__(self, asked: Asked, reply: RegistrationReply) -> None:
        self._asked, self._reply = asked, reply
        self._seal = Seal(asked.keys.seal_reply)

    def open(self, kind: Kind) -> bytes:
        """INFO of an extension that is there; raises `SealBroken` or `Malformed`."""
        return open_extension(self._seal, self._reply.part[kind], self._reply.fixed_header)

    def next_spis(self) -> tuple[int, ...] | None:
        """The list of unspent SPIs, or None where the reply has none."""
        if self._reply.part.find(numbers.NEXT_SPI) is None:
            return None
        return decode_next_spi(self.open(numbers.NEXT_SPI))

    def counter_proposals(self) -> dict[Pair, SaPayload]:
        """Those of a denial; raises `ReplyRefused` for what is none of our offers' counterpart."""
        counters = {pair: read.payload for pair, read in self._reply.part.sa_payloads.items()}
        for pair, counter in counters.items():
            offer = self._asked.offers.get(pair)
            if offer is None or not is_counter_proposal(offer.payload, counter):
                raise ReplyRefused("a counter-proposal to nothing that was offered")
        return counters

    def alias(self) -> Nai:
        return Nai(self.open(numbers.NAI_MN))

    def home_agent_nai(self) -> Nai:
        return Nai(self.open(numbers.NAI_HA))

    def home_address(self) -> IPv4Address:
        if self._reply.part.find(numbers.IP_MN) is None:
            return self._reply.home_address
        shown = decode_ip(self.open(numbers.IP_MN))
        if not isinstance(shown, IPv4Address):
            raise Malformed("IP length")
        return shown

    def associations(self, terms: MnTerms, agree: Agree) -> dict[Pair, SecurityAssociation]:
        """KEY1, KEY3 and, where it was offered, the SMM's; raises `RemoteError`.

        Every offer has its answer and every answer its offer, before any exponentiation.
        """
        answered, offers = self._reply.part.sa_payloads, self._asked.offers
        if set(answered) != set(offers):
            raise ReplyRefused("an answer to nothing that was offered, or an offer unanswered")
        wants_smm = _SMM in offers
        if wants_smm != (self._reply.part.find(KIND_OF_PAIR[_SMM]) is not None):
            raise ReplyRefused("an association that was not asked for, or none where one was")
        agreements = {
            pair: verify_answer(offers[pair].payload, read.payload)
            for pair, read in answered.items()
        }
        parties = self._parties()
        pairs = (Pair.MN_FA, Pair.MN_HA, _SMM) if wants_smm else (Pair.MN_FA, Pair.MN_HA)
        return {
            pair: accept_sa_info(
                self.open(KIND_OF_PAIR[pair]),
                pair,
                policy=terms.policies[pair],
                granted_s=self._reply.lifetime_s,
                parties=parties,
                agreed=self._agreed(pair, agreements.get(pair), agree),
            )
            for pair in pairs
        }

    def _parties(self) -> Parties:
        asked, reply = self._asked, self._reply
        return Parties(
            mobile_node=Party(self.alias().octets, self.home_address().packed),
            foreign_agent=Party(asked.fa_nai.octets, asked.care_of_address.packed),
            home_agent=Party(self.home_agent_nai().octets, reply.home_agent.packed),
        )

    def _agreed(self, pair: Pair, agreement: Agreement | None, agree: Agree) -> Agreed | None:
        if agreement is None:
            return None
        answer, offer = self._reply.part.sa_payloads[pair], self._asked.offers[pair]
        exchange = None
        if agreement.has_computed_value:
            key = own_key(agreement.key_exchange, offer.keys)
            z = agree(key, public_value_of(agreement.answered))
            exchange = Exchange(z, self._asked.identification, offer.octets, answer.octets)
        return Agreed(agreement, exchange, self._carried(agreement, answer))

    def _carried(self, agreement: Agreement, answer: ReadSaPayload) -> Secret | None:
        ke = agreement.answered
        if not isinstance(ke, KeC):
            return None
        if not ke.sealed:
            raise NotAcceptable("an answered KE-c without a secret")
        return open_ke_c(self._seal, answer.octets, ke.sealed, self._reply.fixed_header)

    def verify_mfae(self, mn_fa: SecurityAssociation) -> None:
        """7.4: a valid MFAE confirms that the FA holds KEY3."""
        mfae = self._reply.mfae
        if mfae is None:
            raise ReplyRefused("no MFAE")
        covered = self._reply.octets[: mfae.covered_octets]
        right = is_authentic(derive_mfae_key(mn_fa.keys), covered, mfae.digest)
        if not right or mfae.spi != mn_fa.spi:
            raise ReplyRefused("MFAE is wrong")
