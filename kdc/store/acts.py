"""What provisioning tells of itself, within the transaction of what it did; never a key."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import Connection

_log = logging.getLogger(__name__)


def note_act(
    connection: Connection, action: str, *, subject: str | None, detail: Mapping[str, object]
) -> None:
    """One administrative act; the caller commits it with what it is about."""
    del connection
    _log.info("%s %s %s", action, subject or "-", dict(detail))
