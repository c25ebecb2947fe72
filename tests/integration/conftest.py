"""The two domains of the integration tests, started by each test that wants them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PostgresServer
from tests.integration.domains import Domains


@pytest.fixture
def domains(tmp_path: Path, postgres: PostgresServer, database_name: str) -> Iterator[Domains]:
    """Configured and not started; whatever was started is gone afterwards."""
    both = Domains(tmp_path, postgres, database_name)
    both.configure()
    try:
        yield both
    finally:
        both.kill_all()
