"""Agent advertisements and solicitations against octets written from the figures of the RFCs."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

import pytest

from kdc.errors import LocalError, Malformed
from kdc.model import DEFAULT_VENDOR_ID, Nai
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.icmp import (
    NEVER_A_DEFAULT_ROUTER,
    AdvertisedAgent,
    AgentAdvertisement,
    AgentFlags,
    RouterAddress,
    check_solicitation,
    decode_agent_advertisement,
    encode_agent_advertisement,
    encode_solicitation,
    next_sequence_number,
    tells_restart,
)
from kdc.wire.ipv4 import IcmpDatagram, decode_icmp_datagram
from tests.vectors_loader import octets, vectors

_GOLDEN = vectors("advertisement")[0]
NVSES = _GOLDEN["out"]["nvse_nai"] + _GOLDEN["out"]["nvse_fk"]  # 41 and 38 octets
ANNOUNCEMENT = FaAnnouncement(Nai(octets(_GOLDEN["in"]["fa_nai"])), octets(_GOLDEN["out"]["fk"]))
FA = IPv4Address("198.51.100.7")

HEAD = "09 10 0000  01 02 001e"  # RFC 1256 §3: type 9, code 16; one address of 2 words; 30 s
ROUTER = "c6336407 80000000"  # 198.51.100.7, never a default router
# RFC 5944 §2.1.1: type 16, 6 + 4*1 octets, message 5, no limit, F; one care-of address
AGENT = "10 0a  0005 ffff  1000  c6336407"
PADDING = "00"  # RFC 5944 §2.1.3: 107 octets become 108
WHOLE = HEAD + ROUTER + AGENT + NVSES + PADDING
CHECKSUM = "01d9"  # computed by Wireshark 4.0.17 (text2pcap of the octets above)

MESSAGE = AgentAdvertisement(
    AdvertisedAgent(
        ANNOUNCEMENT, (FA,), router_addresses=(RouterAddress(FA, NEVER_A_DEFAULT_ROUTER),)
    ),
    sequence_number=5,
    lifetime_s=30,
)


def with_checksum(text: str) -> bytes:
    """Another way to the checksum: modulo 65535, a one's complement sum is a plain sum."""
    message = bytearray(bytes.fromhex(text))
    message[2:4] = bytes(2)
    even = message + bytes(len(message) % 2)
    message[2:4] = (-int.from_bytes(even, "big") % 0xFFFF).to_bytes(2, "big")
    return bytes(message)


def decode(message: bytes) -> AgentAdvertisement:
    return decode_agent_advertisement(message, DEFAULT_VENDOR_ID)


def test_an_advertisement_is_the_octets_of_the_figures() -> None:
    expected = bytes.fromhex(WHOLE.replace("09 10 0000", "09 10" + CHECKSUM))
    assert encode_agent_advertisement(MESSAGE, DEFAULT_VENDOR_ID) == expected
    assert decode(expected) == MESSAGE
    assert with_checksum(WHOLE) == expected


def test_what_is_ignored_leaves_the_rest_in_use() -> None:
    message = with_checksum(
        "09 00 0000  02 03 0708"  # code 0; two addresses of 3 words; 1800 s
        "c6336407 00000005 deadbeef"  # RFC 1256 §5.2: words beyond the second
        "c6336408 ffffffff 00000000"
        "00"  # padding, though not at the end
        # Length 6 + 4*2; message 65535; 600 s; R B H F M G r T U X I and the five reserved bits
        "10 0e  ffff 0258  ffff  c6336407 c6336408"
        "13 02 18 20"  # RFC 5944 §2.1.2: /24 and /32
        "c8 03 010203"  # RFC 5944 §1.8: an unknown extension 128-255
        "80 00"  # the first of them, empty
        "86 0a 0000 00000009 0001 4142"  # an NVSE of another vendor
        "86 24 0000 00007ed9 0063" + "00" * 28  # and of another type of ours
        + NVSES
    )  # fmt: skip
    assert decode(message) == AgentAdvertisement(
        AdvertisedAgent(
            ANNOUNCEMENT,
            (FA, FA + 1),
            600,
            AgentFlags(0xFDE0),
            (RouterAddress(FA, 5), RouterAddress(FA + 1, -1)),
            (24, 32),
            0,
        ),
        65535,
        1800,
    )


