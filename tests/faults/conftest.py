"""The fault tests run the same two domains as the integration tests."""

from tests.integration.conftest import domains

__all__ = ["domains"]
