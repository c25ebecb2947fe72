"""An eavesdropper at two agents: what the visits of one node have in common on the air.

Octets that other nodes' visits show as well (headers, lengths, the home's own names) tell nobody
apart; whatever else comes again would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kdc.wire.registration import decode_request

# What a request must show to be routed, and for how long it asks: nothing of who asks.
ROUTING: Final = frozenset({"realm", "home agent", "lifetime asked for"})
# A number of four octets that comes again, with what stands around it, is a run of six.
RUN_OCTETS: Final = 6
# Where three octets are others' too, the rest may be chance: one octet of a random number between
# fixed ones is equal once in 256.  Without such a window two have to be.
WINDOW_OCTETS: Final = 3


def _runs(octets: bytes, length: int) -> Iterator[bytes]:
    for start in range(len(octets) - length + 1):
        yield octets[start : start + length]


def _all_runs(messages: Iterable[bytes], length: int) -> set[bytes]:
    return {run for octets in messages for run in _runs(octets, length)}


def linking_runs(
    first: Iterable[bytes], second: Iterable[bytes], others: Iterable[bytes]
) -> set[bytes]:
    """Runs of octets that both visits show, and no part of which any other node's visit does."""
    known = _all_runs(others, WINDOW_OCTETS)
    common = _all_runs(first, RUN_OCTETS) & _all_runs(second, RUN_OCTETS)
    return {run for run in common if known.isdisjoint(_runs(run, WINDOW_OCTETS))}


def common_fields(first: bytes, second: bytes, vendor_id: int) -> list[tuple[str, str]]:
    """The fields of two Registration Requests that are equal, by name."""
    one, two = decode_request(first, vendor_id), decode_request(second, vendor_id)
    fields = {
        "realm": (str(one.realm), str(two.realm)),
        "home agent": (str(one.home_agent), str(two.home_agent)),
        "lifetime asked for": (f"{one.lifetime_s} s", f"{two.lifetime_s} s"),
        "care-of address": (str(one.care_of_address), str(two.care_of_address)),
        "identification": (one.identification.hex(), two.identification.hex()),
        "SPI": (f"{one.mhae.spi:08x}", f"{two.mhae.spi:08x}"),
        "MHAE": (one.mhae.digest.hex(), two.mhae.digest.hex()),
    } | {
        f"extension {kind.type}/{kind.content_type}": (
            extension.info.hex(),
            two.part[kind].info.hex() if kind in two.part.extensions else "",
        )
        for kind, extension in one.part.extensions.items()
    }
    return [(name, a) for name, (a, b) in fields.items() if a == b]
