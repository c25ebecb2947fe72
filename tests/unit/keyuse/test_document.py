"""The JSON of key use, version 1: held to one written out by hand, and read back strictly."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from aaa.config import KeyOutletSettings
from aaa.serve.key_command import (
    COMMAND_DONE,
    COMMAND_FAILED,
    COMMAND_SHED,
    COMMAND_TIMED_OUT,
)
from aaa.serve.key_file import FILE_FAILED, FILE_WRITTEN
from aaa.serve.key_outlet import CHANGED, REFUSED
from kdc.crypto.key0 import derive_direction_key, fingerprint_key
from kdc.errors import LocalError
from kdc.keyuse.document import decode_set, encode_event, encode_set
from kdc.keyuse.table import MOVES, AssociationTable, Endpoint, Event, Grant, State
from kdc.keyuse.traffic import ALGORITHM_NAMES, PROTOCOL_NAMES, Party, Role
from kdc.model import Mode, Nai, Pair, Secret, Suite
from tests.keyuse_stories import CBC_SHA2, association, grant

NOW = 1767323045.678  # 2026-01-02T03:04:05.678Z


def parsed(document: Secret) -> Any:
    assert document.reveal().endswith(b"}\n")
    return json.loads(document.reveal())


def test_an_event_is_the_documented_object() -> None:
    item = association(Pair.MN_FA, 4660)
    table = AssociationTable(Party.FOREIGN_AGENT)
    (change,) = table.install(grant("10.20.0.1", item), now=NOW)
    suite_key = Secret(item.keys.reveal()[:36])
    inbound, outbound = (
        derive_direction_key(suite_key, from_responder=d).reveal().hex() for d in (False, True)
    )
    assert parsed(encode_event(change)) == {
        "schema": "roamkey/key-use",
        "version": 1,
        "event": "installed",
        "at": "2026-01-02T03:04:05.678Z",
        "reason": None,
        "replaces": [],
        "superseded_by": None,
        "party": "foreign_agent",
        "role": "responder",
        "binding": "10.20.0.1",
        "pair": "MN_FA",
        "spi": 4660,
        "key_name": item.key_name.hex(),
        "mode": "stateful",
        "derivation": 0,
        "state": "current",
        "lifetime_s": 600,
        "expires_at": "2026-01-02T03:14:05.678Z",
        "retires_at": "2026-01-02T03:14:05.678Z",
        "local": {"nai": "fa1@visited.example", "address": "10.20.0.2"},
        "peer": {"nai": "m-01@home.example", "address": "10.20.0.1"},
        "alias": "m-01@home.example",
        "fingerprint": fingerprint_key(item.keys),
        "suites": [
            {
                "protocol": "aead",
                "algorithm": "aes-256-gcm",
                "protocol_id": 3,
                "transform_id": 20,
                "keys": {
                    "outbound": {"key": outbound[:64], "salt": outbound[64:]},
                    "inbound": {"key": inbound[:64], "salt": inbound[64:]},
                },
            }
        ],
    }


def test_a_renewal_names_what_it_replaces_and_a_retirement_has_no_key() -> None:
    table = AssociationTable(Party.MOBILE_NODE)
    table.install(grant("home", association(Pair.MN_HA, 300, suites=CBC_SHA2)), now=NOW)
    (renewed,) = table.install(grant("home", association(Pair.MN_HA, 400)), now=NOW + 1)
    assert (parsed(encode_event(renewed))["event"], renewed.replaces) == ("renewed", (300,))
    assert parsed(encode_event(renewed))["replaces"] == [300]
    (retired,) = table.advance(now=NOW + 61)
    content = parsed(encode_event(retired))
    assert (content["reason"], content["superseded_by"]) == ("replaced", 400)
    assert (content["state"], content["retires_at"]) == ("retired", "2026-01-02T03:05:06.678Z")
    assert [sorted(suite) for suite in content["suites"]] == [
        ["algorithm", "protocol", "protocol_id", "transform_id"]
    ] * 2
    text = encode_event(retired).reveal().decode()
    for suite in retired.held.suites:
        for key in (suite.outbound, suite.inbound, suite.both):
            assert key is None or key.key.reveal().hex() not in text


def full_table() -> AssociationTable:
    table = AssociationTable(Party.FOREIGN_AGENT)
    every = (Suite(1, 7), Suite(2, 11), Suite(3, 28))
    table.install(grant("m1", association(Pair.MN_FA, 300, suites=every)), now=NOW)
    table.install(grant("m1", association(Pair.MN_FA, 400, suites=CBC_SHA2)), now=NOW + 1)
    six = {Party.HOME_AGENT: Endpoint(Nai.parse("hà@home.example"), ip_address("2001:db8::1"))}
    table.install(Grant("m2", (association(Pair.FA_HA, 500),), six), now=NOW + 2)
    return table


def test_the_set_is_read_back_as_it_was() -> None:
    held = full_table().held()
    document = encode_set(Party.FOREIGN_AGENT, held, now=NOW)
    assert parsed(document)["written_at"] == "2026-01-02T03:04:05.678Z"
    assert [item["state"] for item in parsed(document)["associations"]] == [
        "superseded",
        "current",
        "current",
    ]
    again = decode_set(document, Party.FOREIGN_AGENT)
    assert again == held
    assert repr(again) == repr(held) and "<Secret of 64 octets>" in repr(held)


def test_no_document_prints_what_is_in_it() -> None:
    document = encode_set(Party.FOREIGN_AGENT, full_table().held(), now=NOW)
    assert repr(document) == f"<Secret of {len(document)} octets>" == str(document)


def broken(path: list[Any], value: Any) -> bytes:
    content = copy.deepcopy(parsed(encode_set(Party.FOREIGN_AGENT, full_table().held(), now=NOW)))
    place = content
    for step in path[:-1]:
        place = place[step]
    assert path[-1] in place or isinstance(place, list)
    place[path[-1]] = value
    return json.dumps(content).encode()


FIRST = ["associations", 0]


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        broken(["version"], 2),
        broken(["schema"], "other"),
        broken(["party"], "mobile_node"),
        broken(["associations"], 3),
        broken([*FIRST, "pair"], "MN_HA"),  # no pair of a foreign agent
        broken([*FIRST, "pair"], "MN_XX"),
        broken([*FIRST, "spi"], None),
        broken([*FIRST, "mode"], "careless"),
        broken([*FIRST, "state"], "forgotten"),
        broken([*FIRST, "key_name"], "xy"),
        broken([*FIRST, "expires_at"], "2026-01-02T03:04:05"),  # of no zone
        broken([*FIRST, "expires_at"], "tomorrow"),
        broken([*FIRST, "alias"], "a b"),
        broken([*FIRST, "local"], {"nai": None}),
        broken([*FIRST, "peer"], {"nai": None, "address": "10.0.0.300"}),
        broken([*FIRST, "suites", 0, "transform_id"], 5),  # its name is another
        broken([*FIRST, "suites", 0, "keys"], {"sideways": {"key": "", "salt": ""}}),
        broken([*FIRST, "suites", 0, "keys"], {"both": "00ff00ff"}),
    ],
)
def test_anything_else_is_refused_and_not_quoted(octets: bytes) -> None:
    with pytest.raises(LocalError) as refused:
        decode_set(Secret(octets), Party.FOREIGN_AGENT)
    assert str(refused.value) in (
        "expected a document of roamkey/key-use 1 of a foreign_agent",
        "a foreign_agent holds no association of pair MN_HA",
    )
    assert refused.value.__cause__ is None and refused.value.__context__ is None


DOCUMENTATION = (Path(__file__).parents[3] / "docs" / "key-use.md").read_text()


def test_every_member_and_value_is_documented() -> None:
    table = AssociationTable(Party.FOREIGN_AGENT)
    (change,) = table.install(grant("m1", association(Pair.MN_FA, 300)), now=NOW)
    members = set(parsed(encode_event(change)))
    members |= set(parsed(encode_set(Party.FOREIGN_AGENT, table.held(), now=NOW)))
    members |= set(parsed(encode_event(change))["suites"][0])
    values = {pair.name for pair in Pair} | {mode.name.lower() for mode in Mode}
    for kind in (Party, Role, Event):
        values |= {item.value for item in kind}
    values |= {move[1].value for move, after in MOVES.items() if after is State.RETIRED}
    values |= {state.value for state in State} - {"absent"}
    values |= set(ALGORITHM_NAMES.values()) | set(PROTOCOL_NAMES.values())
    shown = set(re.findall(r"[`\"]([a-z0-9_A-Z-]+)[`\"]", DOCUMENTATION))
    assert members | values <= shown


def test_every_counter_is_documented() -> None:
    names = {f"{CHANGED}.{event.value}" for event in Event} | {REFUSED, FILE_WRITTEN, FILE_FAILED}
    names |= {COMMAND_DONE, COMMAND_FAILED, COMMAND_TIMED_OUT, COMMAND_SHED}
    assert names == set(re.findall(r"`(keys\.[a-z_]+)`", DOCUMENTATION))


def test_the_documented_section_is_accepted(tmp_path: Path) -> None:
    block = re.search(r"    \[keys\].*\n(?:    .*\n)+", DOCUMENTATION)
    assert block is not None
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = "\n".join(line.removeprefix("    ") for line in block[0].splitlines())
    text = text.replace("/usr/local/lib/roamkey/keys_to_xfrm.py", str(program))
    given = tomllib.loads(text)["keys"]
    given["command"] = tuple(given["command"])
    settings = KeyOutletSettings.model_validate(given, context={"folder": tmp_path})
    assert settings.command == (str(program), "MN_FA")
    defaults = KeyOutletSettings.model_validate({"file": "x"}, context={"folder": tmp_path})
    assert settings.timeout_s == defaults.timeout_s
