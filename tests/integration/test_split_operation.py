"""A split home as an operator starts and checks it: order, files, and what is said of a mistake."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from aaa.demo.configurations import HOME_AGENT
from kdc.store.migrate import newest_revision
from tests.integration.split import ADDRESSES, Node, SplitHome, run_kdc


def one_line(said: str) -> str:
    assert "Traceback" not in said
    (line,) = said.strip().splitlines()
    return line


async def test_a_home_agent_may_be_started_before_its_kdc(split: SplitHome) -> None:
    (node,) = (Node(enrolment, 1) for enrolment in split.subscribers(1))
    await split.launch("ha1", "fa3")
    assert await node.try_once(split, "fa3") == 67, "nobody to ask"
    await split.launch("kdc2")
    assert await node.try_once(split, "fa3") == 0
    assert split.count() == (1, 3)
    assert {split.stop(name) for name in ("fa3", "ha1", "kdc2")} == {0}
    assert "home.denials.130=1" in split.log("ha1")


def test_a_kdc_without_its_database_ends_with_one_line(split: SplitHome) -> None:
    split.edit("kdc1.toml", "?host=", "?host=/nowhere")
    line = one_line(split.kdc("serve", "--config", "kdc1.toml", expect=1))
    assert "the database is not reachable" in line and "database.url" in line


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("tls/kdc1.key", "", "", "tls.key_file: expected mode 0400, 0440, 0600 or 0640, not 0644"),
        ("kdc1.toml", "tls/kdc1.key", "tls/ha1.key", "expected the key of"),
        ("kdc1.toml", "tls/ca.pem", "tls/ca.key", "ca.key: expected"),
        ("kdc1.toml", '"ha2.home.example"', '"ha1.home.example"', "the same name"),
        ("kdc1.toml", 'realm = "home.example"', "", "kdc.realm: required, but missing"),
        ("kdc1.toml", "[kdc]", "[kdc]\nlisten_too = 1", "kdc.listen_too: unknown key"),
    ],
)
def test_a_kdc_that_is_set_up_wrongly_says_what_was_expected(
    split: SplitHome, file: str, old: str, new: str, expected: str
) -> None:
    if old:
        split.edit(file, old, new)
    else:
        (split.folder / file).chmod(0o644)
    assert expected in one_line(split.kdc("serve", "--config", "kdc1.toml", expect=1))


def test_each_file_is_checked_as_its_own_process_reads_it(split: SplitHome) -> None:
    for file, process in (
        ("kdc1.toml", "`kdc serve`"),
        ("ha1.toml", "`aaa home-agent`"),
        ("home.toml", "`aaa home`"),
        ("fa3.toml", "`aaa agent`"),
    ):
        said = split.aaa("check", "--config", file)
        assert process in said.splitlines()[0]
        for secret in split.folder.glob("*.secret"):
            assert secret.read_text().strip() not in said
    assert f'address = "{ADDRESSES["ha2"]}"' in split.aaa("check", "--config", "home.toml")
    split.edit("ha2.toml", "kdc2.home.example", "*.home.example")
    assert "a DNS name without wildcard" in one_line(
        split.aaa("check", "--config", "ha2.toml", expect=1)
    )


def test_kdc_commands_read_the_kdcs_file_and_no_home_agents(split: SplitHome) -> None:
    assert f"is at {newest_revision()};" in split.kdc("db", "current", "--config", "kdc1.toml")
    said = split.kdc("subscriber", "list", "--config", "ha1.toml", expect=1)
    assert "database: required, but missing" in said and "Traceback" not in said
    said = split.kdc("subscriber", "add", "mn@home.example", "--config", "kdc1.toml", expect=2)
    assert "--home-agent" in said
    assert said.count(HOME_AGENT) == 1 and said.count(ADDRESSES["ha2"]) == 1
    said = split.kdc(
        "subscriber", "add", "mn@home.example", "--config", "kdc1.toml",
        "--home-agent", "192.0.2.77", expect=2,
    )  # fmt: skip
    assert "192.0.2.77" in said
    assert split.kdc("subscriber", "list", "--config", "kdc1.toml", "--json") == ""
    (enrolment,) = split.subscribers(1, home_agent="ha2")
    assert str(enrolment.home_agent) == ADDRESSES["ha2"]
    assert str(enrolment.home_agent_nai) == "ha2@home.example"


def test_certificates_are_never_overwritten_and_keys_are_their_owners(tmp_path: Path) -> None:
    run_kdc(tmp_path, "tls", "authority", "tls", "--name", "home.example")
    run_kdc(tmp_path, "tls", "issue", "tls", "kdc", "--san", "kdc.home.example")
    folder = tmp_path / "tls"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.key": 0o600, "kdc.key": 0o600, "ca.pem": 0o644, "kdc.pem": 0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments in (
        ("authority", "tls", "--name", "other.example"),
        ("issue", "tls", "kdc", "--san", "other.home.example"),
    ):
        line = one_line(run_kdc(tmp_path, "tls", *arguments, expect=1))
        assert "exists: expected a name that is free" in line
    # Where half of it is gone, nothing new comes beside what is left.
    for gone in ("kdc.key", "kdc.pem"):
        (folder / gone).unlink()
        line = one_line(
            run_kdc(tmp_path, "tls", "issue", "tls", "kdc", "--san", "kdc.home.example", expect=1)
        )
        assert "exists" in line and not (folder / gone).exists()
        (folder / gone).write_bytes(before[gone])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
