"""Writes tests/fuzz/corpus from tests/vectors: `python -m tests.fuzz.make_corpus`.

The same vectors give the same files.  A file whose name begins with `found-` is what a target once
found; those are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random
from typing import Final

from aaa.radius.accounting import AccountingRequest, encode_accounting_request
from aaa.radius.attributes import NAS_IPV6_ADDRESS
from aaa.radius.dynauth import DynamicRequest, encode_dynamic_request
from aaa.radius.packet import (
    ACCOUNTING_REQUEST,
    COA_REQUEST,
    DISCONNECT_REQUEST,
    MAXIMUM_ATTRIBUTES,
    Attributes,
    decode,
)
from kdc.accounting import AccountingStatus
from kdc.model import DEFAULT_VENDOR_ID, Nai
from kdc.wire.payloads import (
    MAXIMUM_KEY_EXCHANGES,
    MAXIMUM_PROPOSALS,
    KeC,
    decode_sa_payload,
    encode_sa_payload,
)
from tests.fuzz.entry import CORPUS
from tests.fuzz.radius_mutation import MESSAGE_AUTHENTICATOR, PROXY_STATE, Draft, Item, draft_of
from tests.vectors_loader import Vector, octets, vectors

FOUND: Final = "found-"
# A fuzzer wants few and small seeds: of equal kinds the first ones show it all.
_MAXIMUM_FILES: Final = 72


def corpus() -> dict[str, dict[str, bytes]]:
    """The octets of every file by target and name."""
    return {
        "packet": _distinct(_packets()),
        "registration": _distinct(_registrations()),
        "extension": _distinct(_extensions()),
        "payloads": _distinct(_payloads()),
    }


def _distinct(found: Iterator[tuple[str, bytes]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    known: set[bytes] = set()
    for name, content in found:
        if content not in known and len(files) < _MAXIMUM_FILES:
            known.add(content)
            files[name.removeprefix("p-")] = content
    return files


def _fields(kind: str, *names: str) -> Iterator[tuple[str, bytes]]:
    """The named fields, in hexadecimal, of all vectors of a kind, whether given or computed."""
    for vector in vectors(kind):
        for name in names:
            text = _field(vector, name)
            if text is not None:
                yield f"{vector['id']}-{name.replace('_', '-')}", octets(text)


def _field(vector: Vector, name: str) -> str | None:
    for side in ("in", "out"):
        value = vector.get(side, {}).get(name)
        if isinstance(value, str):
            return value
    return None


def _packets() -> Iterator[tuple[str, bytes]]:
    """Those of the vectors, and one of them at the limits and under the codes of other ports."""
    good = decode(dict(_fields("radius", "packet"))["p-radius-good-packet"])
    for count in (MAXIMUM_ATTRIBUTES, MAXIMUM_ATTRIBUTES + 1):
        draft = draft_of(good, Random(0))
        draft.items += [Item(PROXY_STATE, b"")] * (count - len(draft.items))
        yield f"made-{count}-attributes", draft.octets(None)
    draft = draft_of(good, Random(0))
    by_ipv6 = [Item(NAS_IPV6_ADDRESS, bytes(16)) if i.kind == 4 else i for i in draft.items]
    draft.items = by_ipv6
    yield "made-nas-ipv6-address", draft.octets(None)
    for code in (4, 5, 12, 40, 41, 43, 45):
        draft = Draft(code, 1, bytes(16), [Item(80, bytes(16)), Item(PROXY_STATE, b"p")])
        yield f"made-code-{code}", draft.octets(None)
        draft.items = [Item(PROXY_STATE, bytes(253))] * 16
        yield f"made-code-{code}-unsigned-and-full", draft.octets(None)
    for kind, code, attributes in sessions():
        items = [Item(number, value) for number, value in attributes]
        yield f"made-{kind}", Draft(code, 1, bytes(16), items).octets(None)
    yield from _fields("radius", "packet", "request", "response")
    yield from _fields("registration", "access_request", "access_response")


def sessions() -> Iterator[tuple[str, int, Attributes]]:
    """What is told and asked of a session, by name and code, of a time long past or to come."""
    start = AccountingRequest(
        AccountingStatus.START,
        session_id=b"1",
        nas_identifier=b"fa1",
        nas_address=IPv4Address("198.51.100.7"),
        user_name=b"m-0123456789abcdef@home.example",
        classes=(b"8 octets",),
        spis=(4096, 4097),
        fa_nai=Nai.parse("fa1@visited.example").octets,
        operator_name=b"1visited.example",
        event_timestamp=1_800_000_000,
    )
    stop = replace(
        start,
        status=AccountingStatus.STOP,
        delay_time_s=5,
        session_time_s=60,
        input_octets=2**32 + 1,
        output_octets=7,
        input_packets=3,
        output_packets=4,
        terminate_cause=6,
        multi_session_id=b"2",
    )
    on = AccountingRequest(AccountingStatus.ACCOUNTING_ON, nas_identifier=b"fa1")
    for name, report in (("start", start), ("stop", stop), ("on", on)):
        attributes = encode_accounting_request(report, DEFAULT_VENDOR_ID)
        yield f"accounting-{name}", ACCOUNTING_REQUEST, attributes
    for name, code in (("disconnect", DISCONNECT_REQUEST), ("coa", COA_REQUEST)):
        asked = DynamicRequest(
            code,
            "home.example",
            b"8 octets",
            (4096, 4097),
            1_800_000_000,
            nas_identifier=b"fa1",
            nas_address=IPv4Address("198.51.100.7"),
            operator_realm="visited.example",
            session_id=b"1",
            state=b"state" if code == COA_REQUEST else None,
        )
        attributes = encode_dynamic_request(asked, DEFAULT_VENDOR_ID)
        yield name, code, ((MESSAGE_AUTHENTICATOR, bytes(16)), *attributes)


def _registrations() -> Iterator[tuple[str, bytes]]:
    requests = list(_fields("request", "octets"))
    replies = list(_fields("reply", "octets"))
    whole = list(_fields("registration", "request", "reply", "relay"))
    yield from requests[:12] + requests[-8:] + replies[:8] + replies[-4:] + whole


def _extensions() -> Iterator[tuple[str, bytes]]:
    yield from _fields("advertisement", "nvse_nai", "nvse_fk")
    found = list(_fields("extension", "cvse", "value"))
    yield from found[:: max(1, len(found) // 40)]
    yield from _fields("sa-info", "octets")


def _payloads() -> Iterator[tuple[str, bytes]]:
    """Those of the vectors, and one of them at the limits."""
    single = decode_sa_payload(dict(_fields("sa-payload", "octets"))["p-sa-payload-single-octets"])
    (proposal,) = single.proposals
    for count in (MAXIMUM_PROPOSALS, MAXIMUM_PROPOSALS + 1):
        many = tuple(replace(proposal, number=number) for number in range(1, count + 1))
        yield f"made-{count}-proposals", encode_sa_payload(replace(single, proposals=many))
    for count in (MAXIMUM_KEY_EXCHANGES, MAXIMUM_KEY_EXCHANGES + 1):
        one = replace(proposal, key_exchanges=(KeC(0),) * count)
        yield f"made-{count}-kes", encode_sa_payload(replace(single, proposals=(one,)))
    yield from _fields("sa-payload", "octets")
    yield from _fields("registration", "fa_sa_payload")


def main() -> None:
    for target, files in corpus().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if not path.name.startswith(FOUND):
                path.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
