"""What people are shown of a packet: names and values, and of what is secret its length alone."""

from __future__ import annotations

import pytest

from aaa.radius.dictionary import describe, load_dictionary
from aaa.radius.packet import decode

PLANTED = b"PLANTED-KEY"
VENDOR = (32473).to_bytes(4, "big")


def _describe(*attributes: tuple[int, bytes], vendor_id: int = 32473) -> list[tuple[str, str]]:
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)
    header = bytes((1, 7)) + (20 + len(body)).to_bytes(2, "big") + bytes(16)
    return list(describe(decode(header + body, signed=False), vendor_id))


def _ours(*inner: tuple[int, bytes]) -> tuple[int, bytes]:
    return 26, VENDOR + b"".join(bytes((n, len(value) + 2)) + value for n, value in inner)


def test_names_and_values_in_the_order_of_the_packet() -> None:
    assert _describe(
        (1, b"@home.example"),
        (4, b"\xc6\x33\x64\x07"),
        (25, b"\x00\x01"),
        (95, bytes(15) + b"\x01"),
        (27, (1800).to_bytes(4, "big")),
        _ours((9, b"fa@v"), (6, (300).to_bytes(4, "big"))),
        (1, b"again"),
    ) == [
        ("User-Name", '"@home.example"'),
        ("NAS-IP-Address", "198.51.100.7"),
        ("Class", "0x0001"),
        ("NAS-IPv6-Address", "::1"),
        ("Session-Timeout", "1800"),
        ("Roamkey-FA-NAI", '"fa@v"'),
        ("Roamkey-SPI", "300"),
        ("User-Name", '"again"'),
    ]


SECRETS = {2, 3, 17, 18, 24, 33, 69, 79, 80, 103, 200, 241, 245, 255}


@pytest.mark.parametrize("kind", sorted(SECRETS - {80}))
def test_of_what_may_be_secret_and_of_what_is_not_known_only_the_length(kind: int) -> None:
    ((name, text),) = _describe((kind, PLANTED))
    assert text == "11 octets"
    assert PLANTED.decode() not in name


def test_of_the_message_authenticator_only_the_length() -> None:
    """Whoever has it and the packet can try secrets."""
    assert _describe((80, b"\xab" * 16)) == [("Message-Authenticator", "16 octets")]


@pytest.mark.parametrize("number", [1, 2, 4, 5, 7, 8, 0, 10, 200])
def test_of_roamkey_attributes_with_keys_only_the_length(number: int) -> None:
    ((_, text),) = _describe(_ours((number, PLANTED)))
    assert text == "11 octets"


def test_another_vendors_attributes_are_one_length() -> None:
    """MS-MPPE-Send-Key (RFC 2548), and ours under a number that is not configured here."""
    microsoft = (26, (311).to_bytes(4, "big") + b"\x10\x0d" + PLANTED)
    assert _describe(microsoft) == [("Vendor-Specific of 311", "13 octets")]
    ours = _ours((9, PLANTED))
    assert _describe(ours, vendor_id=7) == [("Vendor-Specific of 32473", "13 octets")]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x00\x00\x7e\xd9",
        VENDOR + b"\x09",
        VENDOR + b"\x09\x00" + PLANTED,
        VENDOR + b"\x09\x01" + PLANTED,
        VENDOR + b"\x09\xff" + PLANTED,
        VENDOR + b"\x06\x06\x00\x00\x01\x2c\x09" + PLANTED[:1],
    ],
)
def test_a_vendor_attribute_that_does_not_add_up_is_named_so(value: bytes) -> None:
    *_, (name, text) = _describe((26, value))
    assert name == "Vendor-Specific"
    assert text.endswith(("malformed", "too short"))
    assert "PLANTED" not in text and PLANTED.hex() not in text


def test_nothing_reaches_a_terminal_but_printable_ascii() -> None:
    ((_, text),) = _describe((1, b'\x1b[2J\r\n\x00\x9b\xff\xc2\x9b"@home'))
    assert text.isascii() and text.isprintable()
    assert text.startswith('"') and text.endswith('"')


def test_values_of_another_length_than_their_type_has_are_octets() -> None:
    assert _describe((4, b"\x01"), (27, b"\x01"), (95, b"\x01"), (1, b"")) == [
        ("NAS-IP-Address", "0x01"),
        ("Session-Timeout", "0x01"),
        ("NAS-IPv6-Address", "0x01"),
        ("User-Name", '""'),
    ]


def test_the_dictionary_under_another_vendor_number() -> None:
    assert load_dictionary(7).vendors.GetForward("Roamkey") == 7
    assert load_dictionary().vendors.GetForward("Roamkey") == 32473
