"""How the storm reaches a server, and how it knows that the server keeps up.

What is sent is tests.fuzz.storm's affair.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aaa.net.udp import Address
from aaa.radius.errors import BadAuthenticator, MalformedPacket
from aaa.radius.packet import (
    ACCOUNTING_RESPONSE,
    MESSAGE_AUTHENTICATOR,
    RADSEC_SECRET,
    RESPONSES_TO,
    STATUS_SERVER,
    decode,
    encode_request,
    verify_response,
)
from aaa.radius.stream import PacketStream
from kdc.model import Secret
from tests.fuzz.storm_figures import Unanswered

_ANSWERS: Final = frozenset().union(*RESPONSES_TO.values())
_EVENT_TIMESTAMP: Final = 55  # RFC 2869 §5.3; dynamic authorization wants it (RFC 5176 §3.1)
_SOURCES: Final = 16  # ports, so that packets of one identifier rarely displace each other
_WAIT_S: Final = 0.5
_HANDSHAKE_S: Final = 5.0
_TRIES: Final = 20
_BUFFER_OCTETS: Final = 4 * 2**20


class Link(Protocol):
    """A way to one server.  Every method raises `Unanswered` for what the server got wrong."""

    sent: int  # packets of all kinds that have been given to the kernel
    answered: int  # those of them that are not mutated and have been answered
    burst: int  # how many may be sent before the server must be waited for

    def send(self, number: int, octets: bytes) -> None:
        """Sends packet `number` of the storm."""

    def settle(self) -> None:
        """Returns when what was sent behind everything else has been answered."""

    def ask(self, octets: bytes) -> bytes:
        """The answer to a good packet, retransmitted while there is none."""

    def close(self) -> None: ...


class UdpLink:
    """Many sources to one UDP port; one more for what must be answered.

    All of them wait in one queue of the server, in order: once the probe behind them is answered,
    nothing is left in it.
    """

    # They must fit the smallest receive buffer that a kernel gives, 425,984 octets of memory: most
    # packets take a kilooctet or two of it.
    burst = 64

    def __init__(self, address: Address, secret: Secret, probe: int = STATUS_SERVER) -> None:
        self._secret, self._probe_code = secret, probe
        self._sources = [_connected(address) for _ in range(_SOURCES)]
        self._probe = _connected(address)
        self.sent = self.answered = 0

    def send(self, number: int, octets: bytes) -> None:
        self._send(self._sources[number % _SOURCES], octets)

    def settle(self) -> None:
        for _ in range(_TRIES):
            if self._answer_to(probe_of(self._probe_code, self._secret)) is not None:
                break
        else:
            raise Unanswered("what asks whether it lives is not answered")
        for source in self._sources:
            while (answer := self._receive(source)) is not None:
                check_answer(answer)

    def ask(self, octets: bytes) -> bytes:
        for _ in range(_TRIES):
            answer = self._answer_to(octets)
            if answer is not None:
                return answer
        raise Unanswered("a good request is not answered")

    def _answer_to(self, octets: bytes) -> bytes | None:
        """What answers `octets` within half a second; older answers are passed over."""
        self._send(self._probe, octets)
        until = time.monotonic() + _WAIT_S
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._probe], [], [], left)[0]:
                return None
            answer = self._receive(self._probe)
            if answer is not None and is_answer(answer, octets, self._secret):
                self.answered += 1
                return answer
        return None

    def _send(self, source: socket.socket, octets: bytes) -> None:
        try:
            source.send(octets)
        except ConnectionRefusedError:
            raise Unanswered("nobody listens any more") from None
        self.sent += 1

    def _receive(self, source: socket.socket) -> bytes | None:
        try:
            return source.recv(8192)
        except BlockingIOError:
            return None
        except ConnectionRefusedError:
            raise Unanswered("nobody listens any more") from None

    def close(self) -> None:
        for one in (*self._sources, self._probe):
            one.close()


class TlsLink:
    """One connection after the other: a bad packet closes it (RFC 6613 §2.6.4).

    So a Status-Server goes behind each packet, and what became of it is known before the next.
    """

    burst = 4  # most of them cost a handshake

    def __init__(self, address: Address, context: ssl.SSLContext) -> None:
        self._address, self._context = address, context
        self._connection: ssl.SSLSocket | None = None
        self.sent = self.answered = 0

    def send(self, number: int, octets: bytes) -> None:
        # What a stream takes for the packet is Length octets: a lie gets what it asks for, and only
        # of eight is one left with a tail, behind which the server waits for the rest of nothing.
        octets = octets.ljust(20, b"\0")
        length = int.from_bytes(octets[2:4], "big")
        if 20 <= length < len(octets) and number % 8:
            octets = octets[:length]
        self._send(octets.ljust(min(4096, length), b"\0"))
        self._probe()

    def settle(self) -> None:
        for _ in range(_TRIES):
            if self._probe() is not None:
                return
        raise Unanswered("Status-Server is not answered")

    def _probe(self) -> bytes | None:
        return self._answer_to(probe_of(STATUS_SERVER, RADSEC_SECRET))

    def ask(self, octets: bytes) -> bytes:
        for _ in range(_TRIES):
            answer = self._answer_to(octets)
            if answer is not None:
                return answer
        raise Unanswered("a good request is not answered")

    def _answer_to(self, octets: bytes) -> bytes | None:
        """What answers `octets`; None, and the connection is given up, if nothing does."""
        self._send(octets)
        stream = PacketStream()
        try:
            while self._connection is not None:
                received = self._connection.recv(65536)
                if not received:
                    break
                stream.feed(received)
                for answer in stream.take(1000):
                    check_answer(answer)
                    if is_answer(answer, octets, RADSEC_SECRET):
                        self.answered += 1
                        return answer
        except OSError:  # closed, or silent: a Length that lied waits for octets
            pass
        self.close()
        return None

    def _send(self, octets: bytes) -> None:
        """What the kernel takes for a connection that is closing is not sent again."""
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.sendall(octets)
        except OSError:
            self.close()
        self.sent += 1

    def _open(self) -> ssl.SSLSocket:
        try:
            plain = socket.create_connection(self._address, _HANDSHAKE_S)
        except ConnectionRefusedError:
            raise Unanswered("nobody listens any more") from None
        # A probe must not wait until the packet before it has been acknowledged.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection = self._context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        connection.settimeout(_WAIT_S)
        return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def probe_of(code: int, secret: Secret) -> bytes:
    """A Status-Server, or where a port knows none a request that it answers by a refusal."""
    now = (_EVENT_TIMESTAMP, int(time.time()).to_bytes(4, "big"))
    return encode_request(code, 0, os.urandom(16), () if code == STATUS_SERVER else (now,), secret)


def is_answer(answer: bytes, request: bytes, secret: Secret) -> bool:
    """Whether an answer is signed for this request, and no older one."""
    try:
        verify_response(decode(answer), request[4:20], secret, request_code=request[0])
    except (BadAuthenticator, MalformedPacket):
        return False
    return True


def check_answer(octets: bytes) -> None:
    """Whatever was asked: an answer is well-formed and its Message-Authenticator comes first."""
    try:
        packet = decode(octets)
    except MalformedPacket as error:
        raise Unanswered(f"a malformed answer ({error}): {octets.hex()}") from None
    # What answers accounting has none (RFC 2866 §5.13).
    first = packet.attributes[0][0] if packet.attributes else None
    is_signed = first == MESSAGE_AUTHENTICATOR or packet.code == ACCOUNTING_RESPONSE
    if packet.code not in _ANSWERS or not is_signed:
        raise Unanswered(f"an answer of code {packet.code}: {octets.hex()}")


def _connected(address: Address) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
    one.connect(address)
    return one


@dataclass(frozen=True, slots=True)
class Watch:
    """What the kernel says of one process and its UDP port."""

    pid: int
    address: Address

    def resident_kb(self) -> int:
        """Memory that the process has now; raises `Unanswered` if it is gone."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            raise Unanswered("the process is gone") from None
        for line in text.splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise Unanswered("the process has ended")

    def dropped(self) -> int:
        """Datagrams that its socket had no room for, ever (proc(5): the last column)."""
        host, port = self.address
        local = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        return sum(int(row[-1]) for row in rows if row[1] == local)
