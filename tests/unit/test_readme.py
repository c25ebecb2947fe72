"""The configurations in the README and in docs/radius.md are accepted as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aaa.config import load_any

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"`([a-z-]+\.toml)`[^\n]*\n\n((?:    .*\n|\n)+)")
_PAGES = {
    page: _BLOCK.findall((_ROOT / page).read_text()) for page in ("README.md", "docs/radius.md")
}
_BLOCKS = [(page, name, text) for page, found in _PAGES.items() for name, text in found]


def test_there_is_one_of_each() -> None:
    assert [name for name, _ in _PAGES["README.md"]] == [
        "home.toml",
        "foreign.toml",
        "agent.toml",
        "mobile-node.toml",
        "home-agent.toml",
        "kdc.toml",
    ]
    assert [name for name, _ in _PAGES["docs/radius.md"]] == [
        "home.toml",
        "foreign.toml",
        "agent.toml",
    ]


@pytest.mark.parametrize(
    ("name", "block"),
    [(name, text) for _, name, text in _BLOCKS],
    ids=[f"{page} {name}" for page, name, _ in _BLOCKS],
)
def test_an_example_is_accepted(name: str, block: str, tmp_path: Path) -> None:
    text = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    file = tmp_path / name
    file.write_text(text)
    for number, secret in enumerate(re.findall(r'"([a-z0-9-]+\.(?:secret|kek|key))"', text)):
        path = tmp_path / secret
        path.write_text(f"{number:064x}")
        path.chmod(0o600)
    process, _ = load_any(file)
    assert process == name.removesuffix(".toml").replace("-", "_")
