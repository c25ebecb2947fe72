"""A home that foreign AAA servers reach over TLS, as an operator runs it: a process, its files."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from aaa.demo.configurations import text_of
from aaa.net.advertisement import read_advertisement
from aaa.net.radsec_client import RadsecClient
from aaa.net.radsec_link import Watchdog
from aaa.net.radsec_upstream import ClientLimits, RadsecTarget
from aaa.net.tls import TlsContexts, load_contexts
from aaa.radius.counters import Counters
from aaa.radius.errors import NoAnswer
from aaa.radius.tls_peers import TlsPeer
from aaa.roles.mobile_node import Heard
from kdc.model import DEFAULT_VENDOR_ID
from tests.integration.domains import START_TIMEOUT_S, Domains
from tests.integration.split import free_tcp
from tests.unit.net.authority import Authority, Issued

HOME = "aaa.home.example"
VISITED = "aaa.visited.example"
OTHER = "aaa.other.example"
AGENT = "fa1.visited.example"
CLIENT = 'address = "127.0.0.1/32"\nsecret_file = "visited.secret"\n'


@dataclass
class TlsDomains(Domains):
    """Both domains with every RADIUS hop over TLS and none by UDP."""

    authority: Authority = field(init=False)

    def configure(self) -> None:
        super().configure()
        self.authority = Authority(self.folder)
        self.ports |= {"home": free_tcp(), "foreign": free_tcp()}
        for name, san in (("home", HOME), ("foreign", VISITED), ("agent", AGENT)):
            self.install(name, self.authority.issue(f"{name}-first", [san]))
        shutil.copy(self.authority.file, self.folder / "trust.pem")
        self.listen_by_tls("home.toml", "home")
        self.edit(
            "home.toml",
            CLIENT + 'realms = ["visited.example"]\n',
            f'san = ["{VISITED}"]\nrealms = ["visited.example"]\n'
            f'[[client]]\nname = "other"\nsan = ["{OTHER}"]\nrealms = ["other.example"]\n',
        )
        self.listen_by_tls("foreign.toml", "foreign")
        self.edit("foreign.toml", 'address = "127.0.0.1/32"\n', f'san = ["{AGENT}"]\n')
        self.edit("foreign.toml", 'secret_file = "fa1.secret"\n', "")
        self.ask_by_tls("foreign.toml", 'secret_file = "visited.secret"\n', HOME, "home")
        self.ask_by_tls("agent.toml", 'secret_file = "fa1.secret"\n', VISITED, "foreign")
        self.append("agent.toml", tls_section("agent"))

    def install(self, name: str, issued: Issued) -> None:
        """The certificate that a process shows from its next start or reload on."""
        shutil.copy(issued.certificate_file, self.folder / f"{name}.pem")
        shutil.copy(issued.key_file, self.folder / f"{name}.key")

    def append(self, file: str, text: str) -> None:
        with (self.folder / file).open("a") as opened:
            opened.write(text)

    def listen_by_tls(self, file: str, name: str) -> None:
        path = self.folder / file
        lines = path.read_text().splitlines(keepends=True)
        at = next(n for n, line in enumerate(lines) if line.startswith("listen = "))
        lines[at] = f'tls_listen = ["{text_of(self.ports[name])}"]\n'
        path.write_text("".join(lines))
        self.append(file, tls_section(name))

    def ask_by_tls(self, file: str, secret: str, san: str, server: str) -> None:
        self.edit(file, secret, f'san = ["{san}"]\n')
        path = self.folder / file
        key = "address" if file == "foreign.toml" else "server"
        lines = [
            f'{key} = "{text_of(self.ports[server])}"\n'
            if line.startswith(f'{key} = "127.0.0.1:')
            else line
            for line in path.read_text().splitlines(keepends=True)
        ]
        path.write_text("".join(lines))

    def contexts(self, issued: Issued, versions: tuple[str, ...] = ("1.0", "1.1")) -> TlsContexts:
        return load_contexts(self.authority.files(issued), versions)

    def client(
        self,
        contexts: TlsContexts,
        counters: Counters | None = None,
        *,
        deadline_s: float = 5.0,
        watchdog: Watchdog | None = None,
    ) -> RadsecClient:
        """One who asks the home."""
        target = RadsecTarget(TlsPeer("home", frozenset({HOME})), self.ports["home"])
        limits = ClientLimits(deadline_s=deadline_s, backoff_maximum_s=0.5)
        return RadsecClient(
            [target], contexts, counters or Counters(), limits=limits, watchdog=watchdog
        )

    async def start_all_over_tls(self) -> Heard:
        """Everything up and answering; returns what the agent advertises."""
        mine = self.authority
        await self.start_home(self.contexts(mine.issue("probe", [VISITED])))
        self.start("foreign")
        self.start("agent")
        advertisement = self.folder / "advertisement.json"
        until = time.monotonic() + START_TIMEOUT_S
        while not advertisement.exists() or "listening" not in self.log("foreign"):
            assert time.monotonic() < until, self.log("agent") + self.log("foreign")
            await asyncio.sleep(0.05)
        return read_advertisement(advertisement, DEFAULT_VENDOR_ID)

    async def start_home(self, contexts: TlsContexts) -> None:
        """Until it answers who shows what is in `contexts`."""
        self.start("home")
        await self.wait_for_home(contexts)

    async def wait_for_home(self, contexts: TlsContexts) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        client = self.client(contexts)
        try:
            while True:
                try:
                    response = await client.exchange(12, (), deadline_s=1)
                except NoAnswer:
                    assert self.processes["home"].poll() is None, self.log("home")
                    assert time.monotonic() < until, self.log("home")
                else:
                    assert response.code == 2
                    return
        finally:
            await client.close()

    async def reload(self, name: str) -> None:
        """SIGHUP, and until it has done what that asks for."""
        before = self.log(name).count("reloaded")
        self.processes[name].send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while self.log(name).count("reloaded") == before:
            assert time.monotonic() < until, self.log(name)
            await asyncio.sleep(0.02)


def tls_section(name: str) -> str:
    """Files of a process by its name, one trust for all."""
    own = f'certificate_file = "{name}.pem"\nkey_file = "{name}.key"\n'
    return f'\n[tls]\n{own}ca_file = "trust.pem"\n'


def crl_line(file: Path) -> str:
    return f'ca_file = "trust.pem"\ncrl_file = "{file.name}"\n'
