"""What passes between our processes on loopback: its octets, and what Wireshark makes of them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from aaa.net.udp import Address
from aaa.radius.packet import Packet, decode

needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None,
    reason="TSHARK IS MISSING: install tshark, or what is on the wire is NOT looked at",
)
_READ_TIMEOUT_S: Final = 120
_LOOPBACK: Final = bytes((127, 0, 0, 1))


class LoopbackCapture:
    """tshark on the loopback interface, from the first packet on.

    `ports` are those to look at, each with its protocol: radius, mip or tls.
    """

    def __init__(self, file: Path, ports: Mapping[Address, str]) -> None:
        self._decode = [
            f"{'tcp' if protocol == 'tls' else 'udp'}.port=={port},{protocol}"
            for (_, port), protocol in ports.items()
        ]
        only = " or ".join(f"port {port}" for _, port in ports)
        self.file = file
        self._process = subprocess.Popen(
            ["tshark", "-q", "-i", "lo", "-B", "16", "-f", only, "-w", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if b"Capturing on" in line:
                break
        time.sleep(1.0)  # dumpcap announces itself before the kernel's filter is in place

    def stop(self) -> None:
        """Ends it; skips where this user may not capture."""
        time.sleep(1.0)  # what the kernel has handed over last
        self._process.terminate()
        _, said = self._process.communicate(timeout=20)
        if not self.file.exists() and os.geteuid() != 0:
            pytest.skip(f"NO CAPTURE ON LOOPBACK: {said.decode(errors='replace').strip()[:200]}")

    def kill(self) -> None:
        """Whatever happened before, nothing is captured any more."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    @property
    def octets(self) -> bytes:
        """The file: each packet stands in it in one piece (pcapng)."""
        return self.file.read_bytes()

    def read(self) -> Dissection:
        """What Wireshark makes of it, by the protocols that were said."""
        return Dissection(self.file, tuple(self._decode))


class Seen(NamedTuple):
    """A RADIUS packet of UDP, and when (Unix seconds) it went from which port to which."""

    at: float
    source: int
    destination: int
    packet: Packet


@dataclass(frozen=True)
class Dissection:
    """A file of packets as tshark reads it; `decode` are its rules (`-d`)."""

    file: Path
    decode: tuple[str, ...] = ()

    @cached_property
    def radius(self) -> list[Seen]:
        """What tshark takes for RADIUS, read by us: it has no names for many attributes.

        Both agree on the code of each packet.
        """
        fields = ("frame.time_epoch", "udp.srcport", "udp.dstport", "radius.code", "udp.payload")
        wanted = [word for field in fields for word in ("-e", field)]
        seen = []
        for line in self._run("-Y", "radius", "-T", "fields", *wanted):
            at, source, destination, code, payload = line.split("\t")
            packet = decode(bytes.fromhex(payload), signed=False)
            assert packet.code == int(code)
            seen.append(Seen(float(at), int(source), int(destination), packet))
        return seen

    def to(self, port: int, code: int) -> list[Packet]:
        """Those of a code that went to a port, in their order."""
        return [s.packet for s in self.radius if s.destination == port and s.packet.code == code]

    def of(self, port: int, code: int) -> list[Packet]:
        """Those of a code that came from a port, in their order."""
        return [s.packet for s in self.radius if s.source == port and s.packet.code == code]

    def codes(self) -> Counter[int]:
        """How many packets of each code there are."""
        return Counter(seen.packet.code for seen in self.radius)

    def remarks(self) -> list[str]:
        """Packets that are malformed, or of which Wireshark's experts say that they are wrong."""
        return self._run("-Y", '_ws.malformed or _ws.expert.severity == "Error"')

    def _run(self, *options: str) -> list[str]:
        rules = [word for rule in self.decode for word in ("-d", rule)]
        done = subprocess.run(
            ["tshark", "-n", "-r", str(self.file), *rules, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=_READ_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def write_capture(file: Path, packets: Iterable[bytes]) -> None:
    """RADIUS packets as a capture of UDP port 1812, for Wireshark to read (pcap, LINKTYPE_RAW)."""
    with file.open("wb") as capture:
        capture.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for packet in packets:
            total = 28 + len(packet)
            ip = struct.pack(">BBHIBBH4s4s", 0x45, 0, total, 0, 64, 17, 0, _LOOPBACK, _LOOPBACK)
            udp = struct.pack(">HHHH", 1812, 1812, total - 20, 0)
            capture.write(struct.pack("<IIII", 0, 0, total, total) + ip + udp + packet)
