"""The configurations in the README are accepted as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aaa.config import load_any

_README = Path(__file__).parents[2] / "README.md"
_BLOCKS = re.findall(r"`([a-z-]+\.toml)`\n\n((?:    .*\n|\n)+)", _README.read_text())


def test_there_is_one_of_each() -> None:
    names = [name for name, _ in _BLOCKS]
    assert names == [
        "home.toml",
        "foreign.toml",
        "agent.toml",
        "mobile-node.toml",
        "home-agent.toml",
        "kdc.toml",
    ]


@pytest.mark.parametrize(("name", "block"), _BLOCKS, ids=[name for name, _ in _BLOCKS])
def test_an_example_is_accepted(name: str, block: str, tmp_path: Path) -> None:
    text = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    file = tmp_path / name
    file.write_text(text)
    for secret in re.findall(r'"([a-z0-9]+\.(?:secret|kek|key))"', text):
        path = tmp_path / secret
        path.write_text("ab" * 32)
        path.chmod(0o600)
    process, _ = load_any(file)
    assert process == name.removesuffix(".toml").replace("-", "_")
