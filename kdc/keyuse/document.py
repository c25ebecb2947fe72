"""Key use as JSON, version 1: one event, and the set of all that is held (docs/key-use.md).

Both hold keys in hexadecimal, so what is made here is a `Secret`: for a file of mode 0600 or for
the standard input of a command, and for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

from kdc.errors import LocalError, RemoteError
from kdc.keyuse.table import Change, Endpoint, Event, Held, State
from kdc.keyuse.traffic import (
    ALGORITHM_NAMES,
    PROTOCOL_NAMES,
    Party,
    SuiteKeys,
    TrafficKey,
    role_of,
)
from kdc.model import Mode, Nai, Pair, Secret, Suite

SCHEMA: Final = "roamkey/key-use"
VERSION: Final = 1
_DIRECTIONS: Final = ("outbound", "inbound", "both")


def encode_event(change: Change) -> Secret:
    """One change as one JSON object and a newline; a retirement has no keys in it."""
    retired = change.event is Event.RETIRED
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "event": change.event.value,
        "at": _iso(change.at),
        "reason": change.reason and change.reason.value,
        "replaces": list(change.replaces),
        "superseded_by": change.superseded_by,
        **_describe(change.held, with_keys=not retired),
    }
    return Secret(json.dumps(content, ensure_ascii=False).encode() + b"\n")


def encode_set(holder: Party, held: Iterable[Held], *, now: float) -> Secret:
    """All that is held as one JSON object, each association on a line of its own."""
    head = {
        "schema": SCHEMA,
        "version": VERSION,
        "party": holder.value,
        "written_at": _iso(now),
    }
    # One by one: a call into the C encoder keeps every other thread waiting until it ends.
    lines = (json.dumps(_describe(item, with_keys=True), ensure_ascii=False) for item in held)
    body = ",\n".join(lines)
    text = f'{json.dumps(head)[:-1]}, "associations": [\n{body}\n]}}\n'
    return Secret(text.encode())


def decode_set(octets: Secret, holder: Party) -> tuple[Held, ...]:
    """What `encode_set` wrote for the same holder; raises `LocalError` without quoting it."""
    try:
        content = json.loads(octets.reveal())
        kind = (content["schema"], content["version"], content["party"])
        if kind == (SCHEMA, VERSION, holder.value):
            return tuple(_read(item, holder) for item in content["associations"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RemoteError):
        pass
    raise LocalError(f"expected a document of {SCHEMA} {VERSION} of a {holder.value}")


def _describe(held: Held, *, with_keys: bool) -> dict[str, Any]:
    return {
        "party": held.holder.value,
        "role": role_of(held.pair, held.holder).value,
        "binding": held.binding,
        "pair": held.pair.name,
        "spi": held.spi,
        "key_name": held.key_name.hex(),
        "mode": held.mode.name.lower(),
        "derivation": held.derivation,
        "state": held.state.value,
        "lifetime_s": held.lifetime_s,
        "expires_at": _iso(held.expires_at),
        "retires_at": _iso(held.retires_at),
        "local": _describe_endpoint(held.local),
        "peer": _describe_endpoint(held.peer),
        "alias": held.alias and str(held.alias),
        "fingerprint": held.fingerprint,
        "suites": [_describe_suite(suite, with_keys=with_keys) for suite in held.suites],
    }


def _read(content: dict[str, Any], holder: Party) -> Held:
    pair = Pair[content["pair"]]
    role_of(pair, holder)
    return Held(
        holder=holder,
        binding=str(content["binding"]),
        pair=pair,
        spi=int(content["spi"]),
        key_name=bytes.fromhex(content["key_name"]),
        mode=Mode[content["mode"].upper()],
        derivation=int(content["derivation"]),
        state=State(content["state"]),
        lifetime_s=int(content["lifetime_s"]),
        expires_at=_unix(content["expires_at"]),
        retires_at=_unix(content["retires_at"]),
        local=_read_endpoint(content["local"]),
        peer=_read_endpoint(content["peer"]),
        alias=None if content["alias"] is None else Nai.parse(content["alias"]),
        fingerprint=str(content["fingerprint"]),
        suites=tuple(_read_suite(suite) for suite in content["suites"]),
    )


def _describe_suite(keys: SuiteKeys, *, with_keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "protocol": PROTOCOL_NAMES[keys.suite.protocol_id],
        "algorithm": ALGORITHM_NAMES[keys.suite],
        "protocol_id": keys.suite.protocol_id,
        "transform_id": keys.suite.transform_id,
    }
    if with_keys:
        given = {name: getattr(keys, name) for name in _DIRECTIONS}
        content["keys"] = {
            name: {"key": key.key.reveal().hex(), "salt": key.salt.reveal().hex()}
            for name, key in given.items()
            if key is not None
        }
    return content


def _read_suite(content: dict[str, Any]) -> SuiteKeys:
    suite = Suite(content["protocol_id"], content["transform_id"])
    if ALGORITHM_NAMES[suite] != content["algorithm"]:
        raise ValueError
    given = {
        name: TrafficKey(Secret(bytes.fromhex(key["key"])), Secret(bytes.fromhex(key["salt"])))
        for name, key in content["keys"].items()
    }
    return SuiteKeys(suite, **given)


def _describe_endpoint(endpoint: Endpoint) -> dict[str, str | None]:
    return {
        "nai": None if endpoint.nai is None else str(endpoint.nai),
        "address": None if endpoint.address is None else str(endpoint.address),
    }


def _read_endpoint(content: dict[str, str | None]) -> Endpoint:
    nai, address = content["nai"], content["address"]
    return Endpoint(
        None if nai is None else Nai.parse(nai),
        None if address is None else ip_address(address),
    )


def _iso(unix: float) -> str:
    """UTC with milliseconds, cut off and not rounded: never later than it is."""
    text = datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _unix(text: str) -> float:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.timestamp()
