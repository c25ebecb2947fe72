#!/usr/bin/env python3
"""Turns one event of Roamkey's key use (docs/key-use.md) into a preshared key of WireGuard.

    [keys]
    command = ["/usr/local/lib/roamkey/keys_to_wireguard.py", "MN_HA", "wg0", "/etc/roamkey/peers"]

The last argument names a file of lines `ADDRESS PUBLIC-KEY`: the peer's address in the event and
its WireGuard public key; `*` is any address.  Needs CAP_NET_ADMIN and wireguard-tools.  The key
goes to `wg` on its standard input, never into arguments.  It is an example: copy it.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

LABEL = b"roamkey example wireguard v1"


def preshared_key(event: dict[str, Any]) -> bytes:
    """32 octets, the same on both sides: WireGuard has its own keys for each direction.

    HMAC-SHA-256 under all keys of the association, initiator's direction first.  Raises ValueError
    for an association without encryption.
    """
    directions = ["outbound", "inbound"]
    if event["role"] == "responder":
        directions.reverse()
    keys = b"".join(
        bytes.fromhex(suite["keys"][direction]["key"] + suite["keys"][direction]["salt"])
        for suite in event["suites"]
        for direction in directions
        if direction in suite["keys"]
    )
    if not keys:
        raise ValueError("a preshared key needs a suite with keys per direction")
    return hmac.digest(keys, LABEL + event["spi"].to_bytes(4, "big"), "sha256")


def public_key_of(event: dict[str, Any], peers: str) -> str | None:
    """The public key that `peers` has for the event's peer."""
    known = dict(line.split() for line in peers.splitlines() if line.strip())
    return known.get(event["peer"]["address"], known.get("*"))


def main() -> int:
    """Standard input is one event; returns the exit status."""
    event = json.load(sys.stdin)
    if (event["schema"], event["version"]) != ("roamkey/key-use", 1):
        return 2
    pair, interface, peers_file = sys.argv[1:]
    if event["pair"] != pair:
        return 0
    public_key = public_key_of(event, Path(peers_file).read_text())
    if public_key is None:
        return 3
    if event["event"] != "retired":
        key = preshared_key(event)
    elif event["superseded_by"] is None:
        key = secrets.token_bytes(32)  # no one knows it: the next handshake fails
    else:
        return 0
    arguments = ["wg", "set", interface, "peer", public_key, "preshared-key", "/dev/stdin"]
    encoded = base64.b64encode(key) + b"\n"
    return subprocess.run(arguments, input=encoded, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
