"""Agent discovery for all values: what is written is read again, and a decoder is total."""

from __future__ import annotations

import string
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from kdc.errors import Malformed
from kdc.model import DEFAULT_VENDOR_ID, Nai
from kdc.wire.advertisement import FaAnnouncement
from kdc.wire.icmp import (
    AdvertisedAgent,
    AgentAdvertisement,
    AgentFlags,
    RouterAddress,
    check_solicitation,
    checksum,
    decode_agent_advertisement,
    encode_agent_advertisement,
    next_sequence_number,
    tells_restart,
)
from kdc.wire.ipv4 import decode_icmp_datagram

_addresses = st.integers(2**24, 224 * 2**24 - 1).map(IPv4Address)
_u16 = st.integers(0, 0xFFFF)
_announcements = st.builds(
    FaAnnouncement,
    st.text(string.ascii_lowercase, min_size=1, max_size=228).map(
        lambda user: Nai.parse(f"{user}@v.test")
    ),
    st.binary(min_size=16, max_size=16),
)


@st.composite
def advertisements(draw: st.DrawFn) -> AgentAdvertisement:
    routers = draw(
        st.lists(st.builds(RouterAddress, _addresses, st.integers(-(2**31), 2**31 - 1)), max_size=9)
    )
    lengths = st.lists(st.integers(0, 32), min_size=len(routers), max_size=len(routers)).map(tuple)
    other_flags = draw(st.lists(st.sampled_from(AgentFlags), max_size=4))
    flags = AgentFlags.FOREIGN_AGENT
    for flag in other_flags:
        flags |= flag
    agent = AdvertisedAgent(
        draw(_announcements),
        tuple(draw(st.lists(_addresses, min_size=1, max_size=62))),
        draw(_u16),
        flags,
        tuple(routers),
        draw(st.none() | lengths),
        draw(st.sampled_from([0, 16])),
    )
    return AgentAdvertisement(agent, draw(_u16), draw(_u16))


@given(advertisements(), st.integers(1, 2**24 - 1))
def test_what_is_advertised_is_what_is_heard(message: AgentAdvertisement, vendor_id: int) -> None:
    octets = encode_agent_advertisement(message, vendor_id)
    assert len(octets) % 2 == 0
    assert decode_agent_advertisement(octets, vendor_id) == message


@given(
    advertisements(),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255), st.sampled_from("sid")), max_size=5),
)
def test_changed_octets_are_a_value_or_malformed(
    message: AgentAdvertisement, edits: list[tuple[int, int, str]]
) -> None:
    changed = bytearray(encode_agent_advertisement(message, DEFAULT_VENDOR_ID))
    for position, value, kind in edits:
        at = 4 + position % (len(changed) - 3)
        if kind == "i":
            changed.insert(at, value)
        elif at < len(changed):
            if kind == "s":
                changed[at] = value
            else:
                del changed[at]
    changed[2:4] = bytes(2)
    changed[2:4] = checksum(bytes(changed)).to_bytes(2, "big")  # so that it is not the checksum
    try:
        heard = decode_agent_advertisement(bytes(changed), DEFAULT_VENDOR_ID)
    except Malformed:
        return
    assert AgentFlags.FOREIGN_AGENT in heard.agent.flags and heard.agent.care_of_addresses


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x09\x10", b"\x09", b"\x0a\x00", b"\x45"]))
def test_any_octets(rest: bytes, start: bytes) -> None:
    for decode in (
        lambda octets: decode_agent_advertisement(octets, DEFAULT_VENDOR_ID),
        check_solicitation,
        decode_icmp_datagram,
    ):
        try:
            decode(start + rest)
        except Malformed:
            continue


@given(st.binary(min_size=4, max_size=1480))
def test_a_message_with_its_checksum_sums_to_zero(message: bytes) -> None:
    body = b"\x09" + message[1:2] + bytes(2) + message[4:]
    whole = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    assert checksum(whole) == 0
    # The sum is that of 16-bit words: exchanged words are not noticed, one bit is.
    assert checksum(bytes((whole[0] ^ 1,)) + whole[1:]) != 0


@given(_u16, st.integers(1, 3))
def test_counting_on_never_tells_a_restart(number: int, steps: int) -> None:
    after = number
    for _ in range(steps):
        after = next_sequence_number(after)
    assert 0 < after <= 0xFFFF
    assert not tells_restart(number, after)
