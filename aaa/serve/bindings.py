"""Which associations a foreign agent holds for whom, so that nobody ends another's.

A deregistration names no home address to the agent: what it ends is what the same sender installed.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address
from typing import NamedTuple

from kdc.errors import LocalError
from kdc.keyuse.table import MAXIMUM_HELD


class Home(NamedTuple):
    """Where a node is registered: two realms may use one private address."""

    realm: str
    agent: IPv4Address


class Bindings:
    """Names of bindings by home and home address; bounded, the oldest are forgotten first."""

    def __init__(self, maximum: int = MAXIMUM_HELD) -> None:
        self._maximum = maximum
        self._senders: OrderedDict[str, tuple[str, Home]] = OrderedDict()
        self._installed: dict[tuple[str, Home], set[str]] = {}

    def install(self, sender: str, home: Home, home_address: IPv4Address) -> str:
        """The binding of this node, whose sender is from now on `sender` alone."""
        binding = f"{home.realm} {home.agent} {home_address}"
        self._install(binding, sender, home)
        return binding

    def restore(self, binding: str, sender: str) -> None:
        """A binding that an earlier process has named; raises `LocalError` for another text."""
        try:
            realm, agent, _ = binding.split(" ")
            home = Home(realm, IPv4Address(agent))
        except ValueError:
            raise LocalError("expected the name of a binding") from None
        self._install(binding, sender, home)

    def _install(self, binding: str, sender: str, home: Home) -> None:
        self.forget(binding)
        if len(self._senders) >= self._maximum:
            self.forget(next(iter(self._senders)))
        owner = (sender, home)
        self._installed.setdefault(owner, set()).add(binding)
        self._senders[binding] = owner

    def deregister(self, sender: str, home: Home) -> str | None:
        """The one binding that this sender has at this home.

        None where it has none, or several (nodes behind one address): those end with their
        lifetime.
        """
        own = self._installed.get((sender, home), set())
        if len(own) != 1:
            return None
        (binding,) = own
        self.forget(binding)
        return binding

    def forget(self, binding: str) -> None:
        """The binding has ended otherwise: nothing is its sender's to end any more."""
        owner = self._senders.pop(binding, None)
        if owner is not None:
            own = self._installed[owner]
            own.discard(binding)
            if not own:
                del self._installed[owner]
