"""The trace of real processes: every packet and decision of a registration, and no key anywhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator

import pytest

from aaa.net.advertisement import read_advertisement
from aaa.net.mobile_ip import MobileIpSocket
from aaa.roles.mobile_node import Heard, MobileNodeState, Registered, build_request, next_spi
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from aaa.serve.mobile_node import Retransmission, exchange
from kdc.model import DEFAULT_VENDOR_ID, Enrolment
from tests.integration.domains import START_TIMEOUT_S, Domains

LEAST = 8  # octets of a key in a row that must not be found


def _with_keys_in_files(domains: Domains) -> None:
    for name in ("home", "agent"):
        file = domains.folder / f"{name}.toml"
        file.write_text(file.read_text() + f'\n[keys]\nfile = "{name}-keys.json"\n')


def _keys_in_file(domains: Domains, name: str) -> Iterator[bytes]:
    """All keys that a process has handed on."""
    content = json.loads((domains.folder / f"{name}-keys.json").read_text())
    for association in content["associations"]:
        for suite in association["suites"]:
            for key in suite["keys"].values():
                yield bytes.fromhex(key["key"])


def _forms(secret: bytes) -> Iterator[str]:
    """Every way in which a piece of a secret could be written."""
    for start in range(len(secret) - LEAST + 1):
        piece = secret[start : start + LEAST]
        yield piece.hex()
        yield repr(piece)[2:-1]
        yield piece.decode("latin-1")
    for shift in range(3):  # each alignment of base64, without what depends on its neighbours
        whole = secret[shift : len(secret) - (len(secret) - shift) % 3]
        yield base64.b64encode(whole).decode()[: 4 * (LEAST // 3)]


def _assert_absent(secrets: dict[str, bytes], shown: str) -> None:
    lowered = shown.lower()
    for name, secret in secrets.items():
        for form in _forms(secret):
            assert form not in shown and form.lower() not in lowered, f"{name} is in the trace"


async def _register(
    domains: Domains, heard: Heard, enrolment: Enrolment, terms: MnTerms
) -> Registered:
    state, negotiation = MobileNodeState.enrolled(enrolment), Negotiation()
    state, pending = build_request(
        state,
        heard,
        lifetime_s=600,
        now=time.time(),
        entropy=random.Random(5).randbytes,
        offers=negotiation.offer(terms, spi=next_spi(state), entropy=os.urandom)[1],
    )
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        _, answer = await exchange(
            link, state, pending, Retransmission(), terms=terms, vendor_id=DEFAULT_VENDOR_ID
        )
    assert isinstance(answer, Registered), answer
    return answer


async def _traced_from_the_start(domains: Domains) -> Heard:
    domains.start("home", "--trace")
    domains.start("foreign", "--trace")
    domains.start("agent")
    await domains.wait_for("home", "visited.secret")
    await domains.wait_for("foreign", "fa1.secret")
    advertisement = domains.folder / "advertisement.json"
    until = time.monotonic() + START_TIMEOUT_S
    while not advertisement.exists():
        assert time.monotonic() < until, domains.log("agent")
        await asyncio.sleep(0.02)
    return read_advertisement(advertisement, DEFAULT_VENDOR_ID)


async def test_a_registration_is_shown_at_both_servers_without_a_key(domains: Domains) -> None:
    _with_keys_in_files(domains)
    enrolments = domains.provision(2)
    heard = await _traced_from_the_start(domains)
    keys: dict[str, bytes] = {}
    for number, terms in enumerate((MnTerms(plans={}), MnTerms())):
        answer = await _register(domains, heard, enrolments[number], terms)
        keys[f"KEY0 {number}"] = enrolments[number].key0.reveal()
        keys[f"KEY1 {number}"] = answer.mn_ha.keys.reveal()
        keys[f"KEY3 {number}"] = answer.mn_fa.keys.reveal()
    for place in ("home", "agent"):
        held = list(_keys_in_file(domains, place))
        assert len(held) >= 4, "KEY1 and KEY2 at home, KEY2 and KEY3 at the agent, of each node"
        keys |= {f"{place} {n}": key for n, key in enumerate(held)}
    assert domains.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
    for file in ("visited.secret", "fa1.secret"):
        keys[file] = domains.secret(file)
        keys[f"{file} in octets"] = bytes.fromhex(domains.secret(file).decode())
    shown = {name: domains.log(name) for name in ("home", "foreign")}
    for text in shown.values():
        _assert_absent(keys, text)
        _check_lengths_only(text)
    _check_home(shown["home"])
    _check_foreign(shown["foreign"])


def _check_lengths_only(shown: str) -> None:
    for name in (
        "Roamkey-Registration-Request",
        "Roamkey-Registration-Reply",
        "Roamkey-FA-Wrapped-Key",
        "Message-Authenticator",
        "Proxy-State",
    ):
        values = re.findall(rf"^    {name}: (.*)$", shown, re.MULTILINE)
        assert values and all(re.fullmatch(r"\d+ octets", value) for value in values), name


def _check_home(shown: str) -> None:
    blocks = re.split(r"^(?=\[trace\])", shown, flags=re.MULTILINE)
    (request, _) = [b for b in blocks if " received: Access-Request Id " in b]
    assert re.search(r"from visited \(127\.0\.0\.1:\d+\) over UDP, \d+ octets\n", request)
    for line in (
        'User-Name: "@home.example"',
        'NAS-Identifier: "fa1"',
        "NAS-IP-Address: 198.51.100.7",
        'Roamkey-FA-NAI: "fa1@visited.example"',
        'Operator-Name: "1visited.example"',
        "Chargeable-User-Identity: 0x00",
    ):
        assert f"\n    {line}\n" in request, line
    (response, _) = [b for b in blocks if " sent: Access-Accept Id " in b and "Class: " in b]
    assert "to visited (127.0.0.1:" in response
    assert re.search(r'\n    User-Name: "m-[0-9a-f]{16}@home\.example"\n', response)
    decisions = re.findall(r"decided: Access-Request Id \d+ from visited\n    => (.*)\n", shown)
    assert decisions == ["admitted for the home agent of this process", "granted"] * 2


def _check_foreign(shown: str) -> None:
    heads = re.findall(r"^\[trace\] \S+ (.*?) Id \d+ (from|to) (\S+)", shown, re.MULTILINE)
    asked = [head for head in heads if "Access-Request" in head[0] or "Accept" in head[0]]
    told = [(what, way) for what, way, _ in asked if "decided" not in what]
    one = [
        ("received: Access-Request", "from"),
        ("sent: Access-Request", "to"),
        ("received: Access-Accept", "from"),
        ("sent: Access-Accept", "to"),
    ]
    registrations = [line for line in told if line != ("sent: Access-Accept", "to")]
    assert registrations == one[:3] * 2
    assert shown.count("=> forwarded to the servers of home.example\n") == 2


async def test_the_trace_is_switched_while_the_process_runs(domains: Domains) -> None:
    domains.start("home")
    await domains.wait_for("home", "visited.secret")
    assert "[trace]" not in domains.log("home")
    process = domains.processes["home"]
    process.send_signal(signal.SIGUSR1)
    await _until_logged(domains, "on=True", 1)
    await domains.wait_for("home", "visited.secret")
    await _until_logged(domains, "sent: Access-Accept", 1)
    process.send_signal(signal.SIGUSR1)
    await _until_logged(domains, "on=False", 1)
    shown = domains.log("home").count("[trace]")
    await domains.wait_for("home", "visited.secret")
    assert domains.log("home").count("[trace]") == shown
    assert domains.stop_all() == {"home": 0}


async def _until_logged(domains: Domains, text: str, count: int) -> None:
    until = time.monotonic() + 10
    while domains.log("home").count(text) < count:
        assert time.monotonic() < until, domains.log("home")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", ["agent", "foreign"])
async def test_the_signal_ends_no_process(domains: Domains, name: str) -> None:
    await domains.start_all()
    process = domains.processes[name]
    process.send_signal(signal.SIGUSR1)
    await domains.wait_for("foreign", "fa1.secret")
    assert process.poll() is None
    assert domains.stop_all() == {"home": 0, "foreign": 0, "agent": 0}
