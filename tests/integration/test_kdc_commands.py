"""`kdc client`, `sa`, `session`, `subscriber suspend|revoke` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
from typing import Any

import pytest

from aaa.serve.home_clients import configured_clients, join_clients
from kdc.accounting import AccountingRecord, AccountingStatus
from kdc.model import Enrolment, Secret
from kdc.records import NewRegistration
from kdc.store import Store
from kdc.store.accounting import Recorded, record
from kdc.store.disconnects import DisconnectKind, DisconnectState, claim, finish
from kdc.store.radius_clients import load_radius_clients
from tests.integration.domains import Domains
from tests.integration.stored import register

HOME = ("--config", "home.toml")


def _secret_file(domains: Domains, content: str) -> str:
    path = domains.folder / f"{secrets.token_hex(4)}.secret"
    path.write_text(content)
    path.chmod(0o600)
    return path.name


def _objects(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


# --- kdc client ---


async def test_a_client_from_add_to_remove(domains: Domains, store: Store) -> None:
    file = _secret_file(domains, "k7wQ-zu1_93hdm4xpp20vbnM\n")
    domains.kdc(
        "client", "add", "proxy", "198.51.100.0/24", "--secret-file", file,
        "--realm", "Visited.example", "--requests-per-second", "50",
        "--dynamic-authorization", "198.51.100.7:3799", "--no-message-authenticator", *HOME,
    )  # fmt: skip
    (client,) = (await load_radius_clients(store)).clients
    assert client.secrets == (Secret(b"k7wQ-zu1_93hdm4xpp20vbnM"),)
    assert (client.realms, client.requests_per_second) == (frozenset({"visited.example"}), 50)
    assert not client.require_message_authenticator
    (shown,) = _objects(domains.kdc("client", "show", "proxy", "--json", *HOME))
    assert shown["network"] == "198.51.100.0/24" and shown["old_secret_until"] is None
    assert "198.51.100.7:3799" in domains.kdc("client", "show", "proxy", *HOME)
    (rotated,) = _objects(domains.kdc("client", "rotate", "proxy", "--generate", "--json", *HOME))
    (client,) = (await load_radius_clients(store)).clients
    assert client.secrets == (
        Secret(rotated["secret"].encode()),
        Secret(b"k7wQ-zu1_93hdm4xpp20vbnM"),
    )
    domains.kdc("client", "disable", "proxy", *HOME)
    assert (await load_radius_clients(store)).clients == ()
    assert [
        item["enabled"] for item in _objects(domains.kdc("client", "list", "--json", *HOME))
    ] == [False]
    domains.kdc("client", "enable", "proxy", *HOME)
    assert len((await load_radius_clients(store)).clients) == 1
    domains.kdc("client", "remove", "proxy", *HOME)
    assert domains.kdc("client", "list", "--json", *HOME) == ""


async def test_a_secret_that_is_drawn_is_shown_once_and_is_the_one_in_force(
    domains: Domains, store: Store
) -> None:
    printed = domains.kdc("client", "add", "a", "192.0.2.1/32", "--generate", *HOME)
    (client,) = (await load_radius_clients(store)).clients
    shown = client.secrets[0].reveal().decode()
    assert printed.splitlines()[-1].strip() == shown and len(shown) >= 32
    for again in (("list",), ("list", "--json"), ("show", "a"), ("show", "a", "--json")):
        assert shown not in domains.kdc("client", *again, *HOME)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("testing123", "everybody knows it"),
        ("RadSec\n", "everybody knows it"),
        ("testing123testing123", "everybody knows it"),
        ("k7wQ-zu1", "at least 16"),
        ("", "octets"),
    ],
)
def test_a_bad_secret_is_refused_and_not_quoted(content: str, told: str, domains: Domains) -> None:
    file = _secret_file(domains, content)
    for command in (("add", "a", "192.0.2.1/32"), ("rotate", "a")):
        said = domains.kdc("client", *command, "--secret-file", file, *HOME, expect=1)
        assert told in said and len(said.splitlines()) == 1
        assert not content.strip() or content.strip() not in said
    assert domains.kdc("client", "list", "--json", *HOME) == ""


async def test_what_is_added_with_a_warning_is_in_force(domains: Domains, store: Store) -> None:
    """And what no server would take is not added, whatever is said beside it."""
    weak, short = "k7wQ-zu1_93hdm4x", "k7wQ-zu1"
    add = ("kdc", "client", "add")
    file = _secret_file(domains, weak)
    done = domains.run(*add, "weak", "192.0.2.1/32", "--secret-file", file, *HOME)
    assert done.returncode == 0 and done.stderr.startswith("warning: ")
    assert weak not in done.stderr + done.stdout
    options = ("--secret-file", _secret_file(domains, short), "--allow-short-secret")
    assert domains.run(*add, "short", "192.0.2.2/32", *options, *HOME).returncode == 2
    refused: list[str] = []
    known = join_clients(
        configured_clients(()),
        (await load_radius_clients(store)).clients,
        {},
        lambda name, _reason: refused.append(name),
    )
    assert [client.name for client in known.clients] == ["weak"] and not refused


def test_what_is_wrong_with_a_client_is_one_line(domains: Domains) -> None:
    add = ("client", "add", "a", "192.0.2.0/24", "--generate", *HOME)
    domains.kdc(*add)
    readable = _secret_file(domains, "k7wQ-zu1_93hdm4xpp20vbnM")
    (domains.folder / readable).chmod(0o644)
    for arguments, told in (
        (add, "kdc client show"),
        (("client", "add", "b", "192.0.2.0/24", "--generate", *HOME), "kdc client list"),
        (("client", "show", "nobody", *HOME), "nobody"),
        (("client", "remove", "nobody", *HOME), "nobody"),
        (("client", "add", "two words", "192.0.2.1/32", "--generate", *HOME), "name"),
        (("client", "add", "c", "192.0.2.1/32", "--secret-file", readable, *HOME), "0644"),
    ):
        said = domains.kdc(*arguments, expect=1)
        assert told in said and len(said.splitlines()) == 1
    for wrong in (
        ("192.0.2.1/24", "--generate"),
        ("192.0.2.1/32",),
        ("192.0.2.1/32", "--generate", "--secret-file", readable),
        ("192.0.2.1/32", "--generate", "--realm", "no realm"),
    ):
        assert "expected" in domains.kdc("client", "add", "d", *wrong, *HOME, expect=2)


# --- what is in force ---


async def _registered(domains: Domains, store: Store) -> tuple[Enrolment, NewRegistration]:
    (enrolment,) = domains.provision(1)
    return enrolment, await register(store, enrolment)


async def _answer(
    store: Store, kind: DisconnectKind, state: DisconnectState, cause: int | None = None
) -> None:
    """What a home node does with the next request, once there is one."""
    until = asyncio.get_running_loop().time() + 30
    while not (claimed := await claim(store, "n1")):
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.05)
    assert [item.kind for item in claimed] == [kind]
    assert await finish(store, "n1", claimed[0].id, state, cause)


@pytest.mark.parametrize(
    ("command", "state", "cause", "status", "told"),
    [
        ("suspend", DisconnectState.ACKED, None, 0, "acknowledged"),
        ("revoke", DisconnectState.ACKED, None, 0, "acknowledged"),
        ("suspend", DisconnectState.NAKED, 503, 0, "holds nothing"),
        ("suspend", DisconnectState.NAKED, 403, 1, "403, NAS identification mismatch"),
        ("revoke", DisconnectState.FAILED, None, 1, "no answer"),
    ],
)
async def test_the_end_of_a_subscriber_waits_for_the_foreign_domain(  # noqa: PLR0917
    command: str,
    state: DisconnectState,
    cause: int | None,
    status: int,
    told: str,
    domains: Domains,
    store: Store,
) -> None:
    enrolment, registration = await _registered(domains, store)
    arguments = ("kdc", "subscriber", command, str(enrolment.nai), "--reason", "stolen", *HOME)
    running = asyncio.create_task(asyncio.to_thread(domains.run, *arguments))
    await _answer(store, DisconnectKind.DISCONNECT, state, cause)
    done = await running
    assert done.returncode == status, done.stderr
    assert registration.class_id.hex() in done.stdout and told in done.stdout
    assert done.stderr.splitlines()[-1] == "1 of 1 answered"
    assert domains.kdc("sa", "list", "--json", *HOME) == ""
    resumed = domains.run("kdc", "subscriber", "resume", str(enrolment.nai), *HOME)
    assert resumed.returncode == (1 if command == "revoke" else 0)
    assert ("final" in resumed.stderr) is (command == "revoke")


async def test_nobody_answers_and_nobody_waits(domains: Domains, store: Store) -> None:
    enrolment, registration = await _registered(domains, store)
    name = str(enrolment.nai)
    done = domains.run("kdc", "subscriber", "suspend", name, "--wait", "0.5", "--json", *HOME)
    assert done.returncode == 1
    (told,) = _objects(done.stdout)
    assert (told["nai"], told["status"]) == (name, "suspended")
    (item,) = told["registrations"]
    assert (item["registration"], item["state"]) == (registration.class_id.hex(), "pending")
    assert not item["done"]
    # Suspended again: it is under way already, and still nobody has answered.
    again = domains.run("kdc", "subscriber", "suspend", name, "--wait", "0.5", *HOME)
    assert again.returncode == 1 and registration.class_id.hex() in again.stdout
    assert [item.attempts for item in await claim(store, "n1")] == [1]  # one request, not two
    assert "no subscriber" in domains.kdc("subscriber", "revoke", "x@home.example", *HOME, expect=1)


async def test_what_came_of_it_is_seen_later(domains: Domains, store: Store) -> None:
    enrolment, registration = await _registered(domains, store)
    name = str(enrolment.nai)
    domains.kdc("subscriber", "suspend", name, "--no-wait", "--reason", "[red]stolen", *HOME)
    show = ("disconnect", "list", "--json")
    (item,) = _objects(domains.kdc(*show, "--unfinished", "--realm", "Visited.example", *HOME))
    assert (item["subscriber"], item["state"], item["attempts"]) == (name, "pending", 0)
    assert (item["registration"], item["reason"]) == (registration.class_id.hex(), "[red]stolen")
    await _answer(store, DisconnectKind.DISCONNECT, DisconnectState.NAKED, 403)
    (item,) = _objects(domains.kdc(*show, "--subscriber", name, "--limit", "1", *HOME))
    assert (item["state"], item["error_cause"], item["done"]) == ("naked", 403, False)
    for wanted in (("--unfinished",), ("--realm", "x.example"), ("--subscriber", "x@home.example")):
        assert domains.kdc(*show, *wanted, *HOME) == ""
    assert "[red]" in domains.kdc("disconnect", "list", *HOME)


async def test_who_stops_waiting_is_told_that_the_end_stands(
    domains: Domains, store: Store
) -> None:
    enrolment, _ = await _registered(domains, store)
    command = (sys.executable, "-m", "kdc", "subscriber", "suspend", str(enrolment.nai), *HOME)
    waiting = await asyncio.create_subprocess_exec(
        *command, cwd=domains.folder, env=domains.environment, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        while not _objects(domains.kdc("disconnect", "list", "--json", *HOME)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        waiting.send_signal(signal.SIGINT)
        _, told = await waiting.communicate()
    said = told.decode()
    assert waiting.returncode == 130 and "kdc disconnect list" in said
    assert "Traceback" not in said


def test_octets_that_are_no_text_are_one_line(domains: Domains) -> None:
    for arguments in (
        ("subscriber", "suspend", "al\udcff@home.example"),
        ("subscriber", "suspend", "alice@home.example", "--reason", "\udcff"),
        ("client", "show", "\udcff"),
    ):
        said = domains.kdc(*arguments, *HOME, expect=1)
        assert said.strip() == "expected arguments in UTF-8"


async def test_associations_are_listed_shown_renewed_and_revoked(
    domains: Domains, store: Store
) -> None:
    enrolment, registration = await _registered(domains, store)
    name = str(enrolment.nai)
    listed = _objects(domains.kdc("sa", "list", "--json", *HOME))
    assert [item["spi"] for item in listed] == [item.spi for item in registration.associations]
    assert {item["nai"] for item in listed} == {name}
    assert [item["pair"] for item in listed] == ["mn-ha", "mn-fa", "fa-ha"]
    for wanted, count in (
        (("--realm", "Visited.example"), 3),
        (("--realm", "other.example"), 0),
        (("--subscriber", name), 3),
        (("--subscriber", "x@home.example"), 0),
        (("--limit", "2"), 2),
    ):
        assert len(_objects(domains.kdc("sa", "list", "--json", *wanted, *HOME))) == count
    spi = str(listed[0]["spi"])
    assert spi in domains.kdc("sa", "list", *HOME)
    (shown,) = _objects(domains.kdc("sa", "show", spi, "--json", *HOME))
    assert shown["live"] and shown["registration"] == registration.class_id.hex()
    renewing = asyncio.create_task(
        asyncio.to_thread(domains.run, "kdc", "sa", "revoke", spi, "--renew", *HOME)
    )
    await _answer(store, DisconnectKind.COA, DisconnectState.ACKED)
    assert (await renewing).returncode == 0
    assert len(_objects(domains.kdc("sa", "list", "--json", *HOME))) == 3
    (told,) = _objects(domains.kdc("sa", "revoke", spi, "--no-wait", "--json", *HOME))
    assert told["ended"] and told["registrations"][0]["kind"] == "disconnect"
    (shown,) = _objects(domains.kdc("sa", "show", spi, "--json", *HOME))
    assert not shown["live"]
    assert spi in domains.kdc("sa", "revoke", spi, *HOME, expect=1)
    assert "4000000000" in domains.kdc("sa", "show", "4000000000", *HOME, expect=1)
    text = domains.kdc("sa", "show", spi, *HOME)
    for item in registration.associations:
        assert item.keys is None or item.keys.reveal().hex()[:16] not in text


async def test_sessions_are_listed(domains: Domains, store: Store) -> None:
    enrolment, registration = await _registered(domains, store)

    def request(status: AccountingStatus, session: str, **changes: Any) -> AccountingRecord:
        return AccountingRecord(
            "visited", status, 1_800_000_000.0, session, nas_identifier="[red]fa1", **changes
        )

    batch = [
        request(
            AccountingStatus.START,
            "ours",
            class_id=registration.class_id,
            operator_realm="visited.example",
        ),
        request(
            AccountingStatus.STOP,
            "over",
            input_octets=2**40,
            fa_nai="fa@other.example",
            class_id=registration.class_id,  # heard on its way: shown as nobody's of ours
        ),
    ]
    assert await record(store, batch) == [Recorded.RECORDED] * 2
    listed = {
        item["session_id"]: item
        for item in _objects(domains.kdc("session", "list", "--json", *HOME))
    }
    assert listed["ours"]["subscriber"] == str(enrolment.nai) and listed["ours"]["registered"]
    assert listed["over"]["input_octets"] == 2**40 and not listed["over"]["registered"]
    for wanted, names in (
        (("--active",), ["ours"]),
        (("--realm", "Other.example"), ["over"]),
        (("--subscriber", str(enrolment.nai)), ["ours"]),
        (("--limit", "1"), ["ours"]),
    ):
        found = _objects(domains.kdc("session", "list", "--json", *wanted, *HOME))
        assert [item["session_id"] for item in found] == names
    table = domains.kdc("session", "list", *HOME)
    assert "[red]" in table and "not ours" in table


def test_no_command_of_these_takes_a_secret_as_an_argument(domains: Domains) -> None:
    for command in ("add", "rotate"):
        told = domains.kdc("client", command, "--help")
        assert "--secret-file" in told and "--secret " not in told
