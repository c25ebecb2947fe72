"""STUB replaced by the real codec."""
from dataclasses import dataclass
from kdc.errors import Malformed
from kdc.model import Pair
@dataclass
class SaPayload:
    pair: Pair
def decode_sa_payload(octets: bytes) -> SaPayload:
    if len(octets) < 4: raise Malformed("payload header truncated")
    return SaPayload(Pair(octets[1]))
def iter_sa_payloads(octets: bytes):
    if len(octets) > 1024: raise Malformed("attribute 5 over 1,024 octets")
    if octets: yield decode_sa_payload(octets)
