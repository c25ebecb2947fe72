"""The acts of the demo: visits of several nodes in every key mode, and what may not work.

Nodes are played in this process, over real sockets; everybody else is a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console

from aaa.demo.eavesdropper import ROUTING, common_fields, linking_runs
from aaa.demo.report import (
    Held,
    Hop,
    show_common,
    show_hops,
    show_keys,
    show_rounds,
    show_rows,
    show_verdicts,
)
from aaa.demo.stage import Stage
from aaa.net.advertisement import read_advertisement
from aaa.net.mobile_ip import MobileIpSocket
from aaa.policy import NodeNegotiation, Offer
from aaa.roles.mobile_node import Registered
from aaa.serve.mobile_node import Retransmission, StateFile, parse_enrolment, register_once
from kdc.config import load_kdc
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import LocalError
from kdc.model import DEFAULT_VENDOR_ID, Enrolment, Mode
from kdc.store import associations, migrate
from kdc.store.associations import StoredAssociation
from kdc.store.database import administration, database
from kdc.store.roots import configured_roots
from kdc.wire.registration import decode_request

NODES: Final = 5
_PATIENCE: Final = Retransmission(timeout_s=5, retries=2)
_STATEFUL: Final = NodeNegotiation()  # pair 1 with forward secrecy
_SEMISTATEFUL: Final = NodeNegotiation(
    offer_mn_ha=Offer(mode="semi-stateful"),
    offer_mn_fa=Offer(mode="semi-stateful"),
    offer_mn_smm=Offer(mode="semi-stateful"),
)
_STATELESS: Final = NodeNegotiation(
    offer_mn_ha=Offer(mode="stateless", groups=("x25519",)),
    offer_mn_fa=Offer(mode="stateless", groups=("x25519",)),
)
_STUBBORN: Final = NodeNegotiation(
    preferred=(("hmac-sha2-256", "aes-256-cbc"), ("aes-256-gcm",)),
    offer_mn_ha=Offer(groups=("x25519",)),
)
_WIRES: Final = {  # outward, and back in the other order
    "fa1": ("air1", "fa1_to_foreign", "to_home", "to_ha1"),
    "fa2": ("air2", "fa2_to_foreign", "to_home", "to_ha1"),
    "fa3": ("air3", "fa3_to_ha1"),
}
_ENDS: Final = {
    "air1": ("mobile node", "foreign agent"),
    "air2": ("mobile node", "foreign agent"),
    "air3": ("mobile node", "foreign agent"),
    "fa1_to_foreign": ("foreign agent", "foreign AAA"),
    "fa2_to_foreign": ("foreign agent", "foreign AAA"),
    "fa3_to_ha1": ("foreign agent", "home agent"),
    "to_home": ("foreign AAA", "home AAA"),
    "to_ha1": ("home AAA", "home agent"),
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One registration that went well."""

    name: str
    node: int
    agent: str
    answer: Registered
    air: tuple[bytes, ...]  # what was on the air for it
    hops: tuple[Hop, ...]


