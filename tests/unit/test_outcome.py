"""What a duplicate is answered with, as octets for the store and back, and what is no outcome."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import pytest

from kdc.errors import LocalError, Malformed
from kdc.model import CONFIRMATION_KEY_OCTETS, KEY_OCTETS, Mode, Pair, Secret, Suite
from kdc.outcome import decode_outcome, derive_secret, encode_outcome, secret_octets
from kdc.records import Carrier, Denied, Issued, IssuedAssociation, WrappingKey

R = Secret(bytes(range(32)))
GCM, HMAC, CBC, NULL = Suite(3, 20), Suite(1, 5), Suite(2, 12), Suite(2, 11)
# Section 4.2: what a receiver may get.
MODES = [(1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2), (3, 3)]


def association(
    pair: Pair, mode: int, derivation: int, suites: tuple[Suite, ...], **changes: object
) -> IssuedAssociation:
    octets = secret_octets(pair, Mode(mode), derivation, suites)
    item = IssuedAssociation(
        pair=pair,
        spi=0x20000000 + pair,
        key_name=bytes([pair]) * 8,
        lifetime_s=600,
        mode=Mode(mode),
        derivation=derivation,
        suites=suites,
        secret=derive_secret(R, pair, 0x20000000 + pair, octets),
    )
    return dataclasses.replace(item, **changes)  # type: ignore[arg-type]


def issued(*associations: IssuedAssociation, wrapping: WrappingKey | None = None) -> Issued:
    return Issued(b"\x11" * 8, b"\x22" * 8, 600, IPv4Address("10.1.2.3"), associations, wrapping, R)


@pytest.mark.parametrize("carrier", Carrier)
@pytest.mark.parametrize("suites", [(GCM,), (HMAC, CBC), (HMAC, NULL), (GCM, HMAC, CBC)])
@pytest.mark.parametrize(("mode", "derivation"), MODES)
@pytest.mark.parametrize("pair", Pair)
def test_one_association_comes_back(
    pair: Pair, mode: int, derivation: int, suites: tuple[Suite, ...], carrier: Carrier
) -> None:
    item = association(pair, mode, derivation, suites, carrier=carrier, answered=b"\x01answer")
    outcome = issued(item)
    again = decode_outcome(encode_outcome(outcome))
    assert again == outcome


def test_a_whole_registration_comes_back() -> None:
    items = [
        association(pair, mode, derivation, (GCM,), answered=bytes(60))
        for pair, (mode, derivation) in zip(Pair, MODES, strict=False)
    ]
    outcome = issued(*items, wrapping=WrappingKey(Secret(b"\xaa" * 64), b"\xbb" * 116))
    assert decode_outcome(encode_outcome(outcome)) == outcome


def test_a_deregistration_comes_back() -> None:
    outcome = dataclasses.replace(issued(), lifetime_s=0, home_address=IPv4Address(0))
    assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize(
    "denied",
    [
        Denied(131, False),
        Denied(132, False, at=2**32 - 1),
        Denied(133, True, at=1_800_000_000, state=b"\x33" * 8),
        Denied(129, True, counter_proposal=b"\x01\x01\x00\x04" * 80, state=b"\x44" * 8),
        *(Denied(129, True, pair=pair) for pair in Pair),
    ],
)
def test_a_denial_comes_back(denied: Denied) -> None:
    assert decode_outcome(encode_outcome(denied)) == denied


def test_an_outcome_octet_by_octet() -> None:
    denied = Denied(129, True, at=1_800_000_000, counter_proposal=b"\xcc\xdd", state=b"\x33" * 8)
    # Format, code, challenge, the home's second(4), pair that failed, State behind its length,
    # counter-proposal.
    assert encode_outcome(denied).reveal().hex() == "0181016b49d2000008" + "33" * 8 + ("ccdd")
    item = association(Pair.MN_HA, 2, 0, (GCM,), answered=b"\xcc", carrier=Carrier.KE_C)
    octets = encode_outcome(issued(item)).reveal().hex()
    head = "0100" + "11" * 8 + "22" * 8 + "02580a010203"  # alias, class, lifetime, address
    # R; no W; one association: pair, mode, derivation, carrier, suites, SPI, lifetime, name.
    assert octets == head + R.reveal().hex() + "0001" + (
        "01020001012000000100000258" + "01" * 8 + "03140001cc"
    )


def test_no_secret_and_no_key_is_written() -> None:
    item = association(Pair.MN_HA, 2, 0, (GCM,), keys=Secret(b"\x77" * 36))
    octets = encode_outcome(issued(item)).reveal()
    assert item.secret.reveal() not in octets and b"\x77" * 16 not in octets
    with pytest.raises(LocalError):
        encode_outcome(dataclasses.replace(issued(item), seed=None))


@pytest.mark.parametrize("length_octets", [16, 20, 32, 36, 64, 68, 128])
def test_secrets_of_pairs_and_spis_are_apart(length_octets: int) -> None:
    """One R, and yet no Secret tells of another (PROTOCOL 7.2)."""
    made = {
        derive_secret(R, pair, spi, length_octets).reveal()
        for pair in Pair
        for spi in (256, 257, 2**32 - 1)
    }
    assert len(made) == 12 and {len(secret) for secret in made} == {length_octets}


@pytest.mark.parametrize("pair", Pair)
def test_how_long_a_secret_is(pair: Pair) -> None:
    """Sections 4.2 and 7: keys of the suites, a seed of 32, or nothing for KEY1 of mode 1."""
    confirmation = CONFIRMATION_KEY_OCTETS if pair is Pair.MN_FA else 0
    suites = (HMAC, CBC)
    keys = KEY_OCTETS[HMAC] + KEY_OCTETS[CBC] + confirmation
    octets = {
        (mode, derivation): secret_octets(pair, Mode(mode), derivation, suites)
        for mode, derivation in MODES
    }
    empty = 0 if pair is Pair.MN_HA else 32
    assert octets == {
        (1, 0): empty,
        (1, 3): empty,
        (2, 0): keys,
        (2, 3): 32,
        (3, 1): 32,
        (3, 2): 32,
        (3, 3): 32,
    }


# --- what is no outcome -------------------------------------------------------------------------

WHOLE = encode_outcome(
    issued(
        association(Pair.MN_HA, 2, 0, (GCM,), answered=b"\xcc"),
        association(Pair.MN_FA, 3, 2, (HMAC, CBC)),
        wrapping=WrappingKey(Secret(b"\xaa" * 64), b"\xbb" * 116),
    )
).reveal()


@pytest.mark.parametrize("first", [0, 2, 3, 129, 133, 255])
def test_another_format_is_refused(first: int) -> None:
    """Also the one before the format had an octet: it began with the code."""
    with pytest.raises(Malformed):
        decode_outcome(Secret(bytes((first,)) + WHOLE[1:]))
    with pytest.raises(Malformed):
        decode_outcome(Secret(bytes((first,)) + WHOLE))


def test_an_outcome_of_the_release_before() -> None:
    """Code, alias, class, lifetime, address, R, flag of W, count: without a format."""
    old = bytes(1) + WHOLE[2:]
    with pytest.raises(Malformed):
        decode_outcome(Secret(old))
    old_denial = bytes((133, 1)) + (1_800_000_000).to_bytes(4, "big") + b"\x33" * 8
    with pytest.raises(Malformed):
        decode_outcome(Secret(old_denial))


def test_no_outcome_is_cut_short_and_none_goes_on() -> None:
    for end in range(len(WHOLE)):
        with pytest.raises(Malformed):
            decode_outcome(Secret(WHOLE[:end]))
    with pytest.raises(Malformed):
        decode_outcome(Secret(WHOLE + b"\0"))


def test_whatever_the_octets_nothing_untyped_comes_out() -> None:
    for position in range(len(WHOLE)):
        for value in range(256):
            changed = bytearray(WHOLE)
            changed[position] = value
            try:
                decode_outcome(Secret(bytes(changed)))
            except Malformed:
                continue
