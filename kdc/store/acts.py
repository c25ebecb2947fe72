"""What provisioning tells the audit, within the transaction of what it did; never a key."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from kdc.store.audit import record_act


def note_act(
    connection: Connection, action: str, *, subject: object, detail: Mapping[str, object]
) -> None:
    """One act, the last statement before the caller's commit.

    `subject` is a subscriber's internal name, the name of a transport key, or None where an act is
    about many.
    """
    kind = "transport_key" if action.startswith("transport_key.") else "subscriber"
    record_act(connection, None, action, f"{kind}:{'*' if subject is None else subject}", detail)
