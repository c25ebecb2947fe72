"""What a foreign agent has installed and dropped: one JSON line each, and never a key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from aaa.net.udp import Address
from aaa.roles.foreign_agent import Delivery
from aaa.roles.foreign_agent_sessions import Session
from kdc.crypto.key0 import fingerprint_key


class InstalledLog:
    """SPI, key name and fingerprint of what was installed, SPI and Class of what home ended."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "w", buffering=1)

    def write(self, delivery: Delivery, link: Address) -> None:
        """A line for each association of a grant."""
        for item in delivery.associations:
            self._write(
                pair=item.pair.name,
                spi=item.spi,
                key_name=item.key_name.hex(),
                fingerprint=fingerprint_key(item.keys),
                lifetime_s=item.lifetime_s,
                alias=str(delivery.alias),
                link=f"{link[0]}:{link[1]}",
            )

    def write_dropped(self, session: Session, spis: Iterable[int], reason: str) -> None:
        """A line for each association that ends before its time and not by its node."""
        for spi in spis:
            self._write(
                dropped=reason,
                spi=spi,
                class_id=session.class_id.hex(),
                alias=str(session.alias),
                link=session.sender,
            )

    def _write(self, **line: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
