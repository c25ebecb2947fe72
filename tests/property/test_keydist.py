"""Random messages between home agent and KDC come back; whatever the octets, nothing untyped."""

from __future__ import annotations

import dataclasses
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kdc.errors import RemoteError
from kdc.model import (
    KEY_OCTETS,
    ExchangeKeys,
    HomeAddressKind,
    Identification,
    Mode,
    Nai,
    Pair,
    Secret,
    Suite,
)
from kdc.outcome import secret_octets
from kdc.records import (
    Admission,
    Carrier,
    Denied,
    Fate,
    Issued,
    IssuedAssociation,
    Record,
    Settled,
    Terms,
    Ticket,
    WrappingKey,
)
from kdc.wire.keydist import (
    AdmitRequest,
    DenyRequest,
    GrantRequest,
    KeyReply,
    KeyRequest,
    NotAdmitted,
    RepeatRequest,
    decode_key_reply_message,
    decode_key_request_message,
    encode_key_reply_message,
    encode_key_request_message,
)
from kdc.wire.keydist_items import Judged, Refusal, State
from tests.unit.wire.test_keydist import REPLIES, REQUESTS

VENDOR_ID = 32473
U8, U16 = st.integers(0, 255), st.integers(0, 2**16 - 1)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
SPIS = st.integers(256, 2**32 - 1)
# Microseconds that a float of seconds holds exactly enough: to the year 2255.
CLOCKS = st.integers(0, 9 * 10**15).map(lambda n: n / 1_000_000)
ADDRESSES = st.builds(IPv4Address, U32)
REALMS = st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,5}){1,2}", fullmatch=True)
NAIS = st.builds(lambda user, realm: Nai.parse(f"{user}@{realm}"), st.sampled_from("abc"), REALMS)
IDENTIFICATIONS = st.builds(Identification, U64, U32)
DIGESTS = st.binary(min_size=32, max_size=32)
EIGHT = st.binary(min_size=8, max_size=8)
PAYLOADS = st.binary(max_size=300)
TICKETS = st.builds(Ticket, U64, EIGHT, DIGESTS, DIGESTS)
STATES = st.builds(State, U32, U64, TICKETS)


MARK = b"a secret of ours"  # every secret begins with it, as far as it is long enough


def secrets(octets: int) -> st.SearchStrategy[Secret]:
    drawn = st.binary(min_size=octets, max_size=octets)
    return drawn.map(lambda secret: Secret((MARK + secret[len(MARK) :])[:octets]))


SUITES = st.lists(
    st.sampled_from(sorted(KEY_OCTETS)), min_size=1, max_size=3, unique_by=lambda s: s.protocol_id
).map(tuple)
MODES = st.sampled_from([(1, 3), (2, 0), (2, 3), (3, 1), (3, 2), (3, 3)])


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    mode, derivation = draw(MODES)
    return Terms(
        draw(st.sampled_from(Pair)),
        Mode(mode),
        derivation,
        draw(SUITES),
        draw(U32),
        offered=draw(PAYLOADS),
        answered=draw(PAYLOADS),
        carrier=draw(st.sampled_from(Carrier)),
        z=draw(st.none() | secrets(32) | secrets(256)),
    )


DENIED = st.builds(
    Denied,
    U8,
    st.booleans(),
    U64,
    PAYLOADS,
    st.binary(max_size=8),
    st.none() | st.sampled_from(Pair),
)
GRANTS = st.builds(
    GrantRequest,
    state=STATES,
    judged=st.builds(Judged, IDENTIFICATIONS, U16, ADDRESSES, DIGESTS),
    fa_nai=NAIS,
    nas_address=ADDRESSES | st.integers(0, 2**128 - 1).map(IPv6Address),
    home_agent_nai=NAIS,
    realm=REALMS,
    operator_realm=st.none() | REALMS,
    fa_public_key=st.none() | st.binary(min_size=38, max_size=38),
    terms=st.lists(terms(), max_size=4).map(tuple),
)
REQUEST_VALUES: st.SearchStrategy[KeyRequest] = st.one_of(
    st.builds(AdmitRequest, st.binary(max_size=3072)),
    GRANTS,
    st.builds(
        DenyRequest,
        STATES,
        st.builds(Refusal, DENIED, st.none() | DIGESTS, st.none() | IDENTIFICATIONS, U8),
    ),
    st.builds(RepeatRequest, STATES, REALMS),
)


@st.composite
def issued_associations(draw: st.DrawFn, pair: Pair) -> IssuedAssociation:
    mode, derivation = draw(MODES)
    suites: tuple[Suite, ...] = draw(SUITES)
    octets = secret_octets(pair, Mode(mode), derivation, suites)
    return IssuedAssociation(
        pair,
        draw(SPIS),
        draw(EIGHT),
        draw(st.integers(1, 2**32 - 2)),
        Mode(mode),
        derivation,
        suites,
        draw(secrets(octets)),
        answered=draw(PAYLOADS),
        carrier=draw(st.sampled_from(Carrier)),
        keys=draw(st.none() | secrets(36)),
    )


@st.composite
def issued(draw: st.DrawFn) -> Issued:
    pairs = draw(st.lists(st.sampled_from(Pair), unique=True))
    wrapping = st.builds(WrappingKey, secrets(64), st.binary(min_size=116, max_size=116))
    return Issued(
        draw(EIGHT),
        draw(EIGHT),
        draw(U16),
        draw(ADDRESSES),
        tuple(draw(issued_associations(pair)) for pair in pairs),
        draw(st.none() | wrapping),
        None,
    )


