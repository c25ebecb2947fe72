"""The storm itself: a small one passes, and it notices what it is there to notice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import pytest

from aaa.radius.packet import decode
from tests.fuzz.radius_mutation import storm_packet
from tests.fuzz.storm import Front, Plan, Storm
from tests.fuzz.storm_figures import GROWTH_BOUND_KB, Figures, GrowingLog, Unanswered, last_counters
from tests.integration.domains import Domains
from tests.vectors_loader import octets, vectors

PACKETS = 20_000


@pytest.mark.slow
def test_a_small_storm(domains: Domains) -> None:
    figures = {item.process: item for item in Storm(domains, Plan(PACKETS, seed=7)).run()}
    assert sum(item.mutated for item in figures.values()) == PACKETS
    for item in figures.values():
        assert item.tested > 0.9 * item.mutated, "more lost than tested"
        assert item.verified > item.mutated // 3, "the signature hides the decoders"
    home, kdc, foreign, agent, by_tls = (
        figures[name].counters for name in ("home", "kdc", "foreign", "agent", "home_tls")
    )
    # From the structure of a packet to the channel binding, something broke everywhere.
    for reason in ("radius.malformed", "radius.bad_authenticator", "home.refused.proxy_states"):
        assert home[reason] > 0, reason
    for denial in (131, 132, 134, 140):
        assert home[f"home.denials.{denial}"] > 0, denial
    assert kdc["kdc.malformed"] > 0 and kdc["kdc.admitted"] > 0
    assert by_tls["radius.accepts"] > 0 and by_tls["home.accounting.recorded"] > 0
    for reason in ("recorded", "dropped.malformed", "dropped.operator_realm"):
        assert home[f"home.accounting.{reason}"] > 0, reason
    for reason in ("nas", "realm", "malformed"):
        assert foreign[f"foreign.accounting.dropped.{reason}"] > 0, reason
    for reason in ("answered", "dropped.event_timestamp", "refused.agent", "refused.home_realm"):
        assert foreign[f"foreign.dynauth.{reason}"] > 0, reason
    for cause in (401, 402, 403, 404, 503):
        assert agent[f"dynamic_authorization.refused.{cause}"] > 0, cause
    assert agent["dynamic_authorization.stale"] > 0


class Murderous(Storm):
    """A storm under which the home breaks down after its first packets."""

    def burst(self, front: Front) -> None:
        super().burst(front)
        if front.target.process == "home":
            self._domains.processes["home"].kill()


def test_a_dead_process_is_noticed_and_its_packets_kept(domains: Domains, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    with pytest.raises(Unanswered, match=r"home.*seed 8, packet"):
        Murderous(domains, Plan(100_000, seed=8, keep=keep)).run()
    kept = {path.name for path in keep.iterdir()}
    assert "8-000000001-home" in kept


GOOD = Figures("home", 90, 100, 9, 10, 5, 100, {"radius.requests": 60, "radius.malformed": 45})


def test_figures() -> None:
    GOOD.judge()
    assert (GOOD.received, GOOD.tested, GOOD.verified) == (105, 85, 60)
    stream = dataclasses.replace(GOOD, stream=True, counters={"radius.malformed": 70})
    stream.judge()
    assert stream.tested == 51


def test_figures_behind_a_proxy_that_cannot_tell_its_sends() -> None:
    counters = {"radius.requests": 110, "radius.rejects_delayed": 40}
    behind = dataclasses.replace(GOOD, forwarded=0, counters=counters)
    for requests in (5, 15):
        explained = behind.forwarded_of(requests)
        assert explained.forwarded == 15
        explained.judge()
    for requests in (4, 16):  # each may have been sent three times, and was once
        with pytest.raises(Unanswered, match="do not explain 15"):
            behind.forwarded_of(requests)


def test_a_proxy_has_room_for_what_is_under_way() -> None:
    more = dataclasses.replace(GOOD, growth_kb=GROWTH_BOUND_KB + 1)
    dataclasses.replace(more, is_proxy=True).judge()
    with pytest.raises(Unanswered, match="memory grows"):
        more.judge()


@pytest.mark.parametrize(
    "wrong",
    [
        {"counters": {"radius.requests": 104}},  # one has gone without a word
        {"counters": {"radius.requests": 106}},
        {"counters": {"radius.requests": 106}, "stream": True},
        {"growth_kb": 10**6},
        {"growth_kb": 10**6, "is_proxy": True},
    ],
)
def test_wrong_figures_are_noticed(wrong: dict[str, object]) -> None:
    with pytest.raises(Unanswered, match="home"):
        dataclasses.replace(GOOD, **wrong).judge()  # type: ignore[arg-type]


def test_a_traceback_in_a_log_is_noticed() -> None:
    good = '{"event": "counters", "level": "info", "radius.requests": 3}'
    assert last_counters(good) == {"radius.requests": 3}
    with pytest.raises(Unanswered, match="Traceback"):
        last_counters("Traceback (most recent call last):\n" + good)


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "home.log"
    path.write_text('{"event": "listening"}\n{"event": "half')
    log = GrowingLog(path)
    log.check()
    path.write_text('{"event": "listening"}\n{"event": "half"}\n')
    log.check()
    with path.open("a") as opened:
        opened.write("Exception in callback\n")
    with pytest.raises(Unanswered, match="Exception in callback"):
        log.check()


def test_a_seed_makes_the_same_packets() -> None:
    bases = [decode(octets(v["out"]["access_request"])) for v in vectors("registration")]

    def made(seed: int) -> list[bytes]:
        return [storm_packet(Random(seed << 32 | n), bases, (1,), b"secret") for n in range(2000)]

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert {packet[0] for packet in made(1) if packet} > {1, 2, 3, 4, 5, 11, 12, 40, 43}
    lengths = {len(packet) for packet in made(1)}
    assert 0 in lengths and max(lengths) > 4096
