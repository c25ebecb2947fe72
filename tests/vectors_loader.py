"""Loads tests/vectors: one parameter a vector, its id the test's id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "vectors"
Vector = dict[str, Any]


def vectors(kind: str) -> list[Vector]:
    """All vectors of a kind, in file order."""
    loaded: list[Vector] = json.loads((_FOLDER / f"{kind}.json").read_text())["vectors"]
    return loaded


def vector_id(vector: Vector) -> str:
    return str(vector["id"])


def octets(text: str) -> bytes:
    return bytes.fromhex(text)
