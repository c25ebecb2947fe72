"""The storm runs the same domains as the integration tests."""

from tests.integration.conftest import domains

__all__ = ["domains"]
