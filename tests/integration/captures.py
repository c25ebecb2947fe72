"""What Wireshark makes of the packets on an interface of one of our machines."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.namespaces import Namespaces

Packet = dict[str, Any]


class Capture:
    """tshark on one machine, from the first packet on."""

    def __init__(
        self,
        machines: Namespaces,
        name: str,
        interface: str,
        file: Path,
        *,
        only: str = "icmp",
    ) -> None:
        """`only` is a capture filter (pcap-filter(7))."""
        if shutil.which("tshark") is None:
            pytest.skip("tshark (Debian: tshark) is not here: nobody else dissects our messages")
        self._file = file
        self._process = machines.popen(
            name,
            "tshark", "-q", "-i", interface, "-f", only, "-w", str(file),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "Capturing on" in line:
                break
        time.sleep(1.0)  # dumpcap announces itself before the kernel's filter is in place

    def packets(self) -> list[Packet]:
        """Ends the capture, and what Wireshark makes of each packet."""
        time.sleep(0.5)
        self._process.terminate()
        self._process.wait(20)
        done = subprocess.run(
            ["tshark", "-r", str(self._file), "-T", "json",
             "--no-duplicate-keys"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        packets: list[Packet] = json.loads(done.stdout)
        return [packet["_source"]["layers"] for packet in packets]


def fields_of(layer: Any) -> list[tuple[str, Any]]:
    """All fields of a dissection, whatever they stand in."""
    if isinstance(layer, list):
        return [item for element in layer for item in fields_of(element)]
    if not isinstance(layer, dict):
        return []
    found = []
    for key, value in layer.items():
        found.append((key, value))
        found += fields_of(value)
    return found


def remarks_on(packet: Packet) -> set[str]:
    """What Wireshark's experts have to say, apart from the text and its severity."""
    return {
        name
        for key, value in fields_of(packet)
        if key == "_ws.expert"
        for name, _ in fields_of(value)
        if not name.startswith("_ws.expert.")
    }


def gaps_between(packets: list[Packet]) -> list[float]:
    """Seconds between packets in a row."""
    times = [float(packet["frame"]["frame.time_epoch"]) for packet in packets]
    return [after - before for before, after in itertools.pairwise(times)]
