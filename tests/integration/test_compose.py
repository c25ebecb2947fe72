"""docker-compose.yml as the real `docker compose config` reads it, and the files that it mounts.

No engine runs here: that the containers start is not shown.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from aaa.config import load_agent, load_foreign, load_home
from kdc.config import read_secret_file

ROOT = Path(__file__).parents[2]
OUR_SERVICES = ("migrate", "home", "foreign", "agent")
SERVICES = ("postgres", *OUR_SERVICES)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The project after interpolation, merging and validation, without a .env of this machine."""
    program = str(resources.files("compose") / "docker-compose")
    environment = {"PATH": os.environ["PATH"], "ROAMKEY_UID": "4711", "ROAMKEY_GID": "4712"}
    done = subprocess.run(
        [program, "--file", str(ROOT / "docker-compose.yml"), "config", "--format", "json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # an unset variable or an obsolete key is a warning here
    project: dict[str, Any] = json.loads(done.stdout)
    return project


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([str(ROOT / "deploy/make-secrets"), str(folder)], check=True, timeout=60)
    return folder


def mounted(service: dict[str, Any], secrets: Path, folder: Path) -> Path:
    """The service's configuration, with /run/secrets as that service alone would see it."""
    own = folder / "run-secrets"
    own.mkdir()
    for item in service["secrets"]:
        path = own / Path(item.get("target") or item["source"]).name
        path.write_bytes((secrets / item["source"]).read_bytes())
        path.chmod(0o600)
    [config] = service["configs"]
    name = Path(config["target"]).name
    text = (ROOT / "deploy/compose" / name).read_text().replace("/run/secrets", str(own))
    (folder / name).write_text(text)
    return folder / name


def address_in(service: dict[str, Any], network: str) -> str:
    return str(service["networks"][network]["ipv4_address"])


def test_services_are_exactly_these(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_privilege(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert not service.get("privileged", False)
    assert service["user"] == "4711:4712"
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"network_mode", "pid", "ipc", "userns_mode", "devices"} & service.keys()
    assert all(volume["type"] == "volume" for volume in service.get("volumes", []))


def test_default_user_is_that_of_the_image() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert "\nUSER 10001:10001\n" in dockerfile
    assert (
        '"${ROAMKEY_UID:-10001}:${ROAMKEY_GID:-10001}"' in (ROOT / "docker-compose.yml").read_text()
    )
    assert "SECRET" not in dockerfile.upper().replace("/RUN/SECRETS", "").replace(
        "--SECRET-FILE", ""
    ).replace("NO SECRET", "")


def test_secrets_come_from_files_and_never_from_the_environment(compose: dict[str, Any]) -> None:
    for secret in compose["secrets"].values():
        assert Path(secret["file"]).parent == ROOT / "deploy/secrets"
    for name in SERVICES:
        service = compose["services"][name]
        assert service["secrets"]
        for variable in service.get("environment", {}):
            assert "PASSWORD" not in variable or variable.endswith("_FILE")
            assert "SECRET" not in variable


def test_each_container_gets_only_its_own_secrets(compose: dict[str, Any]) -> None:
    held = {
        name: {item["source"] for item in compose["services"][name]["secrets"]} for name in SERVICES
    }
    assert [name for name in SERVICES if "kek" in held[name]] == ["migrate", "home"]
    assert [name for name in SERVICES if "radius_agent" in held[name]] == ["foreign", "agent"]
    assert held["agent"] == {"radius_agent"}
    assert held["postgres"] == {"database_password"}
    assert set().union(*held.values()) == set(compose["secrets"])


def test_health_is_asked_of_the_real_service(compose: dict[str, Any]) -> None:
    for name in ("postgres", "home", "foreign", "agent"):
        test = compose["services"][name]["healthcheck"]["test"]
        assert test[:2] in (["CMD", "pg_isready"], ["CMD", "aaa"])
    assert compose["services"]["home"]["depends_on"]["migrate"]["condition"] == (
        "service_completed_successfully"
    )
    assert compose["services"]["migrate"]["depends_on"]["postgres"]["condition"] == (
        "service_healthy"
    )


def test_only_the_agent_can_be_reached_and_only_home_reaches_the_database(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert [name for name in SERVICES if services[name].get("ports")] == ["agent"]
    [port] = services["agent"]["ports"]
    assert (port["published"], port["target"], port["protocol"]) == ("434", 4340, "udp")
    near_database = {name for name in SERVICES if "database" in services[name]["networks"]}
    assert near_database == {"postgres", "migrate", "home"}
    assert set(services["agent"]["networks"]) == {"visited", "access"}
    for network in ("database", "roaming", "visited"):
        assert compose["networks"][network]["internal"] is True


def test_home_reads_its_configuration(
    compose: dict[str, Any], secrets: Path, tmp_path: Path
) -> None:
    service = compose["services"]["home"]
    home = load_home(mounted(service, secrets, tmp_path))
    assert home.database is not None
    assert home.database.url.startswith("postgresql://roamkey@postgres/roamkey?passfile=")
    assert home.home.listen[0] == f"{address_in(service, 'roaming')}:1812"
    foreign = ip_address(address_in(compose["services"]["foreign"], "roaming"))
    assert home.client[0].address is not None
    assert foreign in ip_network(home.client[0].address)


def test_foreign_and_agent_fit_each_other_and_home(
    compose: dict[str, Any], secrets: Path, tmp_path: Path
) -> None:
    services = compose["services"]
    files = {}
    for name in ("home", "foreign", "agent"):
        (tmp_path / name).mkdir()
        files[name] = mounted(services[name], secrets, tmp_path / name)
    home, foreign, agent = (
        load_home(files["home"]),
        load_foreign(files["foreign"]),
        load_agent(files["agent"]),
    )
    client, server = foreign.client[0], foreign.home_server[0]
    assert agent.radius.secret_file == client.secret_file
    assert server.secret_file == home.client[0].secret_file
    assert server.secret_file != client.secret_file
    assert (agent.agent.nai, agent.agent.address) == (client.fa_nai, client.nas_address)
    assert agent.agent.nas_identifier == client.nas_identifier
    assert client.address is not None
    assert ip_address(address_in(services["agent"], "visited")) in ip_network(client.address)
    assert agent.radius.server == foreign.foreign.listen[0]
    assert server.address == home.home.listen[0]
    assert home.home.realm in server.realms
    assert foreign.foreign.realm in home.client[0].realms
    assert agent.agent.nai == home.foreign_agent[0].nai
    assert agent.agent.listen.endswith(f":{services['agent']['ports'][0]['target']}")


def test_secrets_are_made_once_and_are_private(secrets: Path, compose: dict[str, Any]) -> None:
    assert {path.name for path in secrets.iterdir()} == set(compose["secrets"])
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert len(set(before.values())) == len(before)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets.iterdir())
    subprocess.run([str(ROOT / "deploy/make-secrets"), str(secrets)], check=True, timeout=60)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    password = before["database_password"].strip().decode()
    assert before["database_pgpass"].strip().decode().split(":") == ["*"] * 3 + [
        "roamkey",
        password,
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root hands the files to the user of the image")
def test_the_maker_can_read_its_secrets(secrets: Path) -> None:
    assert len(read_secret_file(secrets / "kek")) == 64
