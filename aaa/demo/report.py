"""The tables of `aaa demo`: what was seen, with a tick or a cross beside what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from aaa.policy import SUITES
from kdc.model import Mode, Pair, Suite
from kdc.store.associations import StoredAssociation

_NAME_OF_SUITE: Final = {suite: name for name, suite in SUITES.items()}
_KEY_OF_PAIR: Final = {
    Pair.MN_HA: "KEY1",
    Pair.FA_HA: "KEY2",
    Pair.MN_FA: "KEY3",
    Pair.MN_SMM: "MN-SMM",
}
# Who may hold a key.  Home makes KEY3 in some modes, and keeps no copy of it in any.
_HOLDERS: Final = {
    Pair.MN_HA: ("mobile_node", "home"),
    Pair.FA_HA: ("foreign_agent", "home"),
    Pair.MN_FA: ("mobile_node", "foreign_agent"),
    Pair.MN_SMM: ("mobile_node", "foreign_agent"),
}


@dataclass(frozen=True, slots=True)
class Hop:
    """One datagram of a registration: how many octets, how long after the first one."""

    name: str
    octets: int
    at_ms: float


@dataclass(frozen=True, slots=True)
class Held:
    """One key's fingerprint at each party; `on_the_way`: the key was seen on some wire."""

    visit: str
    pair: Pair
    spi: int
    mode: Mode
    derivation: int
    suites: tuple[Suite, ...]
    mobile_node: str | None
    foreign_agent: str | None
    home: str | None
    on_the_way: bool

    def agrees(self, party: str) -> bool:
        """Whether the party holds the key if it may, and does not if it may not."""
        holders = [getattr(self, holder) for holder in _HOLDERS[self.pair]]
        own = getattr(self, party)
        if party not in _HOLDERS[self.pair]:
            return own is None
        return own is not None and set(holders) == {own}

    @property
    def right(self) -> bool:
        return not self.on_the_way and all(
            map(self.agrees, ("mobile_node", "foreign_agent", "home"))
        )


def name_suites(suites: Sequence[Suite]) -> str:
    return " + ".join(_NAME_OF_SUITE[suite] for suite in suites)


def show_hops(console: Console, title: str, hops: Sequence[Hop]) -> None:
    """One registration on the wire."""
    table = Table(title=title, title_justify="left")
    table.add_column("hop")
    table.add_column("octets", justify="right")
    table.add_column("at, ms", justify="right")
    table.add_column("since the last, ms", justify="right")
    before = 0.0
    for hop in hops:
        table.add_row(hop.name, str(hop.octets), f"{hop.at_ms:.2f}", f"{hop.at_ms - before:.2f}")
        before = hop.at_ms
    console.print(table)


def show_keys(console: Console, held: Sequence[Held]) -> None:
    """Each key as each party holds it, by fingerprint."""
    table = Table(title="who holds which key (fingerprints)", title_justify="left")
    for name in ("visit", "key", "SPI", "mode", "suites", "mobile node", "foreign agent", "home"):
        table.add_column(name)
    table.add_column("on a wire")
    for item in held:
        table.add_row(
            item.visit,
            _KEY_OF_PAIR[item.pair],
            f"{item.spi:08x}",
            f"{item.mode.name.lower()}/{item.derivation}",
            name_suites(item.suites),
            _cell(item.mobile_node, right=item.agrees("mobile_node")),
            _cell(item.foreign_agent, right=item.agrees("foreign_agent")),
            _cell(item.home, right=item.agrees("home")),
            _cell("seen" if item.on_the_way else None, right=not item.on_the_way),
        )
    console.print(table)


def _cell(fingerprint: str | None, *, right: bool) -> str:
    mark = "[green]✓[/green]" if right else "[red]✗[/red]"
    return f"{mark} {fingerprint or '-'}"


def show_rows(console: Console, stored: Sequence[StoredAssociation]) -> None:
    """The security associations as they stand in PostgreSQL."""
    table = Table(title="the SPI-indexed database", title_justify="left")
    for name in ("SPI", "pair", "subscriber", "foreign agent", "lifetime, s", "key name", "key"):
        table.add_column(name)
    for item in stored:
        table.add_row(
            f"{item.spi:08x}",
            item.pair.name,
            item.nai or "",
            item.fa_nai,
            str(item.lifetime_s),
            item.key_name,
            "sealed" if item.fingerprint else "not kept",
        )
    console.print(table)


def show_rounds(console: Console, rounds: Sequence[tuple[str, str]]) -> None:
    """A negotiation, request by request."""
    table = Table(title="a counter-proposal", title_justify="left")
    table.add_column("the node offers")
    table.add_column("home answers")
    for offered, answered in rounds:
        table.add_row(offered, answered)
    console.print(table)


def show_common(console: Console, common: Sequence[tuple[str, str]]) -> None:
    """What two visits of one node have in common on the air."""
    table = Table(title="what an eavesdropper at both agents sees again", title_justify="left")
    table.add_column("field")
    table.add_column("value")
    for name, value in common:
        table.add_row(name, value)
    console.print(table)


def show_verdicts(console: Console, verdicts: Sequence[tuple[str, bool]]) -> None:
    """What had to hold."""
    for text, right in verdicts:
        console.print(("[green]✓[/green] " if right else "[red]✗[/red] ") + text)
