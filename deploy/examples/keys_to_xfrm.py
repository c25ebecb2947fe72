#!/usr/bin/env python3
"""Feeds one event of Roamkey's key use (docs/key-use.md) into Linux IPsec, ESP in transport mode.

    [keys]
    command = ["/usr/local/lib/roamkey/keys_to_xfrm.py", "MN_FA"]

The arguments are the pairs to take.  Needs CAP_NET_ADMIN and iproute2.  Keys go to `ip -batch -` on
its standard input, never into arguments.  It is an example: copy it.
"""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

AEAD = {"aes-256-gcm": "rfc4106(gcm(aes))", "chacha20-poly1305": "rfc7539esp(chacha20,poly1305)"}
CIPHERS = {"aes-256-cbc": "cbc(aes)", "null": "ecb(cipher_null)"}
HASHES = {"hmac-sha2-256": ("hmac(sha256)", 128), "hmac-sha2-512": ("hmac(sha512)", 256)}
REQID = {"MN_HA": 1, "MN_FA": 2, "FA_HA": 3, "MN_SMM": 4}
MOBILE_IP = 434  # registrations stay in the clear: they are what brings the next keys


def batch(event: dict[str, Any], now: float) -> str:
    """The lines for `ip -batch -`; raises ValueError for suites that ESP does not have."""
    local, peer = event["local"]["address"], event["peer"]["address"]
    if local is None or peer is None:
        raise ValueError("ESP needs the addresses of both sides")
    states = {"outbound": (local, peer), "inbound": (peer, local)}
    if event["event"] == "retired":
        lines = [f"xfrm state delete {_id(event, *ends)}" for ends in states.values()]
        # Else the policies stay: without an association nothing passes, rather than in the clear.
        if event["reason"] == "deregistered":
            lines += _policies("delete", event, local, peer)
        return "\n".join(lines) + "\n"
    expires_at = datetime.fromisoformat(event["expires_at"]).replace(tzinfo=UTC)
    left_s = max(1, int(expires_at.timestamp() - now))
    lines = [
        f"xfrm state add {_id(event, *ends)} reqid {REQID[event['pair']]} mode transport"
        f" replay-window 128 flag esn {_algorithms(event, direction)} limit time-hard {left_s}"
        for direction, ends in states.items()
    ]
    return "\n".join(lines + _policies("update", event, local, peer)) + "\n"


def _id(event: dict[str, Any], source: str, destination: str) -> str:
    return f"src {source} dst {destination} proto esp spi {event['spi']}"


def _algorithms(event: dict[str, Any], direction: str) -> str:
    suites = {suite["protocol"]: suite for suite in event["suites"]}
    aead, cipher, mac = map(suites.get, ("aead", "encryption", "authentication"))
    if aead is not None:
        key = aead["keys"][direction]
        return f"aead {AEAD[aead['algorithm']]} 0x{key['key']}{key['salt']} 128"
    if cipher is None or mac is None or not {mac["algorithm"]} <= HASHES.keys():
        raise ValueError("ESP needs an AEAD, or a cipher and HMAC-SHA2")
    name, icv_bits = HASHES[mac["algorithm"]]
    given = cipher["keys"].get(direction)
    encryption = f"0x{given['key']}" if given else '""'
    key = _authentication_key(event, mac["keys"]["both"]["key"], direction)
    encrypt = f"enc {CIPHERS[cipher['algorithm']]} {encryption}"
    return f"auth-trunc {name} 0x{key} {icv_bits} {encrypt}"


def _authentication_key(event: dict[str, Any], both: str, direction: str) -> str:
    """The HMAC key of one direction, by HKDF-Expand.

    ESP has no direction inside what it authenticates: under one key for both ways, and with one
    SPI for both, a packet could be sent back to its sender.
    """
    sends = event["role"] == "initiator"
    from_responder = sends != (direction == "outbound")
    key, block, octets = bytes.fromhex(both), b"", b""
    while len(octets) < len(key):
        info = b"roamkey example esp auth v1" + bytes([from_responder, len(octets) // 32 + 1])
        block = hmac.digest(key, block + info, "sha256")
        octets += block
    return octets[: len(key)].hex()


def _policies(verb: str, event: dict[str, Any], local: str, peer: str) -> list[str]:
    lines = []
    for direction, source, destination in (("out", local, peer), ("in", peer, local)):
        ends = f"src {source} dst {destination}"
        for port in ("sport", "dport"):
            clear = f"xfrm policy {verb} {ends} proto udp {port} {MOBILE_IP} dir {direction}"
            lines.append(clear if verb == "delete" else f"{clear} priority 10")
        line = f"xfrm policy {verb} {ends} dir {direction}"
        template = f"tmpl {ends} proto esp reqid {REQID[event['pair']]} mode transport"
        lines.append(line if verb == "delete" else f"{line} priority 20 {template}")
    return lines


def main() -> int:
    """Standard input is one event; returns the exit status."""
    event = json.load(sys.stdin)
    if (event["schema"], event["version"]) != ("roamkey/key-use", 1):
        return 2
    if event["pair"] not in sys.argv[1:]:
        return 0
    text = batch(event, datetime.now(UTC).timestamp())
    return subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
