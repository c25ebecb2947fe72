"""The configuration of each process of aaa: strict models over TOML (kdc.config).

How a file is read and what is said of a fault is kdc.config's; nothing here starts anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from aaa.config.agent import AgentConfig
from aaa.config.foreign import ForeignConfig
from aaa.config.home import HomeAgentConfig, HomeConfig, KdcConfig
from aaa.config.keys import KeyOutletSettings
from aaa.config.mobile_node import MobileNodeConfig, MobileNodeSection
from aaa.config.tls import RadiusClient, TlsPeer, TlsServer, TlsSettings
from kdc.config import ConfigurationError, Problem, StrictModel, load, read_toml

__all__ = [
    "PROCESSES",
    "AgentConfig",
    "ForeignConfig",
    "HomeAgentConfig",
    "HomeConfig",
    "KdcConfig",
    "KeyOutletSettings",
    "MobileNodeConfig",
    "MobileNodeSection",
    "RadiusClient",
    "TlsPeer",
    "TlsServer",
    "TlsSettings",
    "load_agent",
    "load_any",
    "load_foreign",
    "load_home",
    "load_home_agent",
    "load_kdc_server",
    "load_mobile_node",
]

# By the section that only this process has; [[home_agent]] and [[kdc]] name others' servers.
PROCESSES: Final[dict[str, type[StrictModel]]] = {
    "home": HomeConfig,
    "foreign": ForeignConfig,
    "agent": AgentConfig,
    "home_agent": HomeAgentConfig,
    "kdc": KdcConfig,
    "mobile_node": MobileNodeConfig,
}


def load_home(path: Path) -> HomeConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, HomeConfig)


def load_foreign(path: Path) -> ForeignConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, ForeignConfig)


def load_agent(path: Path) -> AgentConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, AgentConfig)


def load_home_agent(path: Path) -> HomeAgentConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, HomeAgentConfig)


def load_kdc_server(path: Path) -> KdcConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, KdcConfig)


def load_mobile_node(path: Path) -> MobileNodeConfig:
    """Raises `ConfigurationError` with all that is wrong."""
    return load(path, MobileNodeConfig)


def load_any(path: Path) -> tuple[str, StrictModel]:
    """The process that a file is for, told by its section, and its configuration."""
    tables: dict[str, Any] = read_toml(path)
    named = [name for name in PROCESSES if isinstance(tables.get(name), dict)]
    if len(named) != 1:
        sections = ", ".join(f"[{name}]" for name in PROCESSES)
        raise ConfigurationError(path, (Problem("", f"expected exactly one of {sections}"),))
    return named[0], load(path, PROCESSES[named[0]])