def test_an_agent_needs_no_router_address_and_a_message_of_lifetime_0_is_the_last() -> None:
    message = decode(with_checksum("09 10 0000  00 02 0000" + AGENT + NVSES))
    assert message.agent.router_addresses == ()
    assert message.lifetime_s == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("shorter than eight octets", "09 10 0000 00 02 00"),
        ("ICMP type", WHOLE.replace("09 10", "0a 10")),
        ("code of an agent", WHOLE.replace("09 10", "09 01")),
        ("Addr Entry Size", WHOLE.replace("01 02 001e", "01 01 001e")),
        ("octets run out", HEAD.replace("01 02", "ff 02") + ROUTER + AGENT + NVSES),
        ("octets run out", HEAD + ROUTER + AGENT + NVSES + "c8 02 00"),
        ("octets run out", HEAD + ROUTER + AGENT + NVSES + "c8"),
        ("address of no host", WHOLE.replace(ROUTER, "e0000001 80000000")),
        ("no mobility agent extension", HEAD + ROUTER + NVSES),  # a router, and no agent
        ("extension twice", HEAD + ROUTER + AGENT + AGENT + NVSES),
        ("extension twice", HEAD + ROUTER + AGENT + "13 01 18" * 2 + NVSES),
        ("length of the mobility", WHOLE.replace(AGENT, "10 04 0005 ffff")),
        ("length of the mobility", WHOLE.replace(AGENT, "10 09 0005 ffff 1000 c63364")),
        ("no foreign agent", WHOLE.replace("ffff  1000", "ffff  2000")),  # H alone
        ("no care-of address", WHOLE.replace(AGENT, "10 06 0005 ffff 1000")),
        ("address of no host", WHOLE.replace("1000  c6336407", "1000  00000000")),
        ("address of no host", WHOLE.replace("1000  c6336407", "1000  ffffffff")),
        ("number of prefix lengths", HEAD + ROUTER + AGENT + "13 02 1818" + NVSES),
        ("prefix length", HEAD + ROUTER + AGENT + "13 01 21" + NVSES),
        ("unknown extension 0-127", HEAD + ROUTER + AGENT + "18 00" + NVSES),
        ("unknown extension 0-127", HEAD + ROUTER + AGENT + "7f 00" + NVSES),
        ("no NAI or no FK", HEAD + ROUTER + AGENT),  # an agent of plain RFC 5944
        ("no NAI or no FK", HEAD + ROUTER + AGENT + _GOLDEN["out"]["nvse_nai"]),
        # An NVSE of ours that is not well formed is ignored, and then it is missing.
        ("no NAI or no FK", WHOLE.replace("8624000000", "8624000100")),
        ("NVSE twice", HEAD + ROUTER + AGENT + NVSES + _GOLDEN["out"]["nvse_fk"]),
    ],
)  # fmt: skip
def test_an_advertisement_that_breaks_a_rule_is_refused(rule: str, text: str) -> None:
    assert text != WHOLE
    with pytest.raises(Malformed, match=rule):
        decode(with_checksum(text))


