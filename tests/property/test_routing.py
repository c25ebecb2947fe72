"""Realms of any octets, and tables of any realms, beside a plain search."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aaa.radius.routing import RealmTable, routed_realm
from kdc.model import Nai

LABELS = st.sampled_from(["a", "b", "ab", "x-9", "é"])
REALMS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
SUFFIXES = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: "." + ".".join(labels))
PATTERNS = st.sets(REALMS | SUFFIXES | st.just("*"), max_size=12)


@given(
    st.binary(max_size=260) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
)
def test_whatever_comes_is_a_realm_or_is_not(name: bytes) -> None:
    realm = routed_realm(name)
    if realm is not None:
        assert Nai(name).realm == realm  # what the rest of the code takes it for


@given(REALMS, st.sampled_from([b"", b"user", b"a.b", "ü".encode()]))
def test_a_realm_that_is_well_formed_is_found(realm: str, user: bytes) -> None:
    assert routed_realm(user + b"@" + realm.encode()) == realm
    assert routed_realm(user + b"@" + realm.encode().upper()) == realm
    assert routed_realm(user + b"@" + realm.encode() + b".") is None
    assert routed_realm(user + b"@x@" + realm.encode()) is None


@given(PATTERNS, REALMS)
def test_the_table_beside_a_search_through_all_of_it(patterns: set[str], realm: str) -> None:
    table = RealmTable((pattern, f"pool of {pattern}") for pattern in patterns)
    fitting = [p for p in patterns if p.startswith(".") and realm.endswith(p)]
    expected = realm if realm in patterns else max(fitting, key=len, default=None)
    if expected is None and "*" in patterns:
        expected = "*"
    assert table.find(realm) == (None if expected is None else f"pool of {expected}")
