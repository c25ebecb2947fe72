"""A home that seals what no home would: a reply with other INFOs, every seal and MHAE right.

So a refusal is of what was sealed, not of a seal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from aaa.exchange import AccessAccept
from aaa.roles.foreign_agent import ForeignAgent, Relayed
from aaa.roles.mobile_node import Pending
from kdc.crypto.hpke import unwrap
from kdc.crypto.key0 import authenticate, derive_mfae_key
from kdc.crypto.seal import Seal
from kdc.model import Pair, SecurityAssociation
from kdc.sealing import open_extension, seal_extension, transcript
from kdc.wire import numbers
from kdc.wire.extensions import Extension
from kdc.wire.numbers import Kind
from kdc.wire.parts import (
    Part,
    encode_authenticator_head,
    encode_extensions,
    encode_realm,
    encode_sa_payloads,
)
from kdc.wire.registration import RegistrationReply, decode_reply_for_fa

VENDOR_ID = 32473
Change = Callable[[bytes], bytes]  # of one INFO in the clear


def wrapping_seal(agent: ForeignAgent, accept: AccessAccept) -> Seal:
    """W as the agent itself unwraps it."""
    assert accept.fa_wrapped_key is not None
    key = agent._keys[0]
    return Seal(unwrap(accept.fa_wrapped_key, key=key.key, spi=key.spi, fa_nai=agent.identity.nai))


def read_reply(accept: AccessAccept) -> RegistrationReply:
    assert accept.fa_wrapped_key is not None
    spi = int.from_bytes(accept.fa_wrapped_key[:4], "big")
    return decode_reply_for_fa(accept.registration_reply, VENDOR_ID, fa_spi=spi)


def reseal_for_mn(
    accept: AccessAccept, pending: Pending, kind: Kind, change: Change, mn_fa: SecurityAssociation
) -> bytes:
    """What the node gets, one INFO of its part changed; the MFAE is made with `mn_fa`."""
    reply = read_reply(accept)
    to_mhae = _mn_part(reply, pending, kind, change)
    message = to_mhae + encode_authenticator_head(numbers.MOBILE_FOREIGN_AUTHENTICATION, mn_fa.spi)
    return message + authenticate(derive_mfae_key(mn_fa.keys), message)


def _mn_part(reply: RegistrationReply, pending: Pending, kind: Kind, change: Change) -> bytes:
    seal = Seal(pending.keys.seal_reply)
    extensions = _changed(reply.part, seal, reply, kind, change)
    return _authenticated(reply, pending, _payloads(reply.part), extensions)


def _authenticated(
    reply: RegistrationReply, pending: Pending, payloads: bytes, extensions: list[Extension]
) -> bytes:
    """Header, 131, CVSEs and an MHAE that is right."""
    assert reply.realm is not None
    message = (
        reply.fixed_header
        + encode_realm(reply.realm)
        + payloads
        + encode_extensions(VENDOR_ID, extensions)
        + encode_authenticator_head(numbers.MOBILE_HOME_AUTHENTICATION, pending.spi)
    )
    return message + authenticate(pending.keys.authenticate_reply, message)


def reseal_for_fa(
    agent: ForeignAgent, relayed: Relayed, accept: AccessAccept, kind: Kind, change: Change
) -> AccessAccept:
    """The Access-Accept, one INFO of the agent's part changed, its Transcript made anew."""
    reply, seal = read_reply(accept), wrapping_seal(agent, accept)
    assert reply.fa_part is not None
    extensions = _changed(reply.fa_part, seal, reply, kind, change)
    to_mhae = reply.octets[: reply.mhae_end]
    return _with_transcript(agent, relayed, accept, to_mhae, extensions)


def swap_answer(
    agent: ForeignAgent, relayed: Relayed, accept: AccessAccept, pending: Pending, swap: Change
) -> AccessAccept:
    """The Access-Accept with another SA payload of pair 2, MHAE and Transcript right."""
    reply = read_reply(accept)
    assert reply.fa_part is not None
    payloads = {pair: read.octets for pair, read in reply.part.sa_payloads.items()}
    payloads[Pair.MN_FA] = swap(payloads[Pair.MN_FA])
    encoded = encode_sa_payloads(VENDOR_ID, list(payloads.values()))
    to_mhae = _authenticated(reply, pending, encoded, list(reply.part.extensions.values()))
    extensions = list(reply.fa_part.extensions.values())
    return _with_transcript(agent, relayed, accept, to_mhae, extensions)


def _with_transcript(
    agent: ForeignAgent,
    relayed: Relayed,
    accept: AccessAccept,
    to_mhae: bytes,
    extensions: list[Extension],
) -> AccessAccept:
    reply, seal = read_reply(accept), wrapping_seal(agent, accept)
    assert reply.fa_part is not None
    between = _payloads(reply.fa_part) + encode_extensions(VENDOR_ID, extensions)
    bound = transcript(
        request=relayed.access.registration_request,
        attribute_3=agent._keys[0].attribute_3,
        attribute_5=relayed.access.fa_sa_payload,
        fa_nai=relayed.access.fa_nai.octets,
        reply_to_mhae=to_mhae,
        between=between,
    )
    last = seal_extension(
        seal,
        kind=numbers.TRANSCRIPT,
        spi=agent._keys[0].spi,
        info=bound,
        fixed_header=reply.fixed_header,
    )
    octets = to_mhae + between + encode_extensions(VENDOR_ID, [last])
    return dataclasses.replace(accept, registration_reply=octets)


def _payloads(part: Part) -> bytes:
    return encode_sa_payloads(VENDOR_ID, [read.octets for read in part.sa_payloads.values()])


def _changed(
    part: Part, seal: Seal, reply: RegistrationReply, kind: Kind, change: Change
) -> list[Extension]:
    changed = dict(part.extensions)
    extension = changed[kind]
    info = open_extension(seal, extension, reply.fixed_header)
    changed[kind] = seal_extension(
        seal, kind=kind, spi=extension.spi, info=change(info), fixed_header=reply.fixed_header
    )
    return list(changed.values())
