"""Traffic keys: the vectors of 7.4, each pair's two parties, and what is never handed out."""

from __future__ import annotations

import pytest

from aaa.policy import SUITES
from kdc.crypto.key0 import derive_direction_key
from kdc.errors import LocalError
from kdc.keyuse.traffic import (
    ALGORITHM_NAMES,
    PARTIES,
    Party,
    Role,
    SuiteKeys,
    derive_traffic_keys,
    peer_of,
    role_of,
)
from kdc.model import KEY_OCTETS, Mode, Pair, Secret, SecurityAssociation, Suite
from tests.keyuse_stories import association, octets_of
from tests.vectors_loader import octets, vectors

# A suite key of 16 octets is HMAC-MD5's, which has no directions: tests/protocol holds the formula.
SUITE_OF_LENGTH = {36: Suite(3, 20), 32: Suite(2, 12)}
DIRECTION = [
    v
    for v in vectors("auth")
    if v["shows"] == "traffic key of one direction"
    and len(octets(v["in"]["suite_key"])) in SUITE_OF_LENGTH
]
CONFIRMATION = [v for v in vectors("auth") if "pair2_keys" in v["in"]]

SUITES_OF_LENGTH = {
    16: (Suite(1, 1),),
    36: (Suite(3, 20),),
    64: (Suite(1, 5), Suite(2, 12)),
    100: (Suite(3, 20), Suite(1, 7)),
}


def made(pair: Pair, suites: tuple[Suite, ...], keys: bytes) -> SecurityAssociation:
    return SecurityAssociation(pair, 256, 60, bytes(8), Mode.STATEFUL, 0, suites, Secret(keys))


def octets_in(keys: SuiteKeys) -> bytes:
    given = (keys.outbound, keys.inbound, keys.both)
    return b"".join(key.key.reveal() + key.salt.reveal() for key in given if key is not None)


@pytest.mark.parametrize("vector", DIRECTION, ids=lambda v: str(v["id"]))
def test_a_direction_has_the_key_of_the_vector(vector: dict[str, dict[str, str]]) -> None:
    suite_key, expected = octets(vector["in"]["suite_key"]), octets(vector["out"]["key"])
    suite = SUITE_OF_LENGTH[len(suite_key)]
    from_responder = bool(vector["in"]["d"])
    for holder in PARTIES[Pair.MN_HA]:
        (keys,) = derive_traffic_keys(made(Pair.MN_HA, (suite,), suite_key), holder)
        sends = (holder is Party.HOME_AGENT) == from_responder
        key = keys.outbound if sends else keys.inbound
        assert key is not None
        assert key.key.reveal() + key.salt.reveal() == expected
        assert len(key.salt) == (4 if suite.protocol_id == 3 else 0)


def test_the_vectors_have_both_kinds_of_suite_and_both_directions() -> None:
    seen = {(len(v["in"]["suite_key"]) // 2, v["in"]["d"]) for v in DIRECTION}
    assert seen >= {(36, 0), (36, 1), (32, 0), (32, 1)}


@pytest.mark.parametrize(
    ("pair", "initiator", "responder"),
    [
        (Pair.MN_HA, Party.MOBILE_NODE, Party.HOME_AGENT),
        (Pair.MN_FA, Party.MOBILE_NODE, Party.FOREIGN_AGENT),
        (Pair.FA_HA, Party.FOREIGN_AGENT, Party.HOME_AGENT),
        (Pair.MN_SMM, Party.MOBILE_NODE, Party.FOREIGN_AGENT),
    ],
)
def test_the_parties_are_those_of_section_1(pair: Pair, initiator: Party, responder: Party) -> None:
    assert role_of(pair, initiator) is Role.INITIATOR
    assert role_of(pair, responder) is Role.RESPONDER
    assert (peer_of(pair, initiator), peer_of(pair, responder)) == (responder, initiator)
    (third,) = set(Party) - {initiator, responder}
    with pytest.raises(LocalError, match="holds no association"):
        derive_traffic_keys(association(pair, 256), third)


@pytest.mark.parametrize("pair", Pair)
@pytest.mark.parametrize("suite", KEY_OCTETS)
def test_what_one_sends_with_the_other_receives_with(pair: Pair, suite: Suite) -> None:
    initiator, responder = (
        derive_traffic_keys(association(pair, 300, suites=(suite,)), party)[0]
        for party in PARTIES[pair]
    )
    assert initiator.outbound == responder.inbound
    assert initiator.inbound == responder.outbound
    assert initiator.both == responder.both
    given = [keys is not None for keys in (initiator.outbound, initiator.inbound, initiator.both)]
    if KEY_OCTETS[suite] == 0:
        assert given == [False, False, False]
    elif suite.protocol_id == 1:
        assert given == [False, False, True]
    else:
        assert given == [True, True, False]
        assert initiator.outbound != initiator.inbound


def test_suites_take_their_slices_in_their_order() -> None:
    suites = (Suite(3, 28), Suite(1, 7), Suite(2, 11), Suite(2, 3))
    keys = octets_of("slices", 36 + 64 + 0 + 24)
    aead, sha2, null, des = derive_traffic_keys(made(Pair.FA_HA, suites, keys), Party.FOREIGN_AGENT)
    assert octets_in(sha2) == keys[36:100]
    assert octets_in(null) == b""
    for found, key in ((aead, keys[:36]), (des, keys[100:])):
        expected = [derive_direction_key(Secret(key), from_responder=d) for d in (False, True)]
        assert octets_in(found) == b"".join(item.reveal() for item in expected)


@pytest.mark.parametrize("vector", CONFIRMATION, ids=lambda v: str(v["id"]))
def test_the_confirmation_key_is_in_nothing_that_is_handed_out(
    vector: dict[str, dict[str, str]],
) -> None:
    keys = octets(vector["in"]["pair2_keys"])
    suites = SUITES_OF_LENGTH[len(keys) - 32]
    for holder in PARTIES[Pair.MN_FA]:
        handed_out = b"|".join(
            octets_in(item) for item in derive_traffic_keys(made(Pair.MN_FA, suites, keys), holder)
        )
        assert len(handed_out) > 0
        assert keys[-32:] not in handed_out
        # Nor what the suites' own keys would give if the slices were one confirmation key off.
        off = [derive_direction_key(Secret(keys[-32:]), from_responder=d) for d in (False, True)]
        assert all(item.reveal() not in handed_out for item in off)


@pytest.mark.parametrize("change", [-1, 1, 32])
def test_keys_of_another_length_are_refused(change: int) -> None:
    with pytest.raises(LocalError, match="length of its suites"):
        derive_traffic_keys(made(Pair.MN_HA, (Suite(3, 20),), bytes(36 + change)), Party.HOME_AGENT)


def test_every_suite_has_a_name_and_the_configuration_uses_the_same() -> None:
    assert set(ALGORITHM_NAMES) == set(KEY_OCTETS)
    assert {name: ALGORITHM_NAMES[suite] for name, suite in SUITES.items()} == {
        name: name for name in SUITES
    }


def test_nothing_of_a_key_is_in_a_repr() -> None:
    keys = octets_of("repr", 36)
    shown = repr(derive_traffic_keys(made(Pair.MN_HA, (Suite(3, 20),), keys), Party.MOBILE_NODE))
    assert "<Secret of 32 octets>" in shown
    derived = derive_direction_key(Secret(keys), from_responder=False).reveal()
    for secret in (keys, derived[:32], derived[32:]):
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
