"""The home agent's reading of a request: structure, MHAE and seals (steps 1 to 4 of 5.3).

Whether what was read may be granted is judged in home_agent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from aaa.exchange import AccessRequest
from kdc.crypto.key0 import is_authentic
from kdc.crypto.seal import Seal
from kdc.errors import AuthenticationFailed
from kdc.model import ExchangeKeys, IpAddress, Nai, Pair, shared_nai
from kdc.records import Record
from kdc.sealing import open_extension
from kdc.wire import numbers
from kdc.wire.advertisement import FaPublicKey, decode_fa_public_keys
from kdc.wire.extensions import decode_ip
from kdc.wire.payloads import ReadSaPayload, decode_fa_sa_payloads
from kdc.wire.registration import RegistrationRequest, decode_request

_DIGEST_LABEL = b"roamkey duplicate v1"


@dataclass(frozen=True, slots=True)
class StructuredRequest:
    """Step 1 passed: well-formed, nothing of it verified."""

    access: AccessRequest
    request: RegistrationRequest
    fa_public_keys: tuple[FaPublicKey, ...]
    fa_payloads: dict[Pair, ReadSaPayload]  # attribute 5


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


def read_request(access: AccessRequest, *, vendor_id: int) -> StructuredRequest:
    """Step 1 of 5.3: size, structure, limits, attributes 3 and 5.

    Raises `Malformed` or `UnknownVendor`; nothing has cost more than reading.
    """
    request = decode_request(access.registration_request, vendor_id)
    fa_public_keys = decode_fa_public_keys(access.fa_public_keys)
    fa_payloads = decode_fa_sa_payloads(access.fa_sa_payload)
    return StructuredRequest(access, request, fa_public_keys, fa_payloads)


def verify_request(
    request: RegistrationRequest, record: Record | None, keys: ExchangeKeys, *, now: float
) -> Record:
    """Steps 2 and 3 of 5.3: the record of an authentic request; `keys` are a dummy's without one.

    Raises `AuthenticationFailed`, one outcome for every cause.
    """
    covered = request.octets[: request.mhae.covered_octets]
    authentic = is_authentic(keys.authenticate_request, covered, request.mhae.digest)
    spi = request.mhae.spi
    # A store that still finds a record under a dead SPI must not revive it (PROTOCOL 5.4).
    known = (
        record is not None and record.active and (spi in record.unspent or spi == record.last_spent)
    )
    if record is not None and record.expires_at is not None and record.expires_at <= now:
        known = False
    if record is not None and record.home_agent != request.home_agent:
        known = False  # another home agent's, on the same database
    if not authentic or not known or record is None:
        raise AuthenticationFailed("not authenticated")
    return record


def open_request(
    structured: StructuredRequest, record: Record | None, keys: ExchangeKeys, *, now: float
) -> OpenedRequest:
    """Steps 2-4 of 5.3; `keys` are a dummy's where `record` is None.

    Raises `AuthenticationFailed`, one outcome for every cause, or `Malformed` for a seal that
    opens to something that 4.1 does not know.
    """
    # Step 6
    request = structured.request
    record = verify_request(request, record, keys, now=now)
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
        nai_fa=shared_nai(opened[numbers.NAI_FA]),
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
