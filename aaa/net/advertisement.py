"""An FA's advertisement as a file, for where no ICMP is heard: written by the FA, read by the MN.

One JSON object: `fa_address`, `care_of_address`, and `nvse`, the octets of the two NVSEs in hex.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from aaa.net.files import write_atomically
from aaa.roles.mobile_node import Heard
from kdc.errors import LocalError, RemoteError
from kdc.wire.advertisement import decode_announcement, encode_announcement


def write_advertisement(path: Path, heard: Heard, vendor_id: int) -> None:
    """Replaces the file in one step, so that a reader never sees half of it."""
    content = {
        "fa_address": str(heard.fa_address),
        "care_of_address": str(heard.care_of_address),
        "nvse": encode_announcement(heard.announcement, vendor_id).hex(),
    }
    write_atomically(path, json.dumps(content) + "\n", mode=0o644)


def read_advertisement(path: Path, vendor_id: int) -> Heard:
    """What the file advertises; raises `LocalError` that says what was expected."""
    try:
        content = json.loads(path.read_text())
        return Heard(
            decode_announcement(bytes.fromhex(content["nvse"]), vendor_id),
            ip_address(content["fa_address"]),
            IPv4Address(content["care_of_address"]),
        )
    except OSError as error:
        raise LocalError(
            f"{path}: expected the advertisement that `aaa agent` writes: {error.strerror}"
        ) from None
    except (ValueError, KeyError, TypeError, RemoteError):
        raise LocalError(
            f"{path}: expected one JSON object with fa_address, care_of_address and nvse (hex)"
        ) from None
