"""What an operator reads of clients: their exceptions, and what their packets came to."""

from __future__ import annotations

import ipaddress

import pytest
import structlog
from structlog.testing import capture_logs

from aaa.net.observing import OLD_SECRET, OVER_LIMIT, SHED, UNSIGNED, Hop
from aaa.radius import counters as names
from aaa.radius.clients import Client
from aaa.radius.packet import encode_request
from aaa.serve.watch import Watch
from kdc.model import Secret

SECRET = Secret(b"PLANTED shared secret, long enough")
HUB = Hop("UDP", "hub", ("192.0.2.1", 1645))
STRANGER = Hop("UDP", "", ("2001:db8::1", 1645))


def _watch(*, trace: bool = False) -> Watch:
    return Watch(structlog.get_logger("test"), vendor_id=32473, trace=trace)


def _client(name: str, *, required: bool) -> Client:
    network = ipaddress.ip_network("192.0.2.0/24")
    return Client(name, network, (SECRET,), require_message_authenticator=required)


def test_an_exception_is_told_at_the_start_and_with_its_count_when_it_was_used() -> None:
    watch = _watch()
    with capture_logs() as logged:
        watch.warn_of_exceptions([_client("new", required=True), _client("old", required=False)])
    assert [(line["log_level"], line["source"]) for line in logged] == [("warning", "old")]
    with capture_logs() as logged:
        watch.tell_exceptions()
        for _ in range(3):
            watch.noticed(UNSIGNED, "old")
        assert logged == []
        watch.tell_exceptions()
        watch.tell_exceptions()
    assert [(line["source"], line["count"]) for line in logged] == [("old", 3)]


def test_a_weak_secret_is_told_at_the_start_without_the_secret() -> None:
    network = ipaddress.ip_network("192.0.2.0/24")
    weak = Client("weak", network, (SECRET, Secret(b"PLANTED for 16oct")))
    with capture_logs() as logged:
        _watch().warn_of_exceptions([_client("good", required=True), weak])
    assert [line["source"] for line in logged] == ["weak"]
    assert "PLANTED" not in repr(logged)


def test_dropped_packets_are_told_by_client_and_strangers_by_address() -> None:
    watch = _watch()
    with capture_logs() as logged:
        for _ in range(20):
            watch.dropped(HUB, b"PLANTED", names.MALFORMED)
            watch.dropped(HUB, b"PLANTED", names.BAD_AUTHENTICATOR)
            watch.dropped(STRANGER, b"PLANTED", names.UNKNOWN_CLIENT)
            watch.dropped(HUB, b"PLANTED", names.CLIENT_UNEXPECTED)
            for what in (OVER_LIMIT, SHED, OLD_SECRET):
                watch.noticed(what, "hub")
    assert [line["source"] for line in logged] == ["hub", "hub", "2001:db8::1", "hub", "hub", "hub"]
    assert len({line["event"] for line in logged}) == 6
    assert "PLANTED" not in repr(logged)


def test_the_trace_of_a_dropped_packet(capsys: pytest.CaptureFixture[str]) -> None:
    packet = encode_request(1, 7, bytes(16), ((1, b"@home.example"), (2, b"PLANTED")), SECRET)
    with capture_logs():
        watch = _watch()
        watch.dropped(HUB, packet, names.BAD_AUTHENTICATOR)
        assert capsys.readouterr().err == ""
        watch.toggle()
        watch.dropped(HUB, packet, names.BAD_AUTHENTICATOR)
        watch.dropped(HUB, b"PLANTED" * 9, names.MALFORMED)
        watch.dropped(STRANGER, b"PLANTED" * 9, names.UNKNOWN_CLIENT)
        shown = capsys.readouterr().err
        watch.toggle()
        watch.dropped(HUB, packet, names.BAD_AUTHENTICATOR)
        assert capsys.readouterr().err == ""
    head = "dropped, bad authenticator: Access-Request Id 7 from hub (192.0.2.1:1645) over UDP"
    assert head in shown
    assert '\n    User-Name: "@home.example"\n    User-Password: 7 octets\n' in shown
    assert "dropped, malformed packet: a packet from hub" in shown
    assert "dropped, unknown client: a packet from [2001:db8::1]:1645 over UDP, 63 octets" in shown
    assert "PLANTED" not in shown and b"PLANTED".hex() not in shown
