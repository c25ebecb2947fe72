"""The configuration files of a home and a visited domain on one machine, for demo and tests."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aaa.net.udp import Address

_PORTS: Final = range(10_000, 32_768)  # Linux gives clients 32768 and up
HOME_AGENT: Final = "192.0.2.1"
AGENTS: Final = {"fa1": "198.51.100.7", "fa2": "198.51.100.8", "fa3": "203.0.113.9"}
SOURCES: Final = {"fa1": "127.0.0.11", "fa2": "127.0.0.12", "fa3": "127.0.0.13"}


def free_address(kind: socket.SocketKind = socket.SOCK_DGRAM) -> Address:
    """A loopback address that was free for UDP, or another `kind`, a moment ago.

    Its port is none of those that the kernel gives to clients: one of them would take it before it
    is bound.
    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return "127.0.0.1", port


def text_of(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def write_secret(path: Path) -> None:
    """A fresh shared secret, for its owner alone."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32) + "\n")


def write_configurations(folder: Path, ports: Mapping[str, Address]) -> None:
    """One process for the whole home: home.toml, foreign.toml and agent.toml.

    `ports` has `home`, `foreign` and `agent`, and `to_home` and `to_foreign`, where these are
    reached.
    """
    for name in ("visited.secret", "fa1.secret"):
        write_secret(folder / name)
    (folder / "home.toml").write_text(
        f"""[home]
listen = ["{text_of(ports["home"])}"]
realm = "home.example"
nai = "ha1@home.example"
address = "{HOME_AGENT}"

[database]
url = "embedded:state"
kek_file = "home.kek"

[[client]]
name = "visited"
address = "127.0.0.1/32"
secret_file = "visited.secret"
realms = ["visited.example"]
"""
    )
    (folder / "foreign.toml").write_text(_foreign(ports, {"fa1": "127.0.0.1"}))
    (folder / "agent.toml").write_text(
        _agent("fa1", "visited.example", ports["agent"], ports["to_foreign"], "")
    )


def write_split_configurations(folder: Path, ports: Mapping[str, Address]) -> None:
    """Every party in a process of its own: both networks of the founding description.

    `ports` has `home`, `ha1`, `kdc` (TCP), `foreign`, `fa1`, `fa2`, `fa3`, and where these are
    reached: `to_home`, `to_ha1`, `fa1_to_foreign`, `fa2_to_foreign`, `fa3_to_ha1`.  Agents 1 and 2
    are behind the foreign AAA; agent 3, of another realm, is a client of the home agent itself.
    Each is known by a loopback address of its own (`SOURCES`).
    """
    for name in ("visited", "ha1", "fa1", "fa2", "fa3"):
        write_secret(folder / f"{name}.secret")
    (folder / "home.toml").write_text(
        f"""[home]
listen = ["{text_of(ports["home"])}"]
realm = "home.example"

[[home_agent]]
name = "ha1"
address = "{HOME_AGENT}"
server = "{text_of(ports["to_ha1"])}"
secret_file = "ha1.secret"

[[client]]
name = "visited"
address = "127.0.0.1/32"
secret_file = "visited.secret"
realms = ["visited.example"]
"""
    )
    (folder / "home-agent.toml").write_text(_home_agent(ports))
    (folder / "kdc.toml").write_text(
        f"""[kdc]
listen = ["{text_of(ports["kdc"])}"]
realm = "home.example"

[tls]
certificate_file = "tls/kdc.pem"
key_file = "tls/kdc.key"
ca_file = "tls/ca.pem"

[database]
url = "embedded:state"
kek_file = "home.kek"

[[home_agent]]
name = "ha1"
nai = "ha1@home.example"
address = "{HOME_AGENT}"
san = ["ha1.home.example"]
"""
    )
    behind = {name: SOURCES[name] for name in ("fa1", "fa2")}
    (folder / "foreign.toml").write_text(_foreign(ports, behind))
    for name in ("fa1", "fa2"):
        (folder / f"{name}.toml").write_text(
            _agent(name, "visited.example", ports[name], ports[f"{name}_to_foreign"], f"{name}-")
        )
    (folder / "fa3.toml").write_text(
        _agent("fa3", "direct.example", ports["fa3"], ports["fa3_to_ha1"], "fa3-")
    )


def _home_agent(ports: Mapping[str, Address]) -> str:
    return f"""[home_agent]
name = "ha1"
listen = ["{text_of(ports["ha1"])}"]
realm = "home.example"
nai = "ha1@home.example"
address = "{HOME_AGENT}"

[tls]
certificate_file = "tls/ha1.pem"
key_file = "tls/ha1.key"
ca_file = "tls/ca.pem"

[[kdc]]
name = "kdc"
san = ["kdc.home.example"]
address = "{text_of(ports["kdc"])}"

[[client]]
name = "aaah"
address = "127.0.0.1/32"
secret_file = "ha1.secret"
realms = ["*"]

[[client]]
name = "fa3"
address = "{SOURCES["fa3"]}/32"
secret_file = "fa3.secret"
realms = ["direct.example"]

[negotiation.mn_ha]
suites = ["aes-256-gcm", "chacha20-poly1305"]
"""


def _foreign(ports: Mapping[str, Address], agents: Mapping[str, str]) -> str:
    clients = "".join(
        f"""
[[client]]
name = "{name}"
address = "{source}/32"
secret_file = "{name}.secret"
fa_nai = "{name}@visited.example"
nas_address = "{AGENTS[name]}"
nas_identifier = "{name}"
"""
        for name, source in agents.items()
    )
    return f"""[foreign]
listen = ["{text_of(ports["foreign"])}"]
realm = "visited.example"
{clients}
[[home_server]]
name = "home"
address = "{text_of(ports["to_home"])}"
secret_file = "visited.secret"
realms = ["home.example"]
"""


def _agent(name: str, realm: str, listen: Address, server: Address, prefix: str) -> str:
    return f"""[agent]
listen = "{text_of(listen)}"
nai = "{name}@{realm}"
address = "{AGENTS[name]}"
care_of_address = "{AGENTS[name]}"
nas_identifier = "{name}"
advertisement_file = "{prefix}advertisement.json"
state_file = "{prefix}installed.jsonl"

[radius]
server = "{text_of(server)}"
secret_file = "{name}.secret"
"""
