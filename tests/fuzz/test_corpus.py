"""Every seed, and seeded mutations of them, through each target; without atheris."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aaa.radius.accounting import AccountingRequest
from aaa.radius.dynauth import DynamicRequest
from aaa.radius.packet import Packet, decode
from kdc.wire.extensions import Extension
from kdc.wire.payloads import SaPayload
from tests.fuzz import extension, packet, payloads, radius_mutation, registration
from tests.fuzz.entry import CORPUS, Judge
from tests.fuzz.make_corpus import FOUND, corpus
from tests.fuzz.mutation import mutate

TARGETS: dict[str, ModuleType] = {
    "packet": packet,
    "registration": registration,
    "extension": extension,
    "payloads": payloads,
}
MUTATIONS = 4000
# A judge decodes a handful of times, and no decoder goes over its octets more than once: what one
# octet costs is bounded whatever they are.  Measured: at most 11 calls an octet, and 400 beside.
CALLS_AN_OCTET = 20
CALLS_BESIDE = 1000


def _seeds(target: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


def _mutations(target: str) -> Iterator[bytes]:
    rng = random.Random(f"{target} 1")
    seeds = list(_seeds(target).values())
    for _ in range(MUTATIONS):
        yield mutate(rng, rng.choice(seeds))


def _storm() -> Iterator[bytes]:
    """What tests.fuzz.storm sends, through the decoders alone."""
    rng = random.Random(2)
    secret = packet.SECRET.reveal()
    found = [decode(seed) for name, seed in _seeds("packet").items() if "access-req" in name]
    for _ in range(MUTATIONS):
        yield radius_mutation.storm_packet(rng, found, (1, 12), secret)


def _judge(target: str) -> Judge:
    judge: Judge = TARGETS[target].judge
    return judge


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: str(path.name))
def test_a_seed(path: Path) -> None:
    _judge(path.parent.name)(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_what_the_vectors_make(target: str) -> None:
    seeds = {name: seed for name, seed in _seeds(target).items() if not name.startswith(FOUND)}
    assert seeds == corpus()[target]
    assert len(seeds) > 50


@pytest.mark.parametrize("target", TARGETS)
def test_mutations(target: str) -> None:
    for octets in _mutations(target):
        _judge_or_tell(_judge(target), octets)


def test_packets_of_the_storm() -> None:
    for octets in _storm():
        _judge_or_tell(packet.judge, octets)


def _judge_or_tell(judge: Judge, octets: bytes) -> None:
    try:
        judge(octets)
    except BaseException as error:
        error.add_note(f"of {octets.hex()}")
        raise


@pytest.mark.parametrize("target", TARGETS)
def test_the_work_is_bounded_by_the_octets(target: str) -> None:
    """Counted, not timed: calls of functions do not depend on the machine."""
    inputs = [*_seeds(target).values(), *list(_mutations(target))[:1000]]
    if target == "packet":
        inputs += list(_storm())[:1000]
    for octets in inputs:
        calls = _count_calls(_judge(target), octets)
        assert calls <= CALLS_BESIDE + CALLS_AN_OCTET * len(octets), octets.hex()


def _count_calls(judge: Judge, octets: bytes) -> int:
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        judge(octets)
    finally:
        sys.setprofile(before)
    return calls


def _judge_all(target: str) -> None:
    for octets in _seeds(target).values():
        _judge(target)(octets)


def _drop_last(decoder: Callable[..., Any]) -> Callable[..., Any]:
    """A decoder that loses what stands last."""

    def broken(*given: Any, **options: Any) -> Any:
        decoded = decoder(*given, **options)
        if isinstance(decoded, SaPayload):
            return dataclasses.replace(decoded, proposals=decoded.proposals[:-1])
        if isinstance(decoded, Packet):
            return dataclasses.replace(decoded, attributes=decoded.attributes[:-1])
        if isinstance(decoded, Extension):
            return dataclasses.replace(decoded, info=decoded.info[:-1])
        if isinstance(decoded, AccountingRequest | DynamicRequest):
            return dataclasses.replace(decoded, spis=decoded.spis[:-1])
        decoded.part.extensions.popitem()
        return decoded

    return broken


def _confuse(decoder: Callable[..., Any]) -> Callable[..., Any]:
    """A decoder that lets an error of its own kind of bug out."""

    def broken(*given: Any, **options: Any) -> Any:
        raise IndexError

    return broken


@pytest.mark.parametrize("make_broken", [_drop_last, _confuse])
@pytest.mark.parametrize(
    ("target", "decoder"),
    [
        ("packet", "decode"),
        ("packet", "decode_accounting_request"),
        ("packet", "decode_dynamic_request"),
        ("registration", "decode_request"),
        ("extension", "read_extension"),
        ("payloads", "decode_sa_payload"),
    ],
)
def test_a_broken_decoder_is_found(
    target: str,
    decoder: str,
    make_broken: Callable[[Callable[..., Any]], Callable[..., Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = TARGETS[target]
    monkeypatch.setattr(module, decoder, make_broken(getattr(module, decoder)))
    with pytest.raises((AssertionError, IndexError)):
        _judge_all(target)
