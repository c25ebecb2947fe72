"""`aaa demo`: real processes, sockets and database, and a table of who holds which key.

Every check that the tables show decides over the exit status; nothing is told that was not seen.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from aaa.demo_report import Held, Hop, show_hops, show_keys, show_rows, show_verdicts
from aaa.net.advertisement import read_advertisement
from aaa.net.mobile_ip import MobileIpSocket
from aaa.net.udp import Address, Datagram, UdpEndpoint
from aaa.roles.mobile_node import Heard, Registered
from aaa.serve.mobile_node import (
    Retransmission,
    StateFile,
    parse_enrolment,
    register_once,
)
from aaa.serve.radius_probe import answers_status
from kdc.config import load_kdc
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import LocalError, RoamkeyError
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Pair
from kdc.store import associations, migrate
from kdc.store.database import administration, database
from kdc.store.keyring import read_kek

NODES: Final = 3
_START_TIMEOUT_S: Final = 60.0
_HOPS: Final = (
    "mobile node -> foreign agent",
    "foreign agent -> foreign AAA",
    "foreign AAA -> home AAA",
    "home AAA -> foreign AAA",
    "foreign AAA -> foreign agent",
    "foreign agent -> mobile node",
)


class Tap:
    """A wire that is listened to: passes datagrams on and remembers each with its time."""

    def __init__(self, name: str, target: Address) -> None:
        self.name = name
        self._target = target
        self._clients: dict[Address, UdpEndpoint] = {}
        self.seen: list[tuple[float, bool, bytes]] = []  # when, outward, octets
        self._front = UdpEndpoint.open(("127.0.0.1", 0), self._outward)
        self.address = self._front.address

    def _outward(self, batch: list[Datagram]) -> None:
        for octets, source in batch:
            self.seen.append((time.monotonic(), True, octets))
            back = self._clients.get(source)
            if back is None:
                back = UdpEndpoint.open(("127.0.0.1", 0), partial(self._inward, source))
                self._clients[source] = back
            back.send_many([(octets, self._target)])

    def _inward(self, client: Address, batch: list[Datagram]) -> None:
        for octets, _ in batch:
            self.seen.append((time.monotonic(), False, octets))
            self._front.send_many([(octets, client)])

    def close(self) -> None:
        self._front.close()
        for endpoint in self._clients.values():
            endpoint.close()


@dataclass
class Demo:
    """The folder, the processes and the taps of one run."""

    folder: Path
    console: Console
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)

    async def run_tool(self, *arguments: str) -> str:
        """`kdc ...` as an operator runs it; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kdc", *arguments,
            cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode:
            raise LocalError(f"kdc {arguments[0]} failed: {err.decode().strip()}")
        return out.decode()

    async def start(self, name: str) -> None:
        """`aaa NAME --config NAME.toml`, its log in NAME.log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aaa", name, "--config", f"{name}.toml",
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)

    async def stop(self) -> list[int]:
        """Ends the processes in order, the last started first; returns their exit statuses."""
        statuses = []
        for process in reversed(self.processes):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                statuses.append(await asyncio.wait_for(process.wait(), 30))
            except TimeoutError:
                process.kill()
                statuses.append(await process.wait())
        self.processes.clear()
        for tap in self.taps:
            tap.close()
        return statuses


def free_address() -> Address:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    return host, port


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n")


def write_configurations(folder: Path, ports: dict[str, Address]) -> None:
    """home.toml, foreign.toml and agent.toml with a fresh secret for each hop."""
    for name in ("visited.secret", "fa1.secret"):
        _write_secret(folder / name, secrets.token_hex(32))
    (folder / "home.toml").write_text(
        f"""[home]
listen = ["{_text(ports["home"])}"]
realm = "home.example"
nai = "ha1@home.example"
address = "192.0.2.1"

[database]
url = "embedded:state"
kek_file = "home.kek"

[[client]]
name = "visited"
address = "127.0.0.1/32"
secret_file = "visited.secret"
realms = ["visited.example"]
"""
    )
    (folder / "foreign.toml").write_text(
        f"""[foreign]
listen = ["{_text(ports["foreign"])}"]
realm = "visited.example"

