"""What is routed by: the syntax of RFC 7542, and the table of realms."""

from __future__ import annotations

import pytest

from aaa.radius.routing import RealmTable, parse_pattern, realm_of_request, routed_realm
from kdc.errors import LocalError


@pytest.mark.parametrize(
    ("name", "realm"),
    [
        # RFC 7542 §3.4, without one that its own grammar refuses, \\(user\\)@example.net
        (b"fred@example.com", "example.com"),
        (b"fred@foo-9.example.com", "foo-9.example.com"),
        (b"jack@3rd.depts.example.com", "3rd.depts.example.com"),
        (b"fred.smith@example.com", "example.com"),
        (b"fred_smith@example.com", "example.com"),
        (b"fred$@example.com", "example.com"),
        (b"fred=?#$&*+-/^smith@example.com", "example.com"),
        (b"eng%nancy@example.net", "example.net"),
        (b"nancy@eng.example.net", "eng.example.net"),
        (b"eng.example.net!nancy@example.net", "example.net"),
        (bytes.fromhex("626f6240ceb4cebfcebaceb9cebcceae2e636f6d"), "δοκιμή.com"),
        (b"alice@xn--tmonesimerkki-bfbb.example.net", "xn--tmonesimerkki-bfbb.example.net"),
        (b"@privatecorp.example.net", "privatecorp.example.net"),
        # and others
        ("a@例え.example".encode(), "例え.example"),
        ("@bücher.example".encode(), "bücher.example"),
        (b"@Home.EXAMPLE", "home.example"),
        ("@BÜCHER.example".encode(), "bÜcher.example"),  # ASCII letters alone are lowered
        (b"@" + b"a" * 247 + b".test", "a" * 247 + ".test"),  # 253 octets
    ],
)
def test_names_with_a_realm(name: bytes, realm: str) -> None:
    assert routed_realm(name) == realm


@pytest.mark.parametrize(
    "name",
    [
        # RFC 7542 §3.4: invalid
        b"fred@example",
        b"fred@example_9.com",
        b"fred@example.net@example.net",
        b"fred.@example.net",
        b"eng:nancy@example.net",
        b"eng;nancy@example.net",
        b"(user)@example.net",
        b"<nancy>@example.net",
        # nothing to route by
        b"",
        b"@",
        b"fred",
        b"fred@",
        b"fred@.example.com",
        b"fred@example.com.",
        b"fred@example..com",
        b"fred@-a.example",
        b"fred@a-.example",
        b"fred@exa mple.com",
        b"fr ed@example.com",
        b"@example.com\n",
        b"@example.com\x00",
        b"@\xc2\x85.example",  # a control of C1
        b"@\xff\xfe.example",
        b"@\xed\xa0\x80.example",  # a surrogate is no UTF-8
        b"@\xc1\x81.example",  # neither is a letter in two octets
        b"@" + b"a" * 248 + b".test",
    ],
)
def test_names_without(name: bytes) -> None:
    assert routed_realm(name) is None


def test_a_request_has_one_name_to_be_routed_by() -> None:
    assert realm_of_request(((80, bytes(16)), (1, b"@a.example"))) == "a.example"
    assert realm_of_request(((1, b"@a.example"), (1, b"@a.example"))) is None
    assert realm_of_request(((80, bytes(16)),)) is None


TABLE = RealmTable(
    [
        ("home.example", "exact"),
        (".Example", "suffix"),
        (".deep.example", "longer"),
        ("deep.example", "deep itself"),
        ("*", "default"),
    ]
)


@pytest.mark.parametrize(
    ("realm", "pool"),
    [
        ("home.example", "exact"),
        ("a.home.example", "suffix"),
        ("other.example", "suffix"),
        ("a.deep.example", "longer"),
        ("b.a.deep.example", "longer"),
        ("deep.example", "deep itself"),
        ("notdeep.example", "suffix"),
        ("example", "default"),
        ("an.other", "default"),
        ("example.com", "default"),
    ],
)
def test_the_exact_realm_then_the_longest_suffix_then_the_default(realm: str, pool: str) -> None:
    assert TABLE.find(realm) == pool


def test_without_a_default_nobody_serves_the_rest() -> None:
    table = RealmTable([(".example", "suffix")])
    assert table.find("example") is None
    assert table.find("example.net") is None
    assert RealmTable([]).find("home.example") is None


@pytest.mark.parametrize(
    "text",
    ["", ".", "**", "*.example", "home", "a..b", ".-a", "a b.example", "home.example ", "@a.b",
     "\ud800.example", "." + "a" * 253],
)  # fmt: skip
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_pattern(text)
    with pytest.raises(LocalError, match=r"^homes: expected a realm, such as home\.example, "):
        RealmTable([(text, "homes")])


def test_one_realm_has_one_pool() -> None:
    with pytest.raises(LocalError) as refused:
        RealmTable([("home.example", "one"), ("Home.Example", "two")])
    assert str(refused.value) == (
        "two: expected each realm in one pool: home.example is one's already"
    )
