"""Which pool of servers a name is for: the syntax of what is routed by, and the table of realms.

Which server of the pool gets a request is aaa.radius.pools' affair, who may assert what a role's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from aaa.radius.attributes import USER_NAME
from aaa.radius.packet import Attributes
from kdc.errors import LocalError

ANY_REALM: Final = "*"
MAXIMUM_NAME_OCTETS: Final = 253  # RFC 7542 §2.3: what one attribute of RADIUS holds

# RFC 7542 §2.2.  All of UTF8-xtra-char is taken but the C1 controls, which no label has (RFC 5892).
_OTHER: Final = "\u00a0-\U0010ffff"
_RTEXT: Final = rf"[A-Za-z0-9{_OTHER}]"
_LABEL: Final = rf"{_RTEXT}(?:[A-Za-z0-9{_OTHER}-]*{_RTEXT})?"
_REALM: Final = rf"(?:{_LABEL}\.)+{_LABEL}"  # never one label alone: RFC 7542 §3
_STRING: Final = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_OTHER}-]+"
_ROUTED_NAME: Final = re.compile(rf"(?:{_STRING}(?:\.{_STRING})*)?@({_REALM})")
_SUFFIX: Final = re.compile(rf"\.(?:{_LABEL}\.)*{_LABEL}")
_WHOLE_REALM: Final = re.compile(_REALM)


def routed_realm(user_name: bytes) -> str | None:
    """The realm in `@realm` or `user@realm`, its ASCII letters lowered; None for anything else.

    RFC 7542 §2.2: what is not well-formed names no realm, and so cannot be routed by.
    """
    if len(user_name) > MAXIMUM_NAME_OCTETS:
        return None
    try:
        found = _ROUTED_NAME.fullmatch(user_name.decode())
    except UnicodeDecodeError:
        return None
    return None if found is None else _lowered(found[1])


def realm_of_request(attributes: Attributes) -> str | None:
    """The realm that a request is routed by: that of its one User-Name (RFC 2865 §5.1)."""
    names = [value for kind, value in attributes if kind == USER_NAME]
    return routed_realm(names[0]) if len(names) == 1 else None


def parse_pattern(text: str) -> str:
    """A realm, `.suffix` or `*` as the table takes it, its ASCII letters lowered.

    Raises `ValueError` for anything else.
    """
    octets = len(text.encode(errors="surrogatepass"))
    if octets > MAXIMUM_NAME_OCTETS or not (
        text == ANY_REALM or _WHOLE_REALM.fullmatch(text) or _SUFFIX.fullmatch(text)
    ):
        raise ValueError("not a realm, a suffix or *")
    try:
        return _lowered(text)
    except UnicodeError:
        raise ValueError("not UTF-8") from None


def _lowered(realm: str) -> str:
    return realm.encode().lower().decode()  # bytes.lower() touches ASCII letters alone


class RealmTable:
    """Names of pools by realm: the exact one, else the longest suffix, else that of `*`.

    `.example` is a suffix of a.example and of b.a.example, and not of example.
    """

    __slots__ = ("_pools",)

    def __init__(self, routes: Iterable[tuple[str, str]]) -> None:
        """From (pattern, pool); `LocalError` for what is no pattern, or is there twice."""
        self._pools: dict[str, str] = {}
        for text, pool in routes:
            try:
                pattern = parse_pattern(text)
            except ValueError:
                raise LocalError(
                    f'{pool}: expected a realm, such as home.example, ".example" or "*"'
                ) from None
            if pattern in self._pools:
                raise LocalError(
                    f"{pool}: expected each realm in one pool: {pattern} is"
                    f" {self._pools[pattern]}'s already"
                )
            self._pools[pattern] = pool

    def find(self, realm: str) -> str | None:
        """The pool of a realm as `routed_realm` gives it, or None where nobody serves it."""
        pools = self._pools
        pool = pools.get(realm)
        at = realm.find(".")
        while pool is None and at >= 0:  # from the longest suffix to the shortest
            pool = pools.get(realm[at:])
            at = realm.find(".", at + 1)
        return pools.get(ANY_REALM) if pool is None else pool
