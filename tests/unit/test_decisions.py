"""Which identification a KDC commits, whatever a home agent says and whatever its ticket is."""

from __future__ import annotations

import dataclasses

import pytest

from kdc.decisions import FARTHEST_S, Impossible, check_decision
from kdc.model import Identification, Nai
from kdc.records import GrantDecision
from tests.unit.test_ticket import IDENTIFICATION, RECORD, decisions

HOME_AGENT = Nai.parse("ha1@home.example")
LOW = IDENTIFICATION.low


def deregistration(
    identification: Identification, last_seen: Identification | None
) -> GrantDecision:
    record = dataclasses.replace(RECORD, last_seen=last_seen)
    grant, *_ = decisions(record, identification=identification, clock=float(IDENTIFICATION.unix))
    verified = dataclasses.replace(grant.verified, lifetime_s=0)
    return dataclasses.replace(grant, verified=verified)


def check(identification: Identification, last_seen: Identification | None = None) -> None:
    decision = deregistration(identification, last_seen)
    check_decision(decision, home_agent_nai=HOME_AGENT, realm="home.example")


@pytest.mark.parametrize("seconds", [-FARTHEST_S, 0, FARTHEST_S])
def test_an_identification_of_about_now(seconds: int) -> None:
    check(Identification(IDENTIFICATION.second + seconds, LOW))


@pytest.mark.parametrize("seconds", [-86400, -FARTHEST_S - 1, FARTHEST_S + 1, 86400, 2**32])
def test_an_identification_of_another_time(seconds: int) -> None:
    with pytest.raises(Impossible, match="another time"):
        check(Identification(IDENTIFICATION.second + seconds, LOW))


@pytest.mark.parametrize("value", [Identification(0, 0), Identification(2**64 - 1, 0)])
def test_an_identification_of_no_time(value: Identification) -> None:
    with pytest.raises(Impossible, match="another time"):
        check(value)


def test_an_identification_that_is_not_greater() -> None:
    check(IDENTIFICATION, Identification(IDENTIFICATION.second, LOW - 1))
    for seen in (IDENTIFICATION, Identification(IDENTIFICATION.second + 1, 0)):
        with pytest.raises(Impossible, match="not greater"):
            check(IDENTIFICATION, seen)