@pytest.mark.parametrize("at", range(108))
def test_one_changed_octet_breaks_the_checksum(at: int) -> None:
    message = bytearray(with_checksum(WHOLE))
    message[at] ^= 0x40
    with pytest.raises(Malformed, match="ICMP type" if at == 0 else "ICMP checksum"):
        decode(bytes(message))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"care_of_addresses": ()}, "1 to 62 care-of"),
        ({"care_of_addresses": (FA,) * 63}, "1 to 62 care-of"),
        ({"flags": AgentFlags.HOME_AGENT}, "a foreign agent"),
        ({"prefix_lengths": (24, 24)}, "one prefix length"),
        ({"router_addresses": (RouterAddress(FA),) * 180}, "longer than one datagram"),
    ],
)
def test_what_the_rfc_forbids_is_not_sent(wrong: dict[str, object], expected: str) -> None:
    agent = dataclasses.replace(MESSAGE.agent, **wrong)  # type: ignore[arg-type]
    with pytest.raises(LocalError, match=expected):
        encode_agent_advertisement(AgentAdvertisement(agent, 0, 30), DEFAULT_VENDOR_ID)


def test_a_solicitation() -> None:
    solicitation = bytes.fromhex("0a 00 f5ff 00000000")  # RFC 1256 §3; 0xffff - 0x0a00
    assert encode_solicitation() == solicitation
    check_solicitation(solicitation)
    # RFC 1256 §4.2: the reserved field and what follows the first 8 octets are ignored.
    check_solicitation(with_checksum("0a 00 0000 01020304 0506"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("shorter than eight octets", with_checksum("0a 00 0000 000000")),
        ("code of a solicitation", with_checksum("0a 10 0000 00000000")),
        ("ICMP checksum", bytes.fromhex("0a 00 f5fe 00000000")),
        ("ICMP type", with_checksum("09 00 0000 00000000")),
    ],
)
def test_a_solicitation_that_breaks_a_rule_is_refused(rule: str, message: bytes) -> None:
    with pytest.raises(Malformed, match=rule):
        check_solicitation(message)


def test_sequence_numbers_roll_over_to_256() -> None:
    assert [next_sequence_number(number) for number in (0, 0xFFFE, 0xFFFF)] == [1, 0xFFFF, 256]


@pytest.mark.parametrize(
    ("before", "after", "restarted"),
    [
        (5, 6, False),
        (5, 5, False),
        (6, 5, True),
        (0xFFFF, 255, True),
        (0xFFFF, 256, False),  # rolled over
        (300, 299, False),
        (300, 0, True),
    ],
)
def test_a_lower_sequence_number_below_256_tells_a_restart(
    before: int, after: int, restarted: bool
) -> None:
    assert tells_restart(before, after) is restarted


# RFC 791 §3.1: version 4, 5 words; 28 octets; time to live 1, ICMP; source; destination
IPV4 = "45 00 001c 0000 4000 01 01 0000 0a000002 e000000b"
SOLICITATION = "0a00f5ff00000000"


def test_the_ip_header_before_a_message() -> None:
    expected = IcmpDatagram(
        IPv4Address("10.0.0.2"), IPv4Address("224.0.0.11"), 1, bytes.fromhex(SOLICITATION)
    )
    assert decode_icmp_datagram(bytes.fromhex(IPV4 + SOLICITATION)) == expected
    # One word of options, as of RFC 2113.
    options = IPV4.replace("45 00 001c", "46 00 0020") + "94040000"
    assert decode_icmp_datagram(bytes.fromhex(options + SOLICITATION)) == expected


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("octets run out", ""),
        ("IPv4 header", IPV4.replace("45", "65") + SOLICITATION),
        ("IPv4 header", IPV4.replace("45", "44") + SOLICITATION),
        ("total length", IPV4 + SOLICITATION + "00"),
        ("total length", IPV4 + SOLICITATION[:-2]),  # cut off by the length of the read
        ("not ICMP", IPV4.replace("01 01", "01 11") + SOLICITATION),
        ("octets run out", IPV4.replace("45", "4f") + SOLICITATION),
    ],
)
def test_an_ip_header_that_breaks_a_rule_is_refused(rule: str, text: str) -> None:
    with pytest.raises(Malformed, match=rule):
        decode_icmp_datagram(bytes.fromhex(text))
