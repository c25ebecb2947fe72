"""Says in the words of the file what was understood of it, defaults filled in, for `aaa check`.

The values of secrets are not in it; reading and judging a file is aaa.config's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel

from aaa.config import SUITES
from kdc.model import Secret, Suite

_NAME_OF_SUITE = {suite: name for name, suite in SUITES.items()}


def describe_settings(settings: BaseModel) -> Iterator[str]:
    """The sections of a configuration, one line a key, in the order of the model."""
    for name, section in settings:
        if isinstance(section, BaseModel):
            yield from _section(f"[{name}]", section)
        elif section is not None:
            for item in section:
                yield from _section(f"[[{name}]]", item)


def _section(heading: str, section: BaseModel) -> Iterator[str]:
    yield ""
    yield heading
    for key, value in section:
        if value is not None:
            yield f"{key} = {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, Suite):
        return json.dumps(_NAME_OF_SUITE[value])
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bytes):
        return json.dumps(value.hex())
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