@dataclass
class Play:
    """One performance on a stage."""

    stage: Stage
    console: Console
    enrolments: list[Enrolment] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    verdicts: list[tuple[str, bool]] = field(default_factory=list)

    async def perform(self) -> bool:
        """Whether everything held."""
        self.console.print(f"[dim]folder {self.stage.folder}[/dim]")
        with self.console.status(
            "starting PostgreSQL, KDC, home agent, home and foreign AAA, agents"
        ):
            await self.stage.set_up()
            printed = await self.stage.run_tool(
                "subscriber", "add", "mn@home.example", "--count", str(NODES), "--json",
                "--config", "kdc.toml",
            )  # fmt: skip
        self.enrolments = [parse_enrolment(json.loads(line)) for line in printed.splitlines()]
        await self._visits()
        stored = self._stored()
        held = [item for visit in self.visits for item in self._held(visit, stored)]
        show_keys(self.console, held)
        show_rows(self.console, stored)
        self._judge(held, stored)
        await self._attack(len(stored))
        statuses = await self.stage.stop()
        self._expect("every process drained and ended with 0", set(statuses) == {0})
        show_verdicts(self.console, self.verdicts)
        return all(right for _, right in self.verdicts)

    def _expect(self, text: str, right: bool) -> None:
        self.verdicts.append((text, right))

    # --- visits ---

    async def _visits(self) -> None:
        """All three modes, a counter-proposal, a handoff, and both networks."""
        first = await self._visit(1, "fa1", _STATEFUL, "node 1 at agent 1")
        show_hops(self.console, "with AAA servers: node 1 registers at agent 1", first.hops)
        await self._visit(2, "fa1", _SEMISTATEFUL, "node 2 at agent 1")
        await self._visit(3, "fa1", _STATELESS, "node 3 at agent 1")
        await self._visit(4, "fa2", _STUBBORN, "node 4 at agent 2")
        self._show_counter_proposal()
        await self._visit(1, "fa2", _STATEFUL, "node 1 at agent 2")
        direct = await self._visit(5, "fa3", _STATEFUL, "node 5 at agent 3")
        show_hops(self.console, "without AAA servers: node 5 registers at agent 3", direct.hops)

    async def _visit(self, node: int, agent: str, negotiation: NodeNegotiation, name: str) -> Visit:
        enrolment = self.enrolments[node - 1]
        file = StateFile(self.stage.folder / f"{enrolment.nai.user}.state", enrolment)
        heard = read_advertisement(
            self.stage.folder / f"{agent}-advertisement.json", DEFAULT_VENDOR_ID
        )
        wires = _WIRES[agent]
        since = {wire: len(self.stage.taps[wire].seen) for wire in wires}
        async with MobileIpSocket.open(self.stage.taps[wires[0]].address) as link:
            answer = await register_once(
                link, file, heard,
                lifetime_s=600, retransmission=_PATIENCE, terms=negotiation.build_terms(),
            )  # fmt: skip
        if not isinstance(answer, Registered):
            raise LocalError(f"{name}: not registered: {answer}")
        seen = self.stage.taps[wires[0]].seen[since[wires[0]] :]
        visit = Visit(
            name, node, agent, answer, tuple(o for _, _, o in seen), self._hops(wires, since)
        )
        self.visits.append(visit)
        return visit

    def _hops(self, wires: tuple[str, ...], since: Mapping[str, int]) -> tuple[Hop, ...]:
        """The datagrams of a registration in the order of the cycle, each with its time."""
        events = []
        for position, wire in enumerate(wires):
            for at, outward, octets in self.stage.taps[wire].seen[since[wire] :]:
                here, there = _ENDS[wire]
                name = f"{here} -> {there}" if outward else f"{there} -> {here}"
                order = position if outward else 2 * len(wires) - 1 - position
                events.append((order, at, len(octets), name))
        events.sort()
        first = events[0][1]
        return tuple(Hop(name, size, (at - first) * 1000) for _, at, size, name in events)

    def _show_counter_proposal(self) -> None:
        """Node 4 was denied once, took what home proposed, and was registered."""
        air = self.visits[-1].air
        requests = [octets for octets in air if octets[0] == 1]
        codes = [octets[1] for octets in air if octets[0] == 3]
        rounds = []
        for request, code in zip(requests, codes, strict=True):
            payload = next(
                iter(decode_request(request, DEFAULT_VENDOR_ID).part.sa_payloads.values())
            )
            suites = " + ".join(
                f"{p.protocol_id}/{p.transforms[0].transform_id}" for p in payload.payload.proposals
            )
            rounds.append((f"proposal {payload.payload.proposals[0].number}: {suites}", str(code)))
        show_rounds(self.console, rounds)
        self._expect("a counter-proposal was denied with 129, taken, and agreed", codes == [129, 0])

    # --- what came of it ---

    def _stored(self) -> list[StoredAssociation]:
        settings = load_kdc(self.stage.folder / "kdc.toml").database
        with database(settings) as conninfo, administration(conninfo) as connection:
            keyring = migrate.load_keyring(connection, configured_roots(settings))
            return list(associations.list_all(connection, keyring))

    def _held(self, visit: Visit, stored: list[StoredAssociation]) -> list[Held]:
        """Each key of a visit as each party holds it."""
        lines = (self.stage.folder / f"{visit.agent}-installed.jsonl").read_text().splitlines()
        at_agent: dict[int, dict[str, Any]] = {item["spi"]: item for item in map(json.loads, lines)}
        at_home = {item.spi: item for item in stored}
        own = {item.spi: item for item in visit.answer.associations}
        class_id = at_home[visit.answer.mn_ha.spi].class_id
        wires = b"".join(o for tap in self.stage.taps.values() for _, _, o in tap.seen)
        held = []
        for item in (item for item in stored if item.class_id == class_id):
            mine, theirs = own.get(item.spi), at_agent.get(item.spi)
            held.append(
                Held(
                    visit.name,
                    item.pair,
                    item.spi,
                    item.mode,
                    item.derivation,
                    item.suites,
                    mobile_node=fingerprint_key(mine.keys) if mine else None,
                    foreign_agent=theirs["fingerprint"] if theirs else None,
                    home=item.fingerprint,
                    on_the_way=any(
                        keys is not None and keys.reveal()[:16] in wires
                        for keys in (item.keys, mine.keys if mine else None)
                    ),
                )
            )
        return held

    def _judge(self, held: list[Held], stored: list[StoredAssociation]) -> None:
        self._expect("every key is held by exactly its two holders", all(i.right for i in held))
        self._expect("all three key modes were used", {item.mode for item in held} == set(Mode))
        self._expect(
            "every association is in the database, and nothing else", len(held) == len(stored)
        )
        before, after = (v for v in self.visits if v.node == 1)
        old = {item.keys.reveal() for item in before.answer.associations}
        new = {item.keys.reveal() for item in after.answer.associations}
        self._expect("a handoff to the second agent made new keys", old.isdisjoint(new))
        self._expect(
            "both networks: a registration without any AAA server",
            any(visit.agent == "fa3" for visit in self.visits),
        )
        self._eavesdrop(before, after)

    def _eavesdrop(self, before: Visit, after: Visit) -> None:
        others = [octets for visit in self.visits if visit.node != 1 for octets in visit.air]
        common = common_fields(before.air[0], after.air[0], DEFAULT_VENDOR_ID)
        show_common(self.console, common)
        self._expect(
            "an eavesdropper at both agents sees nothing in common but routing",
            {name for name, _ in common} <= ROUTING
            and not linking_runs(before.air, after.air, others),
        )

    async def _attack(self, rows: int) -> None:
        """A tampered request and a replay: refused, and nothing more in the database."""
        recorded = self.visits[0].air[0]
        tampered = bytearray(recorded)
        tampered[len(tampered) // 2] ^= 1
        async with MobileIpSocket.open(self.stage.taps["air1"].address) as link:
            for name, octets in (("tampered request", bytes(tampered)), ("replay", recorded)):
                link.send(octets)
                answer = await link.receive(10)
                refused = answer is not None and answer[:2] == bytes((3, 67))
                self._expect(f"a {name} is refused (67 from the foreign agent)", refused)
        self._expect("neither has left a row in the database", len(self._stored()) == rows)
