"""The sessions of a foreign agent as a document, so that home can end what outlives the process.

It holds no key: Class, SPIs, alias and link address of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from aaa.roles.foreign_agent_sessions import Session
from kdc.errors import LocalError, RemoteError
from kdc.model import Nai, Secret

SCHEMA: Final = "roamkey/agent-sessions"
VERSION: Final = 1


def encode_sessions(sessions: Iterable[Session]) -> Secret:
    """The document, for a file of mode 0600: nobody else's business, if no key."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "sessions": [_describe(session) for session in sessions],
    }
    return Secret(json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def decode_sessions(octets: Secret) -> tuple[Session, ...]:
    """What `encode_sessions` wrote; raises `LocalError` without quoting it."""
    try:
        content = json.loads(octets.reveal())
        if (content["schema"], content["version"]) == (SCHEMA, VERSION):
            return tuple(_read(item) for item in content["sessions"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, RemoteError):
        pass
    raise LocalError(f"expected a document of {SCHEMA} {VERSION}")


def _describe(session: Session) -> dict[str, Any]:
    return {
        **asdict(session),
        "class_id": session.class_id.hex(),
        "alias": str(session.alias),
    }


def _read(content: dict[str, Any]) -> Session:
    return Session(
        number=str(content["number"]),
        realm=str(content["realm"]),
        class_id=bytes.fromhex(content["class_id"]),
        spis=tuple(int(spi) for spi in content["spis"]),
        binding=str(content["binding"]),
        sender=str(content["sender"]),
        alias=Nai.parse(content["alias"]),
        began_at=float(content["began_at"]),
        expires_at=float(content["expires_at"]),
    )
