"""Retransmissions get the same octets; memory is bounded."""

from __future__ import annotations

from aaa.radius.duplicates import DuplicateTable, RequestKey, Standing

KEY = RequestKey(("192.0.2.1", 1645), ("192.0.2.2", 1812), 1, 7)
FIRST, SECOND = bytes(16), bytes(15) + b"\x01"


def test_in_progress_then_the_same_octets_for_ten_seconds() -> None:
    table = DuplicateTable()
    assert table.on_request(KEY, FIRST, 0.0) is Standing.NEW
    assert table.on_request(KEY, FIRST, 50.0) is Standing.IN_PROGRESS
    assert table.answer(KEY, FIRST, b"answer", 100.0)
    assert table.on_request(KEY, FIRST, 109.9) == b"answer"
    assert table.on_request(KEY, FIRST, 110.0) is Standing.NEW


def test_each_part_of_the_key_makes_another_request() -> None:
    table = DuplicateTable()
    table.on_request(KEY, FIRST, 0.0)
    for other in (
        KEY._replace(peer=("192.0.2.1", 1646)),
        KEY._replace(peer=("192.0.2.9", 1645)),
        KEY._replace(endpoint=("192.0.2.2", 1813)),
        KEY._replace(code=12),
        KEY._replace(identifier=8),
    ):
        assert table.on_request(other, FIRST, 0.0) is Standing.NEW


def test_a_new_authenticator_abandons_the_old_request() -> None:
    table = DuplicateTable()
    table.on_request(KEY, FIRST, 0.0)
    assert table.on_request(KEY, SECOND, 1.0) is Standing.NEW
    assert not table.answer(KEY, FIRST, b"late", 2.0)
    assert table.answer(KEY, SECOND, b"answer", 2.0)
    assert table.on_request(KEY, FIRST, 3.0) is Standing.NEW  # and forgets the answer
    assert table.in_progress == len(table) == 1


def test_forgotten_requests_are_worked_on_anew() -> None:
    table = DuplicateTable()
    table.on_request(KEY, FIRST, 0.0)
    table.forget(KEY, SECOND)
    assert table.in_progress == 1
    table.forget(KEY, FIRST)
    assert table.on_request(KEY, FIRST, 0.0) is Standing.NEW


def test_the_oldest_answer_makes_room_and_work_in_progress_never_does() -> None:
    table = DuplicateTable(maximum_entries=3)
    keys = [KEY._replace(identifier=i) for i in range(5)]
    for key in keys[:3]:
        table.on_request(key, FIRST, 0.0)
    assert table.on_request(keys[3], FIRST, 0.0) is Standing.OVERLOAD
    table.answer(keys[1], FIRST, b"1", 1.0)
    table.answer(keys[0], FIRST, b"0", 2.0)
    assert table.on_request(keys[3], FIRST, 3.0) is Standing.NEW
    assert table.on_request(keys[0], FIRST, 3.0) == b"0"
    assert table.on_request(keys[4], FIRST, 3.0) is Standing.NEW
    assert len(table) == 3


def test_expiry_frees_memory() -> None:
    table = DuplicateTable()
    for identifier in range(256):
        key = KEY._replace(identifier=identifier)
        table.on_request(key, FIRST, 0.0)
        table.answer(key, FIRST, b"x", float(identifier) / 1000)
    assert len(table) == 256
    table.on_request(KEY._replace(code=12), FIRST, 11.0)
    assert len(table) == 1


