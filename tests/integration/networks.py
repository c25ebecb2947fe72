"""The two networks of docs/networks.md: a namespace, a folder and a process for each party.

The configurations are the page's own.  Every process has the capabilities that the page names and
no other, though its user is root.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aaa.demo.configurations import write_secret
from kdc.store import associations, migrate
from kdc.store.associations import StoredAssociation
from kdc.store.database import administration
from tests.conftest import PostgresServer
from tests.integration.captures import Capture
from tests.integration.namespaces import Namespaces

PAGE: Final = Path(__file__).parents[2] / "docs" / "networks.md"
START_TIMEOUT_S: Final = 60.0
SUBSCRIBERS: Final = 10
ADDRESSES: Final = {
    "fa1": "198.51.100.1",
    "fa2": "198.51.100.17",
    "fa3": "203.0.113.1",
    "aaaf": "198.51.100.65",
    "aaah": "192.0.2.1",
    "ha": "192.0.2.2",
    "kdc": "192.0.2.3",
}
CABLES: Final = (
    ("fa1", "aaaf"), ("fa2", "aaaf"), ("aaaf", "aaah"), ("aaah", "ha"), ("fa3", "ha"),
    ("ha", "kdc"),
)  # fmt: skip
# By agent: the bridge that is its link, and the mobile node's address there.
CELLS: Final = {
    "fa1": ("cell1", "198.51.100.2/28"),
    "fa2": ("cell2", "198.51.100.18/28"),
    "fa3": ("cell3", "203.0.113.2/28"),
}
ROGUE: Final = "198.51.100.13"  # on the link of FA1
SHARED: Final = {
    "fa1": ("fa1", "aaaf"),
    "fa2": ("fa2", "aaaf"),
    "visited": ("aaaf", "aaah"),
    "ha1": ("aaah", "ha"),
    "fa3": ("fa3", "ha"),
}
AGENT: Final = ("net_raw", "net_bind_service")
NODE: Final = ("net_raw",)
PROGRAMS: Final = {  # what is started, what it says when it is ready, what it may
    # The socket of the tests' own PostgreSQL is another user's.
    "kdc": ("kdc", "serve", "kdc.toml", "listening", ("dac_override",)),
    "ha": ("aaa", "home-agent", "home-agent.toml", "listening", ()),
    "aaah": ("aaa", "home", "home.toml", "listening", ()),
    "aaaf": ("aaa", "foreign", "foreign.toml", "listening", ()),
    "fa1": ("aaa", "agent", "agent.toml", "listening", AGENT),
    "fa2": ("aaa", "agent", "agent.toml", "listening", AGENT),
    "fa3": ("aaa", "agent", "agent.toml", "listening", AGENT),
}
_NAMES_ON_THE_PAGE: Final = {
    "the mobile node": "mn", "FA1": "fa1", "FA3": "fa3", "AAAF": "aaaf", "AAAH": "aaah",
    "HA": "ha", "KDC": "kdc",
}  # fmt: skip
_BLOCK: Final = re.compile(
    r"^`(?P<file>[a-z-]+\.toml)` of (?P<party>the mobile node|[A-Z0-9]+)\b[^\n]*:\n\n"
    r"(?P<text>(?:    [^\n]*\n|\n)+)",
    re.MULTILINE,
)
Json = dict[str, Any]


def configurations() -> dict[str, tuple[str, str]]:
    """File name and text for each party, as the page has them."""
    found = {
        _NAMES_ON_THE_PAGE[block["party"]]: (
            block["file"],
            "".join(line.removeprefix("    ") for line in block["text"].splitlines(keepends=True)),
        )
        for block in _BLOCK.finditer(PAGE.read_text())
    }
    file, text = found["fa1"]
    found["fa2"] = file, text.replace("fa1", "fa2").replace(ADDRESSES["fa1"], ADDRESSES["fa2"])
    return found


def confined(capabilities: tuple[str, ...]) -> list[str]:
    """What a program is started by, so that it has these capabilities alone."""
    sets = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    return ["setpriv", "--bounding-set", sets, "--inh-caps", sets]


@dataclass
class Networks:
    """Both networks; what the tests learn of keys is collected in `secrets`."""

    machines: Namespaces
    folder: Path
    postgres: PostgresServer
    database_name: str
    processes: dict[str, subprocess.Popen[Any]] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    user: str = field(default_factory=lambda: f"wanderer-{secrets.token_hex(8)}-")
    enrolments: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    captures: dict[str, Capture] = field(default_factory=dict)

    # --- cables ---

    def wire(self) -> None:
        """All machines, and a route from each to its neighbours alone."""
        for name in ("mn", "rogue", "air", *ADDRESSES):
            self.machines.add(name)
            # What the kernel says by itself would be most of what is captured.
            self.sysctl(name, "net.ipv6.conf.all.disable_ipv6=1")
        for one, other in CABLES:
            a, b = ADDRESSES[one], ADDRESSES[other]
            self.machines.link(one, f"{a} peer {b}", other, f"{b} peer {a}")
        # The rogue may even send to the foreign AAA; it has no secret for that.
        aaaf = ADDRESSES["aaaf"]
        self.machines.link("rogue", f"{ROGUE} peer {aaaf}", "aaaf", f"{aaaf} peer {ROGUE}")
        for agent, (cell, _) in CELLS.items():
            self.machines.ip("air", "link", "add", "name", cell, "type", "bridge")
            self.machines.ip("air", "link", "set", "dev", cell, "up")
            self.plug(agent, f"{ADDRESSES[agent]}/28", "air0", cell)
        self.plug("rogue", f"{ROGUE}/28", "air0", "cell1")
        self.plug("mn", None, "radio0", "cell1")

    def plug(self, name: str, address: str | None, interface: str, cell: str) -> None:
        """A machine's interface on one of the links where nodes are."""
        self.machines.link(name, address, "air", None, a_interface=interface)
        self.machines.ip("air", "link", "set", "dev", f"to-{name}", "master", cell)

    def sysctl(self, name: str, setting: str) -> None:
        self.machines.run(name, "sysctl", "-q", "-w", setting)

    def move(self, agent: str) -> None:
        """The mobile node's link goes down and comes up where `agent` is."""
        cell, address = CELLS[agent]
        ip = self.machines.ip
        ip("air", "link", "set", "dev", "to-mn", "down")
        ip("mn", "address", "flush", "dev", "radio0")
        ip("air", "link", "set", "dev", "to-mn", "master", cell)
        ip("air", "link", "set", "dev", "to-mn", "up")
        self.machines.wait_for_carrier("mn", "radio0")
        ip("mn", "address", "add", address, "dev", "radio0")

    @contextmanager
    def alone_with_the_rogue(self) -> Iterator[None]:
        """Node and FA1 still reach the rogue beside them, and not each other."""
        self._isolate("on")
        try:
            yield
        finally:
            self._isolate("off")

    def _isolate(self, state: str) -> None:
        for name in ("fa1", "mn"):
            port = ("link", "set", "dev", f"to-{name}", "type", "bridge_slave")
            self.machines.ip("air", *port, "isolated", state)

    def is_reached(self, name: str, address: str) -> bool:
        """Whether the machine has a route there."""
        done = self.machines.run(name, "ip", "route", "get", address, check=False)
        return done.returncode == 0

    # --- files ---

    def configure(self) -> None:
        """A folder for each party, with the page's configuration, its secrets and certificates."""
        for name, (file, text) in configurations().items():
            (self.folder / name).mkdir(mode=0o700)
            (self.folder / name / file).write_text(text)
        self.edit(
            "kdc",
            "postgresql:///roamkey?host=/run/postgresql&user=roamkey",
            self.postgres.url(self.database_name),
        )
        shutil.copy(self.postgres.kek_file, self.folder / "kdc" / "kek")
        for name, parties in SHARED.items():
            write_secret(self.folder / parties[0] / f"{name}.secret")
            shutil.copy(
                self.folder / parties[0] / f"{name}.secret",
                self.folder / parties[1] / f"{name}.secret",
            )
        self.kdc("tls", "authority", "tls", "--name", "home.example")
        for name, party in (("kdc", "kdc"), ("ha1", "ha")):
            self.kdc("tls", "issue", "tls", name, "--san", f"{name}.home.example")
            for file in ("ca.pem", f"{name}.pem", f"{name}.key"):
                shutil.copy(self.folder / "tls" / file, self.folder / party / file)

    def edit(self, party: str, old: str, new: str) -> None:
        """Changes the configuration of a party."""
        path = self.folder / party / configurations()[party][0]
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def kdc(self, *arguments: str) -> str:
        """`kdc` on the KDC's machine, as its operator runs it."""
        with_folder = (sys.executable, "-m", "kdc", *arguments)
        return self.machines.run("kdc", *with_folder, cwd=self.folder).stdout

    def provision(self) -> None:
        """Subscribers with a name that is nowhere by chance; each is one `enrol` further on."""
        printed = self.kdc(
            "subscriber", "add", f"{self.user}@home.example", "--count", str(SUBSCRIBERS),
            "--config", "kdc/kdc.toml", "--json",
        )  # fmt: skip
        self.enrolments = printed.splitlines()

    def enrol(self) -> Node:
        """The device of the next subscriber."""
        text = self.enrolments.pop()
        enrolment = json.loads(text)
        folder = self.folder / enrolment["nai"].partition("@")[0]
        shutil.copytree(self.folder / "mn", folder)
        (folder / "enrolment.json").write_text(text)
        node = Node(self, folder, enrolment)
        self.nodes.append(node)
        return node

    def held(self, party: str) -> dict[int, Json]:
        """The associations in a party's file of keys, by SPI."""
        path = self.folder / party / "keys.json"
        if not path.exists():
            return {}
        return {item["spi"]: item for item in json.loads(path.read_text())["associations"]}

    def stored(self, node: Node | None = None) -> list[StoredAssociation]:
        """The rows of one subscriber or of all."""
        with administration(self.postgres.conninfo(self.database_name)) as connection:
            keyring = migrate.load_keyring(connection, self.postgres.kek)
            rows = list(associations.list_all(connection, keyring))
        return [row for row in rows if node is None or row.nai == node.enrolment["nai"]]

    # --- processes ---

    def start(self, name: str, *, party: str | None = None) -> None:
        """The program of `party`, by default of that name, on the machine; not ready yet."""
        package, command, config, _, capabilities = PROGRAMS[party or name]
        folder = self.folder / name
        with (folder / "log").open("ab") as log:
            self.processes[name] = self.machines.popen(
                name, *confined(capabilities),
                sys.executable, "-m", package, command, "--config", config,
                cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip

    def start_all(self) -> None:
        for name in PROGRAMS:
            self.start(name)
        for name in PROGRAMS:
            self.wait_for(name)

    def wait_for(self, name: str, *, party: str | None = None, times: int = 1) -> None:
        """Until the program has said for the so manyth time that it is ready."""
        until = time.monotonic() + START_TIMEOUT_S
        while self.log(name).count(PROGRAMS[party or name][3]) < times:
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < until, self.log(name)
            time.sleep(0.05)

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text()

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def stop_all(self) -> dict[str, int]:
        """The exit statuses."""
        names = list(self.processes)
        with ThreadPoolExecutor() as pool:
            return dict(zip(names, pool.map(self.stop, names), strict=True))


@dataclass
class Node:
    """One device; all of them have the one machine and interface."""

    networks: Networks
    folder: Path
    enrolment: Json

    def run(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`aaa mobile-node register` on the mobile node's machine."""
        return self.networks.machines.run(
            "mn", *confined(NODE),
            sys.executable, "-m", "aaa", "mobile-node", "register", "--config", "mobile-node.toml",
            *options,
            check=check, cwd=self.folder,
        )  # fmt: skip

    def register(self, *options: str) -> Json:
        """What it got; its keys are remembered as secrets."""
        answer: Json = json.loads(self.run("--json", "--show-keys", *options).stdout)
        for pair in ("mn_ha", "mn_fa"):
            self.networks.secrets[f"{pair} {answer[pair]['spi']}"] = bytes.fromhex(
                answer[pair]["keys"]
            )
        return answer

    def is_refused(self, *options: str) -> str:
        """Why it was not registered; it asks but once and waits three seconds."""
        path = self.folder / "mobile-node.toml"
        patient = path.read_text()
        hasty = "lifetime_s = 600\ntimeout_s = 3\nretries = 0\n"
        path.write_text(patient.replace("lifetime_s = 600\n", hasty))
        try:
            done = self.run(*options, check=False)
        finally:
            path.write_text(patient)
        assert done.returncode == 1 and not done.stdout, done.stdout
        return done.stderr

    @property
    def held(self) -> dict[int, Json]:
        """The associations in the node's file of keys, by SPI."""
        return self.networks.held(self.folder.name)

    @property
    def unspent(self) -> list[int]:
        """The SPIs that it has left."""
        state = json.loads((self.folder / "state.json").read_text())
        spis: list[int] = state["unspent"]
        return spis
