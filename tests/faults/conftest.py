"""The fault tests run the same domains and the same split home as the integration tests."""

from tests.integration.conftest import certificates, domains, split

__all__ = ["certificates", "domains", "split"]
