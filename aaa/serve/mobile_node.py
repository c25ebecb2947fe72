"""The mobile node as a process: registers once, keeps its state in a file, prints what it got."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from aaa.config import MobileNodeConfig, MobileNodeSection
from aaa.net.advertisement import read_advertisement
from aaa.net.files import write_atomically
from aaa.net.mobile_ip import MobileIpSocket, resolve
from aaa.net.udp import Address
from aaa.radius.counters import Counters
from aaa.roles.mobile_node import (
    Answer,
    DeniedByHome,
    Deregistered,
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
from aaa.serve.hearing import hear
from aaa.serve.key_outlet import SaOutlet
from aaa.serve.process import split_address
from kdc.crypto.dh import verify_user_group
from kdc.crypto.key0 import fingerprint_key
from kdc.errors import DENIED_IDENTIFICATION, LocalError, RemoteError
from kdc.keyuse.table import Endpoint, Grant
from kdc.keyuse.traffic import Party
from kdc.model import (
    DEFAULT_VENDOR_ID,
    Enrolment,
    Identification,
    Nai,
    Secret,
    SecurityAssociation,
)
from kdc.negotiation import PreparedOffer, Standing
from kdc.wire.numbers import LAYER2_ETHERNET, MOBILE_IP_PORT, Kind

MAXIMUM_TRIES: Final = 3  # new requests after a 133
_ENROLMENT_KEYS: Final = {"nai", "key0", "spis", "home_agent", "home_agent_nai", "realm"}


@dataclass(frozen=True, slots=True)
class Retransmission:
    """How long one request is tried: RFC 5944 §3.6.3 asks for at least one second between."""

    timeout_s: float = 2.0
    retries: int = 3


class NoReply(LocalError):
    """No acceptable reply came; `hint` is the code of an unauthenticated denial, if one did."""

    def __init__(self, hint: int | None) -> None:
        self.hint = hint
        text = "no reply from the home domain came through the foreign agent"
        if hint is not None:
            text += f"; the foreign agent itself said {hint} (unauthenticated)"
        super().__init__(text)


class StateFile:
    """The node's state between requests, stored before each one is sent (PROTOCOL 5.4)."""

    def __init__(self, path: Path, enrolment: Enrolment) -> None:
        self._path = path
        self._enrolment = enrolment

    def load(self) -> MobileNodeState:
        """The stored state, or that of a freshly enrolled node.  Raises `LocalError`."""
        try:
            content = json.loads(self._path.read_text())
        except FileNotFoundError:
            return MobileNodeState.enrolled(self._enrolment)
        except (OSError, ValueError):
            raise LocalError(f"{self._path}: expected the state of a mobile node") from None
        if not isinstance(content, dict) or content.get("nai") != str(self._enrolment.nai):
            raise LocalError(f"{self._path}: expected the state of {self._enrolment.nai}")
        try:
            return MobileNodeState(
                self._enrolment,
                tuple(content["unspent"]),
                content["spent"],
                _identification(content["last"]),
                _identification(content["answered"]),
                content["offset_s"],
            )
        except (KeyError, TypeError):
            raise LocalError(f"{self._path}: expected the state of a mobile node") from None

    def store(self, state: MobileNodeState) -> None:
        content = {
            "nai": str(state.enrolment.nai),
            "unspent": state.unspent,
            "spent": state.spent,
            "last": state.last and [state.last.second, state.last.low],
            "answered": state.answered and [state.answered.second, state.answered.low],
            "offset_s": state.offset_s,
        }
        write_atomically(self._path, json.dumps(content) + "\n")


def _identification(stored: list[int] | None) -> Identification | None:
    return Identification(*stored) if stored else None


def parse_enrolment(content: dict[str, Any]) -> Enrolment:
    """The object that `kdc subscriber add --json` prints; raises `LocalError`."""
    if set(content) != _ENROLMENT_KEYS:
        raise LocalError(f"an enrolment has exactly the keys {', '.join(sorted(_ENROLMENT_KEYS))}")
    try:
        return Enrolment(
            Nai.parse(content["nai"]),
            Secret(bytes.fromhex(content["key0"])),
            tuple(int(spi) for spi in content["spis"]),
            IPv4Address(content["home_agent"]),
            Nai.parse(content["home_agent_nai"]),
            content["realm"],
        )
    except (ValueError, TypeError, RemoteError):
        raise LocalError("expected the enrolment of `kdc subscriber add --json`") from None