RECORDS = st.builds(
    Record,
    record_id=U64,
    nai=NAIS,
    active=st.booleans(),
    expires_at=st.none() | CLOCKS,
    static_spi=st.booleans(),
    home_agent=ADDRESSES,
    home_address_kind=st.sampled_from(HomeAddressKind),
    home_address=st.none() | ADDRESSES,
    roam=st.none() | st.frozensets(REALMS, max_size=4),
    unspent=st.lists(U32, max_size=4).map(tuple),
    last_spent=st.none() | U32,
    last_seen=st.none() | IDENTIFICATIONS,
    rounds=st.integers(0, 2),
    accepted_at=st.lists(st.integers(0, 9 * 10**9), max_size=12).map(tuple),
    last_digest=st.none() | DIGESTS,
    current_fa=st.none() | NAIS,
    current_home_address=st.none() | ADDRESSES,
    registered_until=st.none() | CLOCKS,
    revision=U64,
)
KEYS = st.builds(ExchangeKeys, secrets(64), secrets(64), secrets(32), secrets(32))
SPI_LISTS = st.lists(U32, max_size=4).map(tuple)
ADMISSIONS = st.builds(Admission, RECORDS, KEYS, CLOCKS, ticket=TICKETS)
SETTLED = st.builds(Settled, issued(), SPI_LISTS, st.binary(max_size=64))
REPLY_VALUES: st.SearchStrategy[KeyReply] = st.one_of(
    ADMISSIONS,
    st.just(NotAdmitted()),
    SETTLED,
    st.builds(Settled, DENIED, SPI_LISTS),
    st.sampled_from(Fate),
)


@given(REQUEST_VALUES)
def test_a_request_comes_back(value: KeyRequest) -> None:
    event(type(value).__name__)
    octets = encode_key_request_message(value, VENDOR_ID)
    again = decode_key_request_message(octets, VENDOR_ID)
    assert again == value and type(again) is type(value)
    _names_as_written(value, again)


@given(REPLY_VALUES)
def test_a_reply_comes_back(value: KeyReply) -> None:
    event(type(value).__name__)
    octets = encode_key_reply_message(value, VENDOR_ID)
    again = decode_key_reply_message(octets, VENDOR_ID)
    assert again == value and type(again) is type(value)
    _names_as_written(value, again)


def _names_as_written(value: object, again: object) -> None:
    """Names are equal whatever the case of their realms, but go as they are (PROTOCOL 7.2)."""
    for name in ("fa_nai", "home_agent_nai"):
        if hasattr(value, name):
            assert getattr(value, name).octets == getattr(again, name).octets


# --- decoders are total -------------------------------------------------------------------------

GOLDEN = [golden for _, golden in (*REQUESTS.values(), *REPLIES.values())]
EDITS = st.lists(st.tuples(U16, U8, st.sampled_from("sssid")), min_size=1, max_size=4)


def _judge(octets: bytes) -> str:
    """A value that comes back, or one of our errors."""
    verdict = "value"
    try:
        request = decode_key_request_message(octets, VENDOR_ID)
    except RemoteError as error:
        verdict = type(error).__name__
    else:
        again = encode_key_request_message(request, VENDOR_ID)
        assert decode_key_request_message(again, VENDOR_ID) == request
    try:
        reply = decode_key_reply_message(octets, VENDOR_ID)
    except RemoteError:
        return verdict
    again = encode_key_reply_message(reply, VENDOR_ID)
    assert decode_key_reply_message(again, VENDOR_ID) == reply
    return "value"


@given(st.binary(max_size=400))
def test_any_octets(octets: bytes) -> None:
    _judge(octets)
    for message in (1, 2, 3, 4, 17, 18, 19, 20):
        _judge(bytes((1, message, 0, 0)) + octets)


def test_edited_messages() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=2000, deadline=None, database=None)
    @given(st.sampled_from(GOLDEN), EDITS)
    def judge(golden: bytes, edits: list[tuple[int, int, str]]) -> None:
        changed = bytearray(golden)
        for position, value, kind in edits:
            at = position % (len(changed) + 1)
            if kind == "i":
                changed.insert(at, value)
            elif at < len(changed):
                if kind == "s":
                    changed[at] = value
                else:
                    del changed[at]
        met[_judge(bytes(changed))] += 1

    judge()
    assert met["value"] > 50 and met["Malformed"] > 500 and met["UnknownVendor"] > 20, met


def test_each_octet_of_each_message_changed() -> None:
    for golden in GOLDEN:
        for position in range(len(golden)):
            for bit in (0x01, 0x02, 0x80):
                changed = bytearray(golden)
                changed[position] ^= bit
                _judge(bytes(changed))


# --- secrets ------------------------------------------------------------------------------------


def secrets_of(value: object) -> list[bytes]:
    """Every secret anywhere in a value."""
    if isinstance(value, Secret):
        return [value.reveal()]
    if isinstance(value, tuple):
        return [secret for item in value for secret in secrets_of(item)]
    if dataclasses.is_dataclass(value):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return [secret for item in fields for secret in secrets_of(item)]
    return []


def test_no_secret_prints() -> None:
    met: Counter[str] = Counter()

    @settings(database=None, max_examples=300)
    @given(GRANTS | ADMISSIONS | SETTLED)
    def judge(value: KeyRequest | KeyReply) -> None:
        shown = repr(value) + str(value)
        met[type(value).__name__] += sum(len(secret) >= len(MARK) for secret in secrets_of(value))
        assert MARK.decode() not in shown and MARK.hex() not in shown

    judge()
    assert met["GrantRequest"] > 5 and met["Admission"] > 5 and met["Settled"] > 5, met


def test_no_secret_of_the_golden_messages_prints() -> None:
    found = 0
    for value, _ in (*REQUESTS.values(), *REPLIES.values()):
        shown = repr(value)
        for secret in secrets_of(value):
            found += 1
            assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    assert found == 13
