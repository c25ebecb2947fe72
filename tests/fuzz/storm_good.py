"""Good requests that are no registrations, for the ports that take them, and what must answer them.

Which port gets which is tests.fuzz.storm_targets'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Final

from aaa.demo.configurations import AGENTS
from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.attributes import (
    KEY_REPLY,
    collect,
    decode_access_request,
    encode_key_request,
)
from aaa.radius.dynauth import (
    DynamicAnswer,
    DynamicRequest,
    ErrorCause,
    decode_dynamic_answer,
    encode_dynamic_request,
)
from aaa.radius.packet import (
    ACCESS_REQUEST,
    ACCOUNTING_REQUEST,
    DISCONNECT_REQUEST,
    MESSAGE_AUTHENTICATOR,
    RADSEC_SECRET,
    Packet,
    decode,
    encode_request,
    verify_request,
    verify_response,
)
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Secret
from kdc.wire.keydist import AdmitRequest, Message, encode_key_request_message
from tests.fuzz.make_corpus import sessions

_NAS: Final = IPv4Address(AGENTS["fa1"])

Judge = Callable[[bytes], None]
"""Raises `ValueError` for an answer that does not grant what was asked."""

Good = Callable[[Packet, Secret], tuple[Packet, Judge]]
"""Makes of a registration that is good now a request that is good at another port."""


def session_bases(codes: Sequence[int], secret: Secret) -> Iterator[Packet]:
    """What may be told and asked of a session, in all forms that have one of `codes`."""
    for _, code, attributes in sessions():
        if code in codes:
            unsigned = [a for a in attributes if a[0] != MESSAGE_AUTHENTICATOR]
            yield decode(encode_request(code, 0, os.urandom(16), unsigned, secret))


def key_request(packet: Packet, secret: Secret) -> tuple[Packet, Judge]:
    """The question whether the registration in `packet` is admitted, for a KDC."""
    access = decode_access_request(verify_request(packet, secret), DEFAULT_VENDOR_ID)
    message = AdmitRequest(access.registration_request)
    payload = encode_key_request_message(message, DEFAULT_VENDOR_ID)
    attributes = encode_key_request(
        payload, home_agent="ha1", realm="home.example", vendor_id=DEFAULT_VENDOR_ID
    )
    authenticator = os.urandom(16)
    wire = encode_request(ACCESS_REQUEST, 1, authenticator, attributes, RADSEC_SECRET)

    def judge(answer: bytes) -> None:
        response = verify_response(decode(answer), authenticator, RADSEC_SECRET)
        reply = b"".join(collect(response.attributes, DEFAULT_VENDOR_ID).get(KEY_REPLY, ()))
        if reply[1:2] != bytes((Message.ADMITTED,)):
            raise ValueError("not admitted")

    return decode(wire), judge


def accounting_start(_: Packet, secret: Secret) -> tuple[Packet, Judge]:
    """A session begins: recorded at home, however it gets there."""
    report = AccountingRequest(
        AccountingStatus.START,
        session_id=os.urandom(8).hex().encode(),
        nas_identifier=b"fa1",
        nas_address=_NAS,
        user_name=b"m-0123456789abcdef@home.example",
        classes=(os.urandom(8),),
        spis=(4096, 4097),
        fa_nai=b"fa1@visited.example",
        event_timestamp=int(time.time()),
    )
    attributes = encode_accounting_request(report, DEFAULT_VENDOR_ID)
    wire = encode_request(ACCOUNTING_REQUEST, 1, bytes(16), attributes, secret)

    def judge(answer: bytes) -> None:
        verify_response(decode(answer), wire[4:20], secret, request_code=ACCOUNTING_REQUEST)

    return decode(wire), judge


def disconnect(_: Packet, secret: Secret) -> tuple[Packet, Judge]:
    """A session is to end that the agent has not: it says so, and nobody before it does."""
    asked = DynamicRequest(
        DISCONNECT_REQUEST,
        "home.example",
        os.urandom(8),
        (4096, 4097),
        int(time.time()),
        nas_identifier=b"fa1",
        nas_address=_NAS,
        operator_realm="visited.example",
    )
    attributes = encode_dynamic_request(asked, DEFAULT_VENDOR_ID)
    wire = encode_request(DISCONNECT_REQUEST, 1, bytes(16), attributes, secret)

    def judge(answer: bytes) -> None:
        response = verify_response(
            decode(answer), wire[4:20], secret, request_code=DISCONNECT_REQUEST
        )
        told = decode_dynamic_answer(response)
        if told != DynamicAnswer(False, ErrorCause.SESSION_CONTEXT_NOT_FOUND):
            raise ValueError(f"{told}")

    return decode(wire), judge