async def exchange(
    link: MobileIpSocket,
    state: MobileNodeState,
    pending: Pending,
    retransmission: Retransmission,
    *,
    terms: MnTerms,
    vendor_id: int,
) -> tuple[MobileNodeState, Answer]:
    """Sends a request until something authentic answers it.

    Raises `NoReply`.  What is refused, and the hints of an FA, leave the request outstanding.
    """
    hint: int | None = None
    for _ in range(retransmission.retries + 1):
        link.send(pending.octets)
        until = time.monotonic() + retransmission.timeout_s
        while (left := until - time.monotonic()) > 0:
            octets = await link.receive(left)
            if octets is None:
                break
            try:
                after, answer = accept_reply(
                    state, pending, octets, now=time.time(), terms=terms, vendor_id=vendor_id
                )
            except RemoteError:
                continue
            if not isinstance(answer, HintFromFa):
                return after, answer
            hint = answer.code
    raise NoReply(hint)


async def register_once(  # noqa: PLR0913 - those of build_request
    link: MobileIpSocket,
    file: StateFile,
    heard: Heard,
    *,
    lifetime_s: int,
    retransmission: Retransmission,
    terms: MnTerms | None = None,
    layer2: tuple[Kind, bytes] | None = None,
    vendor_id: int = DEFAULT_VENDOR_ID,
) -> Answer:
    """Steps 1, 2 and 12 with the state stored around them, until something final is answered.

    A 133 is tried again with the home's time, a 129 with another offer (PROTOCOL section 6).
    Raises `NoReply` and `LocalError`.
    """
    terms = terms if terms is not None else MnTerms()
    negotiation, stale = Negotiation(), 0
    while True:
        before = file.load()
        offers: tuple[PreparedOffer, ...] = ()
        if lifetime_s:
            negotiation, offers = negotiation.offer(terms, spi=next_spi(before), entropy=os.urandom)
        state, pending = build_request(
            before,
            heard,
            lifetime_s=lifetime_s,
            now=time.time(),
            entropy=os.urandom,
            layer2=layer2,
            offers=offers,
            vendor_id=vendor_id,
        )
        file.store(state)
        state, answer = await exchange(
            link, state, pending, retransmission, terms=terms, vendor_id=vendor_id
        )
        file.store(state)
        if not isinstance(answer, DeniedByHome):
            return answer
        if answer.code == DENIED_IDENTIFICATION:
            stale += 1
            negotiation = negotiation.stale() if lifetime_s else negotiation
            again = stale < MAXIMUM_TRIES
        else:
            negotiation = _refused(negotiation, terms, offers, answer)
            again = negotiation.standing is Standing.READY and bool(offers)
        if not again:
            return answer


def _refused(
    negotiation: Negotiation,
    terms: MnTerms,
    offers: tuple[PreparedOffer, ...],
    answer: DeniedByHome,
) -> Negotiation:
    """The negotiation after a denial, failed where there is nothing more to offer."""
    if not answer.is_negotiable or not offers:
        return negotiation.exhausted()
    after = negotiation.refused(offers, answer.counter_proposals, answer.failed_pair)
    if after.standing is Standing.READY and not after.can_offer(terms):
        return after.exhausted()
    return after


