"""Real peers: radclient asks, tshark dissects what our processes put on the wire."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from aaa.net.mobile_ip import MobileIpSocket
from aaa.radius.packet import encode_request
from aaa.roles.mobile_node import MobileNodeState, Registered, accept_reply, build_request
from kdc.model import Secret
from tests.integration.domains import Domains

needs_radclient = pytest.mark.skipif(
    shutil.which("radclient") is None, reason="radclient (Debian: freeradius-utils) is not here"
)
needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="tshark (Debian: tshark) is not here"
)


def _radclient(domains: Domains, name: str, secret: str, *, expect: int = 0) -> str:
    host, port = domains.ports[name]
    done = subprocess.run(
        ["radclient", "-x", "-r", "2", "-t", "1", f"{host}:{port}", "status", secret],
        input="Message-Authenticator = 0x00\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode != 0) == bool(expect), done.stdout + done.stderr
    return done.stdout


@needs_radclient
async def test_radclient_gets_status_server_answered(domains: Domains) -> None:
    await domains.start_all()
    for name, file in (("home", "visited.secret"), ("foreign", "fa1.secret")):
        said = _radclient(domains, name, domains.secret(file).decode())
        assert "Received Access-Accept" in said
    _radclient(domains, "home", "another shared secret", expect=1)
    domains.stop_all()
    assert "radius.bad_authenticator=" in domains.log("home")


async def test_unsigned_and_foreign_packets_are_dropped_and_counted(domains: Domains) -> None:
    await domains.start_all()
    right = Secret(domains.secret("visited.secret"))
    signed = encode_request(12, 1, bytes(16), (), right)
    # The length of a Status-Server without its Message-Authenticator; a truncated one; noise.
    dropped = [signed[:2] + b"\x00\x14" + signed[4:20], signed[:30], b"\x00" * 40, b""]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.connect(domains.ports["home"])
        for packet in dropped:
            client.send(packet)
            with pytest.raises(TimeoutError):
                client.recv(4096)
        client.send(signed)
        assert client.recv(4096)[0] == 2
    domains.stop_all()
    assert "radius.malformed=" in domains.log("home")


def _capture(domains: Domains, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    file = folder / "capture.pcapng"
    ports = " or ".join(f"udp port {port}" for _, port in domains.ports.values())
    process = subprocess.Popen(
        ["tshark", "-q", "-i", "lo", "-f", ports, "-w", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if b"Capturing on" in line:
            break
    time.sleep(1.0)  # dumpcap announces itself before the kernel's filter is in place
    return process, file


def _dissect(file: Path, domains: Domains, *options: str) -> list[dict[str, Any]]:
    decode = []
    for name, protocol in (("home", "radius"), ("foreign", "radius"), ("agent", "mip")):
        decode += ["-d", f"udp.port=={domains.ports[name][1]},{protocol}"]
    done = subprocess.run(
        ["tshark", "-r", str(file), *decode, *options, "-T", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    packets: list[dict[str, Any]] = json.loads(done.stdout)
    return [packet["_source"]["layers"] for packet in packets]


@needs_tshark
async def test_tshark_finds_nothing_malformed_and_the_authenticators_right(
    domains: Domains, tmp_path: Path
) -> None:
    (enrolment,) = domains.provision(1)
    heard = await domains.start_all()
    process, file = _capture(domains, tmp_path)
    state, pending = build_request(
        MobileNodeState.enrolled(enrolment),
        heard,
        lifetime_s=600,
        now=time.time(),
        entropy=random.Random(5).randbytes,
    )
    async with MobileIpSocket.open(domains.ports["agent"]) as link:
        link.send(pending.octets)
        reply = await link.receive(10)
    assert reply is not None
    assert isinstance(accept_reply(state, pending, reply, now=time.time())[1], Registered)
    await asyncio.sleep(1.0)
    process.terminate()
    _, said = process.communicate(timeout=20)
    if not file.exists() and os.geteuid() != 0:
        pytest.skip(f"this user may not capture on loopback: {said.decode().strip()[:200]}")
    for secret_file, server in (("visited.secret", "home"), ("fa1.secret", "foreign")):
        secret = domains.secret(secret_file).decode()
        layers = _dissect(
            file,
            domains,
            "-o", f"radius.shared_secret:{secret}",
            "-o", "radius.validate_authenticator:TRUE",
        )  # fmt: skip
        _check(layers, domains.ports[server][1])


def _check(layers: list[dict[str, Any]], port: int) -> None:
    """Two registration messages and four RADIUS packets; those of `port` authentic."""
    text = json.dumps(layers)
    assert "_ws.malformed" not in text and "Malformed" not in text
    registrations = [layer for layer in layers if "mip" in layer]
    radius = [layer for layer in layers if "radius" in layer]
    assert [layer["mip"]["mip.type"] for layer in registrations] == ["1", "3"]
    assert sorted(layer["radius"]["radius.code"] for layer in radius) == ["1", "1", "2", "2"]
    ours = [
        layer
        for layer in radius
        if str(port) in (layer["udp"]["udp.srcport"], layer["udp"]["udp.dstport"])
    ]
    assert len(ours) == 2
    (response,) = [layer for layer in ours if layer["radius"]["radius.code"] == "2"]
    told = response["radius"]["radius.authenticator_tree"]
    assert told["radius.authenticator.valid"] == "1"
    assert told["radius.authenticator.invalid"] == "0"