def _key(client: int, number: int) -> RequestKey:
    """Any number of requests of a client: its ports times its identifiers."""
    source = (f"192.0.2.{client}", 1024 + number // 256)
    return KEY._replace(peer=source, identifier=number % 256)


def test_a_client_that_fills_the_table_with_answers_loses_its_own() -> None:
    table = DuplicateTable(maximum_entries=100)
    for number in range(3):
        table.on_request(_key(1, number), FIRST, 0.0, "modest")
        table.answer(_key(1, number), FIRST, b"modest", 0.0)
    for number in range(1000):
        assert table.on_request(_key(2, number), FIRST, 1.0, "greedy") is Standing.NEW
        table.answer(_key(2, number), FIRST, b"greedy", 1.0)
    assert len(table) == 100
    for number in range(3):
        assert table.on_request(_key(1, number), FIRST, 9.9, "modest") == b"modest"
    assert table.on_request(_key(2, 999), FIRST, 9.9, "greedy") == b"greedy"
    assert table.on_request(_key(2, 0), FIRST, 9.9, "greedy") is Standing.NEW


def test_a_client_that_fills_the_table_with_work_keeps_nobody_else_out() -> None:
    table = DuplicateTable(maximum_entries=100)
    standings = [table.on_request(_key(2, n), FIRST, 0.0, "greedy") for n in range(150)]
    assert standings.count(Standing.OVERLOAD) == 50
    for number in range(50):  # an even share
        assert table.on_request(_key(1, number), FIRST, 1.0, "modest") is Standing.NEW
    assert len(table) == table.in_progress == 100
    assert table.on_request(_key(2, 150), FIRST, 1.0, "greedy") is Standing.OVERLOAD
    assert not table.answer(_key(2, 0), FIRST, b"displaced", 2.0)
    assert table.answer(_key(2, 99), FIRST, b"kept", 2.0)
    assert all(table.answer(_key(1, n), FIRST, b"modest", 2.0) for n in range(50))


def test_what_is_in_progress_does_not_expire_and_answers_do_whoevers_they_are() -> None:
    table = DuplicateTable()
    table.on_request(_key(1, 0), FIRST, 0.0, "slow")
    for client in range(2, 50):
        table.on_request(_key(client, 0), FIRST, 0.0, f"client-{client}")
        table.answer(_key(client, 0), FIRST, b"x", 0.0)
    assert table.on_request(_key(1, 0), FIRST, 1e6, "slow") is Standing.IN_PROGRESS
    assert len(table) == len(table._holders) == 1  # nothing is kept of a client without requests


def test_an_abandoned_answer_makes_no_second_entry() -> None:
    table = DuplicateTable()
    for number in range(1000):
        authenticator = number.to_bytes(16, "big")
        assert table.on_request(KEY, authenticator, 0.0, "c") is Standing.NEW
        assert table.answer(KEY, authenticator, b"x", 0.0)
        table.forget(KEY, authenticator)  # an answer is not forgotten
        assert table.on_request(KEY, authenticator, 0.0, "c") == b"x"
    assert len(table) == 1 and table.in_progress == 0


def test_a_client_that_has_long_answers_kept_loses_its_own() -> None:
    table = DuplicateTable(maximum_octets=10_000)
    quiet = KEY._replace(peer=("192.0.2.9", 1645))
    table.on_request(quiet, FIRST, 0.0, "quiet")
    table.answer(quiet, FIRST, bytes(1000), 0.0)
    for number in range(256):
        key = KEY._replace(identifier=number)
        assert table.on_request(key, FIRST, 1.0, "long") is Standing.NEW
        assert table.answer(key, FIRST, bytes(4000), 1.0)
    assert len(table) == 3
    assert table.on_request(quiet, FIRST, 2.0, "quiet") == bytes(1000)
    assert table.on_request(KEY._replace(identifier=255), FIRST, 2.0, "long") == bytes(4000)
    assert table.on_request(KEY._replace(identifier=253), FIRST, 2.0, "long") is Standing.NEW
    # What has expired, or was abandoned, makes room for as much again.
    for number in range(2):
        key = KEY._replace(identifier=number)
        table.on_request(key, SECOND, 50.0, "long")
        table.answer(key, SECOND, bytes(4900), 50.0)
    assert table.on_request(KEY._replace(identifier=0), SECOND, 51.0, "long") == bytes(4900)
