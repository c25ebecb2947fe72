"""What an eavesdropper may conclude from octets that two visits have in common."""

from __future__ import annotations

from aaa.demo.eavesdropper import linking_runs

_OTHERS = [bytes.fromhex("0102260000a1b2c3d4e5f60708"), bytes.fromhex("01022600009988776655440708")]


def test_a_number_of_four_octets_that_comes_again_links_two_visits() -> None:
    first = [bytes.fromhex("0102260000deadbeef5a0708")]
    second = [bytes.fromhex("0102260000deadbeefa50708")]
    assert linking_runs(first, second, _OTHERS)


def test_one_octet_between_fixed_ones_is_chance() -> None:
    others = [bytes.fromhex("01022600004200a1b2c3d4")]
    first = [bytes.fromhex("11c22600004200a07132aa")]
    second = [bytes.fromhex("22c22600004200317733bb")]
    assert not linking_runs(first, second, others)
