"""The parties of the tests of RADIUS over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.net.authority import Authority
from tests.unit.net.radsec import Parties


@pytest.fixture
async def parties(tmp_path: Path) -> AsyncIterator[Parties]:
    made = Parties(tmp_path, Authority(tmp_path))
    yield made
    await made.close()
