"""Associations made up for the tests of key use: what a registration brings to each holder."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

from kdc.keyuse.table import Endpoint, Grant
from kdc.keyuse.traffic import Party
from kdc.model import Mode, Nai, Pair, Secret, SecurityAssociation, Suite, key_octets

GCM = (Suite(3, 20),)
CBC_SHA2 = (Suite(1, 5), Suite(2, 12))
ENDPOINTS = {
    Party.MOBILE_NODE: Endpoint(Nai.parse("m-01@home.example"), IPv4Address("10.20.0.1")),
    Party.FOREIGN_AGENT: Endpoint(Nai.parse("fa1@visited.example"), IPv4Address("10.20.0.2")),
    Party.HOME_AGENT: Endpoint(Nai.parse("ha@home.example"), IPv4Address("192.0.2.1")),
}


def octets_of(label: str, length_octets: int) -> bytes:
    """Octets that a test can find again wherever they went."""
    return hashlib.shake_256(label.encode()).digest(length_octets)


def association(
    pair: Pair, spi: int, *, lifetime_s: int = 600, suites: tuple[Suite, ...] = GCM
) -> SecurityAssociation:
    return SecurityAssociation(
        pair=pair,
        spi=spi,
        lifetime_s=lifetime_s,
        key_name=octets_of(f"name {spi}", 8),
        mode=Mode.STATEFUL,
        derivation=0,
        suites=suites,
        keys=Secret(octets_of(f"keys {spi}", key_octets(pair, suites))),
    )


def grant(
    binding: str, *associations: SecurityAssociation, alias: str = "m-01@home.example"
) -> Grant:
    return Grant(binding, associations, ENDPOINTS, Nai.parse(alias))
