"""Waits for what foreign domains say to the end of a registration, and prints it.

What is asked of them, and how it is sent, is kdc.store's and aaa's affair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from kdc.store import disconnects
from kdc.store.database import Connection
from kdc.store.disconnects import NOT_AFTER_S, Disconnect, DisconnectState

out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

WaitOption = Annotated[
    float, typer.Option("--wait", min=0, max=3600, help="seconds to wait for foreign domains")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="ask, and do not wait for answers")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="why; it is kept here and sent to nobody")
]
WAIT_S: Final = 15.0
_INTERRUPTED: Final = 130  # as a shell says it
# RFC 5176 §3.5, RFC 3576 §3.6 and the registry of Error-Cause.
_CAUSES: Final = {
    201: "residual session context removed",
    401: "unsupported attribute",
    402: "missing attribute",
    403: "NAS identification mismatch",
    404: "invalid request",
    405: "unsupported service",
    406: "unsupported extension",
    407: "invalid attribute value",
    501: "administratively prohibited",
    502: "request not routable",
    503: "session context not found",
    504: "session context not removable",
    505: "other proxy processing error",
    506: "resources unavailable",
    507: "request initiated",
    508: "multiple session selection unsupported",
}


def deadline_of(wait_s: float) -> int:
    """For how long a request may be sent: at least for as long as somebody waits for it."""
    return max(NOT_AFTER_S, int(wait_s) + 1)


def report(
    connection: Connection,
    ids: Sequence[int],
    header: dict[str, Any],
    *,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Prints each registration with what became of it; exits with 1 unless all are done.

    `wait_s` None does not wait, and asks nobody's answer.
    """
    if wait_s is None:
        found = disconnects.find(connection, ids)
    else:
        try:
            found = disconnects.wait(connection, ids, timeout_s=wait_s, progress=_Progress().tell)
        except KeyboardInterrupt:
            err.print(f"no longer waited for: {disconnects.STANDS}")
            raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        items = [as_object(item) for item in found]
        typer.echo(json.dumps({**header, "registrations": items}))
    else:
        for item in found:
            out.print(
                f"  {item.registration} at {item.fa_nai} ({item.realm}): {describe_result(item)}"
            )
        if not found:
            out.print("  nothing to be told to foreign domains")
    if wait_s is not None and not all(item.done for item in found):
        raise typer.Exit(1)


class _Progress:
    """One line on standard error for each answer."""

    def __init__(self) -> None:
        self._told = ""

    def tell(self, found: Sequence[Disconnect]) -> None:
        line = f"{sum(item.state.final for item in found)} of {len(found)} answered"
        if found and line != self._told:
            err.print(line)
        self._told = line


def describe_result(item: Disconnect) -> str:
    """What has become of it, for people."""
    if item.state is DisconnectState.ACKED:
        return "acknowledged"
    if item.state is DisconnectState.NAKED:
        cause = item.error_cause
        told = f"Error-Cause {cause}, {_CAUSES.get(cause, 'unknown')}" if cause else "no cause"
        return f"refused ({told})" + (": it holds nothing any more" if item.done else "")
    if item.state is DisconnectState.FAILED:
        return "no answer"
    return "no answer yet" if item.attempts else "not sent yet"


def as_object(item: Disconnect) -> dict[str, Any]:
    """What has become of it, for programs."""
    return {
        "id": item.id,
        "kind": item.kind.value,
        "registration": item.registration,
        "spis": item.spis,
        "fa_nai": item.fa_nai,
        "realm": item.realm,
        "nas_address": item.nas_address,
        "state": item.state.value,
        "error_cause": item.error_cause,
        "done": item.done,
    }
