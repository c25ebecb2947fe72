"""A home in many processes, as an operator runs it: KDCs on one database, home agents, one AAA.

Agents `fa1` and `fa2` are behind the foreign AAA and the home AAA; `fa3` and `fa4` are clients of
`ha1` and `ha2` themselves.  `ha1b` is a second process of the home agent address of `ha1`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from aaa.demo.configurations import (
    AGENTS,
    HOME_AGENT,
    SOURCES,
    free_address,
    text_of,
    write_secret,
    write_split_configurations,
)
from aaa.net.advertisement import read_advertisement
from aaa.net.mobile_ip import MobileIpSocket
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_upstream import ClientLimits, RadsecTarget
from aaa.net.tls import TlsFiles, load_contexts
from aaa.radius.counters import Counters
from aaa.radius.tls_peers import TlsPeer
from aaa.roles.mobile_node import (
    Answer,
    DeniedByHome,
    Heard,
    HintFromFa,
    MobileNodeState,
    Pending,
    Registered,
    accept_reply,
    build_request,
    next_spi,
)
from aaa.roles.mobile_node_terms import MnTerms, Negotiation
from aaa.serve.mobile_node import MAXIMUM_TRIES, Retransmission, exchange, parse_enrolment
from aaa.serve.radius_probe import answers_status
from kdc.cli import tls
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import DENIED_IDENTIFICATION
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Pair
from kdc.negotiation import PreparedOffer
from kdc.store import associations, migrate
from kdc.store.associations import StoredAssociation
from kdc.store.database import administration
from tests.integration.domains import START_TIMEOUT_S, Domains

ADDRESSES = {"ha1": HOME_AGENT, "ha2": "192.0.2.2", "ha1b": HOME_AGENT}
KDCS = ("kdc1", "kdc2")
AGENT_SOURCES = SOURCES | {"fa4": "127.0.0.14"}
AGENT_ADDRESSES = AGENTS | {"fa4": "203.0.113.10"}
TERMS = MnTerms()  # pair 1 with forward secrecy, as a node offers by default
PATIENCE = Retransmission(timeout_s=5, retries=4)


def make_certificates(folder: Path) -> None:
    """An authority and a certificate for each process that speaks TLS, as `kdc tls` makes them."""
    tls.authority(folder / "tls", "home.example")
    for name in (*KDCS, *ADDRESSES):
        tls.issue(folder / "tls", name, [f"{name}.home.example"])


def run_kdc(folder: Path, *arguments: str, expect: int = 0) -> str:
    """`kdc` in `folder`: what it prints, on standard error where it is expected to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "kdc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def free_tcp() -> tuple[str, int]:
    """A loopback address that was free for TCP a moment ago."""
    return free_address(socket.SOCK_STREAM)


