"""Says in the words of the file what was understood of it, defaults filled in, for `aaa check`.

The values of secrets are not in it; reading and judging a file is aaa.config's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel

from kdc.model import Secret


def describe_settings(settings: BaseModel) -> Iterator[str]:
    """The sections of a configuration, one line a key, in the order of the model."""
    for name, section in settings:
        if isinstance(section, BaseModel):
            yield from _section(name, section)
        elif section is not None:
            for item in section:
                yield from _section(name, item, brackets="[[{}]]")


def _section(name: str, section: BaseModel, brackets: str = "[{}]") -> Iterator[str]:
    """One section, those beneath it last: TOML would count later keys to them."""
    yield ""
    yield brackets.format(name)
    beneath = []
    for key, value in section:
        if isinstance(value, BaseModel):
            beneath.append((key, value))
        elif value is not None:
            yield f"{key} = {_value(value)}"
    for key, value in beneath:
        yield from _section(f"{name}.{key}", value)


def _value(value: object) -> str:
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bytes):
        return json.dumps(value.hex())
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
