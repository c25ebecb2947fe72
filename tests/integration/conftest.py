"""The two domains of the integration tests, and machines in network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import PostgresServer
from tests.integration.domains import Domains
from tests.integration.namespaces import Namespaces, why_not
from tests.integration.split import SplitHome, make_certificates
from tests.integration.stored import Provision, provisioner


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
def ended() -> Iterator[ExitStack]:
    """Ends what a test has started beside its domains."""
    with ExitStack() as stack:
        yield stack


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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tls/: an authority, and certificates of every process of a split home."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture
def split(
    tmp_path: Path, postgres: PostgresServer, database_name: str, certificates: Path
) -> Iterator[SplitHome]:
    """A home in many processes: configured and not started; nothing runs afterwards."""
    home = SplitHome(tmp_path, postgres, database_name, certificates=certificates)
    home.configure()
    try:
        yield home
    finally:
        home.kill_all()


@pytest.fixture
def provision(postgres: PostgresServer, database_name: str) -> Provision:
    """Adds subscribers and returns their enrolments."""
    return provisioner(postgres, database_name)