@dataclass
class SplitHome(Domains):
    """All configurations in one folder; which processes run is each test's affair."""

    certificates: Path = field(default_factory=Path)
    _heard: dict[str, Heard] = field(default_factory=dict)

    def configure(self) -> None:
        shutil.copytree(self.certificates / "tls", self.folder / "tls")
        radius = (*ADDRESSES, "home", "foreign", *AGENT_SOURCES)
        self.ports = {name: free_address() for name in radius}
        self.ports |= {name: free_tcp() for name in KDCS}
        ports = self.ports
        reached = {
            "kdc": ports["kdc1"],
            "to_home": ports["home"],
            "to_ha1": ports["ha1"],
            "fa1_to_foreign": ports["foreign"],
            "fa2_to_foreign": ports["foreign"],
            "fa3_to_ha1": ports["ha1"],
        }
        write_split_configurations(self.folder, ports | reached)
        for name in ("ha2", "ha1b", "fa4"):
            write_secret(self.folder / f"{name}.secret")
        self._write_kdcs()
        self._write_home_agents()
        self._write_agents()
        self._append("home.toml", _home_agent_behind("ha2", text_of(ports["ha2"])))

    def _append(self, file: str, text: str) -> None:
        with (self.folder / file).open("a") as opened:
            opened.write(text)

    def _write_kdcs(self) -> None:
        text = (self.folder / "kdc.toml").read_text()
        text = text.replace('url = "embedded:state"', f'url = "{self.database_url}"')
        text = text.replace('kek_file = "home.kek"', f'kek_file = "{self.postgres.kek_file}"')
        text += "".join(
            f'\n[[home_agent]]\nname = "{name}"\nnai = "{_owner(name)}@home.example"\n'
            f'address = "{ADDRESSES[name]}"\nsan = ["{name}.home.example"]\n'
            for name in ("ha2", "ha1b")
        )
        listen = text_of(self.ports["kdc1"])
        for name in KDCS:
            own = text.replace(listen, text_of(self.ports[name]))
            (self.folder / f"{name}.toml").write_text(own.replace("tls/kdc.", f"tls/{name}."))
        (self.folder / "kdc.toml").unlink()

    def _write_home_agents(self) -> None:
        text = (self.folder / "home-agent.toml").read_text()
        (self.folder / "home-agent.toml").unlink()
        before, _, rest = text.partition("[[kdc]]")
        _, _, after = rest.partition("[[client]]")
        kdcs = [
            f'[[kdc]]\nname = "{name}"\nsan = ["{name}.home.example"]\n'
            f'address = "{text_of(self.ports[name])}"\n'
            for name in KDCS
        ]
        for name, address in ADDRESSES.items():
            own_kdcs = kdcs if name == "ha1" else reversed(kdcs)  # so that both KDCs work
            own = before + "\n".join(own_kdcs) + "\n[[client]]" + after
            own = own.replace("ha1@home", f"{_owner(name)}@home").replace('"ha1"', f'"{name}"')
            own = own.replace("tls/ha1.", f"tls/{name}.").replace("ha1.secret", f"{name}.secret")
            own = own.replace(HOME_AGENT, address)
            own = own.replace(text_of(self.ports["ha1"]), text_of(self.ports[name]))
            if name == "ha2":
                own = own.replace("fa3", "fa4").replace(SOURCES["fa3"], AGENT_SOURCES["fa4"])
            (self.folder / f"{name}.toml").write_text(own)

    def _write_agents(self) -> None:
        text = (self.folder / "fa3.toml").read_text()
        text = text.replace("fa3", "fa4").replace(AGENTS["fa3"], AGENT_ADDRESSES["fa4"])
        for agent, server in (("fa3", "fa4"), ("ha1", "ha2")):
            text = text.replace(text_of(self.ports[agent]), text_of(self.ports[server]))
        (self.folder / "fa4.toml").write_text(text)
        for name, source in AGENT_SOURCES.items():
            self._append(f"{name}.toml", f'source_address = "{source}"\n')

    # --- processes ---

    async def launch(self, *names: str) -> None:
        """Starts these and waits until each answers; a log is NAME.log."""
        seen = {name: self.log(name).count("listening") for name in names}
        for name in names:
            self.start(name)
        for name in names:
            await self._until_ready(name, seen[name])

    def start(
        self, name: str, *options: str, config: str | None = None, kind: str | None = None
    ) -> None:
        package, command = _program(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    sys.executable, "-m", package, kind or command,
                    "--config", config or f"{name}.toml", *options,
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    async def _until_ready(self, name: str, seen: int) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not await self._is_ready(name, seen):
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < until, self.log(name)
            await asyncio.sleep(0.05)

    async def _is_ready(self, name: str, seen: int) -> bool:
        if name in KDCS:
            return self.log(name).count("listening") > seen
        if name in AGENT_SOURCES:
            return (self.folder / f"{name}-advertisement.json").exists()
        secret, source = self.secret(f"{name}.secret") if name in ADDRESSES else b"", None
        if name == "home":
            secret = self.secret("visited.secret")
        elif name == "foreign":
            secret, source = self.secret("fa1.secret"), AGENT_SOURCES["fa1"]
        return await answers_status(self.ports[name], secret, timeout_s=0.2, source=source)

    def kill(self, name: str) -> None:
        """SIGKILL, and gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(20)

    def heard(self, agent: str) -> Heard:
        """What the agent advertises; its key lives longer than a test."""
        if agent not in self._heard:
            file = self.folder / f"{agent}-advertisement.json"
            self._heard[agent] = read_advertisement(file, DEFAULT_VENDOR_ID)
        return self._heard[agent]

    def subscribers(
        self, count: int, *options: str, home_agent: str = "ha1", name: str = "mn"
    ) -> list[Enrolment]:
        """Fresh subscribers of one home agent."""
        printed = self.kdc(
            "subscriber", "add", f"{name}-{home_agent}@home.example", "--config", "kdc1.toml",
            "--home-agent", ADDRESSES[home_agent], "--count", str(count), "--json", *options,
        )  # fmt: skip
        return [parse_enrolment(json.loads(line)) for line in printed.splitlines()]

    # --- what came of it ---

    def stored(self) -> list[StoredAssociation]:
        with administration(self.postgres.conninfo(self.database_name)) as connection:
            keyring = migrate.load_keyring(connection, self.postgres.kek)
            return list(associations.list_all(connection, keyring))

    def count(self) -> tuple[int, int]:
        """Registrations and associations in the database."""
        with administration(self.postgres.conninfo(self.database_name)) as connection:
            return associations.count(connection)

    def installed_at(self, *agents: str) -> dict[int, dict[str, Any]]:
        """What these agents say they have installed, by SPI."""
        lines = [
            json.loads(line)
            for agent in agents
            for line in (self.folder / f"{agent}-installed.jsonl").read_text().splitlines()
        ]
        return {line["spi"]: line for line in lines}

    def key_client(
        self, home_agent: str, *kdcs: str, authority: str = "tls", deadline_s: float = 20.0
    ) -> RadsecClient:
        """A client with the certificate of a home agent, to ask as its process would."""
        folder = self.folder / authority
        files = TlsFiles(
            folder / f"{home_agent}.pem", folder / f"{home_agent}.key", folder / "ca.pem"
        )
        targets = [
            RadsecTarget(TlsPeer(name, frozenset({f"{name}.home.example"})), self.ports[name])
            for name in kdcs
        ]
        limits = ClientLimits(deadline_s=deadline_s, connect_s=10.0, backoff_maximum_s=1.0)
        return RadsecClient(targets, load_contexts(files), Counters(), limits=limits)


def _owner(name: str) -> str:
    return "ha1" if name == "ha1b" else name


def _program(name: str) -> tuple[str, str]:
    if name in KDCS:
        return "kdc", "serve"
    if name in ADDRESSES:
        return "aaa", "home-agent"
    return "aaa", "agent" if name in AGENT_SOURCES else name


def _home_agent_behind(name: str, server: str) -> str:
    return (
        f'\n[[home_agent]]\nname = "{name}"\naddress = "{ADDRESSES[name]}"\n'
        f'server = "{server}"\nsecret_file = "{name}.secret"\n'
    )


# --- nodes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """One registration that went well, and where."""

    agent: str
    answer: Registered


class Node:
    """A mobile node; each request has a socket of its own."""

    def __init__(self, enrolment: Enrolment, seed: int) -> None:
        self.state = MobileNodeState.enrolled(enrolment)
        self.visits: list[Visit] = []
        self._rng = random.Random(seed)

    @property
    def home_agent(self) -> IPv4Address:
        return self.state.enrolment.home_agent

    def request(
        self,
        heard: Heard,
        *,
        terms: MnTerms = TERMS,
        lifetime_s: int = 600,
        offers: tuple[PreparedOffer, ...] | None = None,
    ) -> Pending:
        """Step 1; the state is kept, as a node does before it sends."""
        if offers is None:
            offers = ()
            if lifetime_s:
                spi = next_spi(self.state)
                _, offers = Negotiation().offer(terms, spi=spi, entropy=os.urandom)
        self.state, pending = build_request(
            self.state,
            heard,
            lifetime_s=lifetime_s,
            now=time.time(),
            entropy=self._rng.randbytes,
            offers=offers,
        )
        return pending

    async def ask(
        self,
        split: SplitHome,
        agent: str,
        *,
        terms: MnTerms = TERMS,
        lifetime_s: int = 600,
        patience: Retransmission = PATIENCE,
        offers: tuple[PreparedOffer, ...] | None = None,
    ) -> Answer:
        """A request until something authentic answers it; raises `NoReply`."""
        pending = self.request(
            split.heard(agent), terms=terms, lifetime_s=lifetime_s, offers=offers
        )
        async with MobileIpSocket.open(split.ports[agent]) as link:
            self.state, answer = await exchange(
                link, self.state, pending, patience, terms=terms, vendor_id=DEFAULT_VENDOR_ID
            )
        return answer

    async def register(
        self,
        split: SplitHome,
        agent: str,
        *,
        terms: MnTerms = TERMS,
        patience: Retransmission = PATIENCE,
    ) -> Registered:
        """Registers, with a new request where the old one has grown too old; raises `NoReply`."""
        for _ in range(MAXIMUM_TRIES):
            answer = await self.ask(split, agent, terms=terms, patience=patience)
            if not (isinstance(answer, DeniedByHome) and answer.code == DENIED_IDENTIFICATION):
                break
        assert isinstance(answer, Registered), answer
        self.visits.append(Visit(agent, answer))
        return answer

    async def try_once(
        self, split: SplitHome, agent: str, *, terms: MnTerms = TERMS, within_s: float = 20
    ) -> int | None:
        """The code of the first answer to one request that is sent once, None without any."""
        pending = self.request(split.heard(agent), terms=terms)
        async with MobileIpSocket.open(split.ports[agent]) as link:
            link.send(pending.octets)
            octets = await link.receive(within_s)
        if octets is None:
            return None
        self.state, answer = accept_reply(self.state, pending, octets, now=time.time(), terms=terms)
        if isinstance(answer, Registered):
            self.visits.append(Visit(agent, answer))
            return 0
        assert isinstance(answer, DeniedByHome | HintFromFa)
        return answer.code


def check_agreement(
    visits: Iterable[Visit], split: SplitHome, stored: list[StoredAssociation]
) -> int:
    """Each key at exactly its two holders; returns how many keys there are, no two alike.

    KEY1 at node and home, KEY2 at agent and home, KEY3 and the SMM's at node and agent.
    """
    at_node = {
        item.spi: (visit.agent, item) for visit in visits for item in visit.answer.associations
    }
    agents = {
        agent for agent in AGENT_SOURCES if (split.folder / f"{agent}-installed.jsonl").exists()
    }
    at_agent = {agent: split.installed_at(agent) for agent in agents}
    keys: set[str] = set()
    for item in stored:
        node = at_node.pop(item.spi, None)
        holding = [agent for agent in agents if item.spi in at_agent[agent]]
        prints: list[str | None] = []
        if item.pair is not Pair.FA_HA:
            assert node is not None, "a row that no node knows of"
            prints.append(fingerprint_key(node[1].keys))
            assert (node[1].mode, node[1].derivation) == (item.mode, item.derivation)
            assert node[1].suites == item.suites
        else:
            assert node is None, "a node that knows KEY2"
        if item.pair is not Pair.MN_HA:
            assert len(holding) == 1 and (node is None or holding == [node[0]])
            prints.append(at_agent[holding[0]][item.spi]["fingerprint"])
        else:
            assert not holding, "an agent that knows KEY1"
        if item.pair in (Pair.MN_HA, Pair.FA_HA):
            prints.append(item.fingerprint)
        else:
            assert item.fingerprint is None, "home that keeps KEY3"
        assert len(prints) == 2 and prints[0] == prints[1] and prints[0] is not None
        assert prints[0] not in keys, "two keys are alike"
        keys.add(prints[0])
    assert not at_node, "a node holds a key without a row"
    return len(keys)
