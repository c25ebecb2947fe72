"""The two domains of the integration tests, and machines in network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PostgresServer
from tests.integration.domains import Domains
from tests.integration.namespaces import Namespaces, why_not


@pytest.fixture
def domains(tmp_path: Path, postgres: PostgresServer, database_name: str) -> Iterator[Domains]:
    """Configured and not started; whatever was started is gone afterwards."""
    both = Domains(tmp_path, postgres, database_name)
    both.configure()
    try:
        yield both
    finally:
        both.kill_all()


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """No machine yet; whatever the test adds and starts is gone afterwards."""
    refused = why_not()
    if refused is not None:
        pytest.skip(f"REAL ICMP IS NOT TESTED HERE: {refused}")
    machines = Namespaces()
    try:
        yield machines
    finally:
        machines.remove()