[[client]]
name = "fa1"
address = "127.0.0.1/32"
secret_file = "fa1.secret"
fa_nai = "fa1@visited.example"
nas_address = "198.51.100.7"
nas_identifier = "fa1"

[[home_server]]
name = "home"
address = "{_text(ports["to_home"])}"
secret_file = "visited.secret"
realms = ["home.example"]
"""
    )
    (folder / "agent.toml").write_text(
        f"""[agent]
listen = "{_text(ports["agent"])}"
nai = "fa1@visited.example"
address = "198.51.100.7"
care_of_address = "198.51.100.7"
nas_identifier = "fa1"
advertisement_file = "advertisement.json"
state_file = "installed.jsonl"

[radius]
server = "{_text(ports["to_foreign"])}"
secret_file = "fa1.secret"
"""
    )


async def _start_everything(demo: Demo) -> tuple[list[Enrolment], Heard, Address]:
    """Provisions the nodes and starts the processes with a tap on each hop."""
    ports = {name: free_address() for name in ("home", "foreign", "agent")}
    to_home = Tap("AAAF-AAAH", ports["home"])
    to_foreign = Tap("FA-AAAF", ports["foreign"])
    to_agent = Tap("MN-FA", ports["agent"])
    demo.taps += [to_agent, to_foreign, to_home]
    ports |= {"to_home": to_home.address, "to_foreign": to_foreign.address}
    write_configurations(demo.folder, ports)
    await demo.run_tool("kek", "create", "home.kek")
    await demo.run_tool("db", "upgrade", "--config", "home.toml")
    printed = await demo.run_tool(
        "subscriber", "add", "mn@home.example", "--count", str(NODES), "--json",
        "--config", "home.toml",
    )  # fmt: skip
    enrolments = [parse_enrolment(json.loads(line)) for line in printed.splitlines()]
    for name in ("home", "foreign", "agent"):
        await demo.start(name)
    await _wait_until_ready(demo, ports)
    heard = read_advertisement(demo.folder / "advertisement.json", DEFAULT_VENDOR_ID)
    return enrolments, heard, to_agent.address


async def _wait_until_ready(demo: Demo, ports: dict[str, Address]) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    secrets_of = {"home": "visited.secret", "foreign": "fa1.secret"}
    for name, file in secrets_of.items():
        secret = (demo.folder / file).read_text().strip().encode()
        while not await answers_status(ports[name], secret, timeout_s=0.25):
            _check_alive(demo)
            if time.monotonic() > until:
                raise LocalError(f"{name} did not become ready; see {demo.folder}/{name}.log")
    while not (demo.folder / "advertisement.json").exists():
        _check_alive(demo)
        await asyncio.sleep(0.05)


def _check_alive(demo: Demo) -> None:
    for process, name in zip(demo.processes, ("home", "foreign", "agent"), strict=False):
        if process.returncode is not None:
            log = (demo.folder / f"{name}.log").read_text().strip().splitlines()
            raise LocalError(f"aaa {name} ended at start: {log[-1] if log else 'no reason given'}")


def _hops(demo: Demo, since: tuple[int, ...]) -> list[Hop]:
    """The datagrams of one registration on the three taps, in the order of the cycle."""
    events = []
    for position, tap in enumerate(demo.taps):
        for at, outward, octets in tap.seen[since[position] :]:
            index = position if outward else len(_HOPS) - 1 - position
            events.append((index, at, len(octets)))
    events.sort()
    first = events[0][1]
    return [Hop(_HOPS[index], size, (at - first) * 1000) for index, at, size in events]


async def _attack(
    demo: Demo, link: MobileIpSocket, recorded: bytes, rows: int
) -> list[tuple[str, bool]]:
    """A tampered request and a replay: refused, and nothing more in the database."""
    verdicts = []
    tampered = bytearray(recorded)
    tampered[len(tampered) // 2] ^= 1
    for name, octets in (("a tampered request", bytes(tampered)), ("a replay", recorded)):
        link.send(octets)
        answer = await link.receive(10)
        refused = answer is not None and answer[0] == 3 and answer[1] == 67
        verdicts.append((f"{name} is refused (67 from the foreign agent)", refused))
    _, stored = _stored(demo)
    verdicts.append(("neither has left a row in the database", len(stored) == rows))
    return verdicts


def _stored(demo: Demo) -> tuple[tuple[int, int], list[associations.StoredAssociation]]:
    settings = load_kdc(demo.folder / "home.toml").database
    with database(settings) as conninfo, administration(conninfo) as connection:
        keyring = migrate.load_keyring(connection, read_kek(settings.kek_file))
        return associations.count(connection), list(associations.list_all(connection, keyring))


def _compare(
    demo: Demo, registered: list[Registered], stored: list[associations.StoredAssociation]
) -> list[Held]:
    """Each key as each party holds it."""
    lines = (demo.folder / "installed.jsonl").read_text().splitlines()
    at_agent: dict[int, dict[str, Any]] = {item["spi"]: item for item in map(json.loads, lines)}
    at_home = {item.spi: item for item in stored}
    radius = b"".join(octets for tap in demo.taps[1:] for _, _, octets in tap.seen)
    held = []
    for number, node in enumerate(registered, 1):
        own = {Pair.MN_HA: node.mn_ha, Pair.MN_FA: node.mn_fa}
        class_id = at_home[node.mn_ha.spi].class_id
        of_node = [item for item in stored if item.class_id == class_id]
        for item in of_node:
            mine, theirs = own.get(item.pair), at_agent.get(item.spi)
            shown = mine is not None and mine.keys.reveal() in radius
            held.append(
                Held(
                    number,
                    item.pair,
                    item.spi,
                    mobile_node=fingerprint_key(mine.keys) if mine else None,
                    foreign_agent=theirs["fingerprint"] if theirs else None,
                    home_agent=item.fingerprint,
                    on_the_way=shown,
                )
            )
    return held


async def _play(demo: Demo) -> bool:
    console = demo.console
    console.print(f"[dim]folder {demo.folder}[/dim]")
    with console.status("starting PostgreSQL, home, foreign and agent"):
        enrolments, heard, to_agent = await _start_everything(demo)
    registered: list[Registered] = []
    patience = Retransmission(timeout_s=5, retries=2)
    async with MobileIpSocket.open(to_agent) as link:
        for enrolment in enrolments:
            since = tuple(len(tap.seen) for tap in demo.taps)
            file = StateFile(demo.folder / f"{enrolment.nai.user}.state", enrolment)
            answer = await register_once(link, file, heard, lifetime_s=600, retransmission=patience)
            if not isinstance(answer, Registered):
                raise LocalError(f"{enrolment.nai} was not registered: {answer}")
            registered.append(answer)
            show_hops(console, str(enrolment.nai), _hops(demo, since))
        # The first one visits again, so that its first request is a recording of the past.
        file = StateFile(demo.folder / f"{enrolments[0].nai.user}.state", enrolments[0])
        recorded = next(octets for _, outward, octets in demo.taps[0].seen if outward)
        renewed = await register_once(link, file, heard, lifetime_s=600, retransmission=patience)
        _, stored = _stored(demo)
        held = _compare(demo, registered, stored)
        show_keys(console, held)
        show_rows(console, stored)
        verdicts = [
            ("every key is held by exactly its two holders", all(item.right for item in held)),
            ("a renewal makes new keys", isinstance(renewed, Registered)
             and renewed.mn_ha.keys != registered[0].mn_ha.keys),
            ("every association is in the database", len(stored) == 3 * (NODES + 1)),
            *await _attack(demo, link, recorded, len(stored)),
        ]  # fmt: skip
    statuses = await demo.stop()
    verdicts.append(("every process drained and ended with 0", set(statuses) == {0}))
    show_verdicts(console, verdicts)
    return all(right for _, right in verdicts)


async def run_demo(*, keep: Path | None = None) -> int:
    """0 only if everything held; the folder is removed unless it was named."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    folder = keep or Path(tempfile.mkdtemp(prefix="roamkey-demo-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)  # PostgreSQL never runs as root and must reach its own folder in it
    demo = Demo(folder.absolute(), console)
    try:
        return 0 if await _play(demo) else 1
    except RoamkeyError as error:
        Console(stderr=True, markup=False, soft_wrap=True).print(f"the demo failed: {error}")
        return 1
    finally:
        await demo.stop()
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