async def register(
    config: MobileNodeConfig,
    *,
    lifetime_s: int | None = None,
    advertisement: Path | None = None,
) -> Answer:
    """One registration (`lifetime_s` 0: deregistration) as the configuration says."""
    node = config.mobile_node
    try:
        enrolment = parse_enrolment(json.loads(node.enrolment_file.read_text()))
    except (OSError, ValueError):
        raise LocalError(f"{node.enrolment_file}: expected one JSON object") from None
    layer2 = None
    if node.link_address is not None:
        layer2 = (LAYER2_ETHERNET, bytes.fromhex(node.link_address.replace(":", "")))
    heard, address, longest_s = await find_agent(node, advertisement)
    wanted_s = node.lifetime_s if lifetime_s is None else lifetime_s
    terms = verified_terms(config.negotiation.build_terms())
    outlet = SaOutlet(config.keys, Party.MOBILE_NODE, Counters())
    outlet.open()
    try:
        async with MobileIpSocket.open(address) as link:
            answer = await register_once(
                link,
                StateFile(node.state_file, enrolment),
                heard,
                lifetime_s=min(wanted_s, longest_s),
                retransmission=Retransmission(node.timeout_s, node.retries),
                terms=terms,
                layer2=layer2,
                vendor_id=node.vendor_id,
            )
        hand_on(outlet, enrolment, heard, answer)
    finally:
        await outlet.close()
    return answer


def verified_terms(terms: MnTerms) -> MnTerms:
    """The terms, once a group of the user's own is known to be sound (PROTOCOL 7.3).

    Raises `LocalError`; it may take a second.
    """
    for plan in terms.plans.values():
        if plan.user_group is not None:
            try:
                verify_user_group(plan.user_group, os.urandom)
            except RemoteError as error:
                raise LocalError(f"user_group: expected a safe prime: {error}") from None
    return terms


def hand_on(outlet: SaOutlet, enrolment: Enrolment, heard: Heard, answer: Answer) -> None:
    """KEY1, KEY3 and the SMM's for other software; a node has one binding, its home."""
    binding = str(enrolment.home_agent)
    if isinstance(answer, Registered):
        agent = heard.announcement.nai
        endpoints = {
            Party.MOBILE_NODE: Endpoint(enrolment.nai, answer.home_address),
            Party.FOREIGN_AGENT: Endpoint(agent, heard.care_of_address),
            Party.HOME_AGENT: Endpoint(enrolment.home_agent_nai, enrolment.home_agent),
        }
        outlet.installed(Grant(binding, answer.associations, endpoints, answer.alias))
    elif isinstance(answer, Deregistered):
        outlet.deregistered(binding)


async def find_agent(
    node: MobileNodeSection, advertisement: Path | None
) -> tuple[Heard, Address, int]:
    """Step 1: what is advertised, where requests go, and the longest lifetime that is taken.

    `advertisement` is a file in the place of what the configuration names.  Raises `LocalError`.
    """
    override = resolve(*split_address(node.foreign_agent)) if node.foreign_agent else None
    file = advertisement if advertisement is not None else node.advertisement_file
    if file is not None:
        heard = read_advertisement(file, node.vendor_id)
        return heard, override or (str(heard.fa_address), MOBILE_IP_PORT), node.lifetime_s
    assert node.interface is not None  # the configuration has one of the two
    agent = await hear(node.interface, node.hearing_s, vendor_id=node.vendor_id)
    return agent.heard, override or agent.address, agent.registration_lifetime_s


def describe(answer: Answer, *, show_keys: bool) -> dict[str, Any]:
    """What a registration brought, for people and programs; keys only where they are asked for."""
    if isinstance(answer, DeniedByHome):
        return {"code": answer.code, "notify": answer.notify_type, "detail": answer.detail}
    if isinstance(answer, HintFromFa):
        return {"code": answer.code, "authenticated": False}
    if isinstance(answer, Deregistered):
        return {"code": 0, "lifetime_s": 0}
    return {
        "code": 0,
        "lifetime_s": answer.lifetime_s,
        "home_address": str(answer.home_address),
        "alias": str(answer.alias),
    } | {
        item.pair.name.lower(): _describe_association(item, show_keys=show_keys)
        for item in answer.associations
    }


def _describe_association(item: SecurityAssociation, *, show_keys: bool) -> dict[str, Any]:
    content = {
        "spi": item.spi,
        "lifetime_s": item.lifetime_s,
        "key_name": item.key_name.hex(),
        "mode": item.mode.name.lower(),
        "derivation": item.derivation,
        "suites": [[suite.protocol_id, suite.transform_id] for suite in item.suites],
        "fingerprint": fingerprint_key(item.keys),
    }
    if show_keys:
        content["keys"] = item.keys.reveal().hex()
    return content
