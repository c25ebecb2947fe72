"""A KDC in another process, as a home agent asks it: Roamkey-Key-Requests over TLS.

What cannot be asked in time is unavailable; what was asked and not answered is unknown, and the
retransmission of the mobile node finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aaa.radius.attributes import decode_key_reply, encode_key_request
from aaa.radius.errors import MalformedPacket, NoAnswer
from aaa.radius.packet import ACCESS_REQUEST, Attributes, VerifiedResponse
from kdc.errors import LocalError, RemoteError, Unavailable
from kdc.model import ExchangeKeys, Secret
from kdc.records import Admission, Decision, DenyDecision, Fate, GrantDecision, Settled
from kdc.wire.keydist import (
    AdmitRequest,
    DenyRequest,
    GrantRequest,
    KeyReply,
    KeyRequest,
    NotAdmitted,
    RepeatRequest,
    decode_key_reply_message,
    encode_key_request_message,
)
from kdc.wire.keydist_items import Judged, Refusal, State
from kdc.wire.registration import RegistrationRequest

Exchange = Callable[[int, Attributes], Awaitable[VerifiedResponse]]
# Under these nothing verifies: what the KDC does not admit is refused as any forgery is.
_NO_KEYS: Final = ExchangeKeys(*(Secret(bytes(octets)) for octets in (64, 64, 32, 32)))


class RemoteKeyDistribution:
    """`KeyDistribution` over `exchange`, which sends one RADIUS request and awaits its answer.

    `exchange` raises `Unavailable` for what was never sent and `NoAnswer` for what was.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        home_agent: str,
        realm: str,
        vendor_id: int,
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._home_agent, self._realm, self._vendor_id = home_agent, realm, vendor_id
        self._clock = clock

    async def admit(self, requests: Sequence[RegistrationRequest]) -> list[Admission | Fate]:
        # Step 5
        return list(await asyncio.gather(*(self._admit(request) for request in requests)))

    async def settle(self, decisions: Sequence[Decision]) -> list[Settled | Fate]:
        # Steps 7 and 8
        return list(await asyncio.gather(*(self._settle(decision) for decision in decisions)))

    async def _admit(self, request: RegistrationRequest) -> Admission | Fate:
        reply = await self._ask(AdmitRequest(request.octets))
        match reply:
            case Admission():
                return reply
            case NotAdmitted():
                return Admission(None, _NO_KEYS, self._clock())
        return Fate.UNAVAILABLE  # nothing has been written, whatever went wrong

    async def _settle(self, decision: Decision) -> Settled | Fate:
        reply = await self._ask(_request_of(decision))
        return reply if isinstance(reply, Settled | Fate) else Fate.UNKNOWN

    async def _ask(self, request: KeyRequest) -> KeyReply:
        try:
            attributes = encode_key_request(
                encode_key_request_message(request, self._vendor_id),
                home_agent=self._home_agent,
                realm=self._realm,
                vendor_id=self._vendor_id,
            )
        except LocalError:
            return Fate.REFUSED  # terms too long for this hop
        try:
            response = await self._exchange(ACCESS_REQUEST, attributes)
            return decode_key_reply_message(
                decode_key_reply(response, self._vendor_id), self._vendor_id
            )
        except Unavailable:
            return Fate.UNAVAILABLE
        except (NoAnswer, MalformedPacket, RemoteError):
            return Fate.UNKNOWN


def _request_of(decision: Decision) -> KeyRequest:
    state = State(decision.spi, decision.record.revision, decision.admission.ticket)
    match decision:
        case GrantDecision():
            verified = decision.verified
            return GrantRequest(
                state=state,
                judged=Judged(
                    verified.identification,
                    verified.lifetime_s,
                    verified.care_of_address,
                    decision.digest,
                ),
                fa_nai=verified.fa_nai,
                nas_address=verified.nas_address,
                home_agent_nai=verified.home_agent_nai,
                realm=verified.realm,
                operator_realm=verified.operator_realm,
                fa_public_key=verified.fa_public_key,
                terms=verified.terms,
            )
        case DenyDecision():
            refusal = Refusal(decision.denied, decision.digest, decision.last_seen, decision.rounds)
            return DenyRequest(state, refusal)
        case _:
            return RepeatRequest(state, decision.fa_realm)
