"""The root in a PKCS#11 token: SoftHSM2 as a real one would be asked, and as one that goes away."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdc.config import ConfigurationError, DatabaseSettings, Pkcs11Settings, load_kdc
from kdc.crypto.kek import KeyUnusable
from kdc.model import Secret
from kdc.store import CannotStart, Store, keks, migrate
from kdc.store.database import administration
from kdc.store.errors import RootUnavailable
from kdc.store.keks import Pace
from kdc.store.keyring import OUTCOME_EPOCH_S
from kdc.store.roots import Roots, configured_roots
from tests.conftest import PostgresServer
from tests.integration.domains import Domains
from tests.integration.stored import Provision
from tests.integration.test_keks import HOME, UNTHROTTLED, Issuing

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")
MODULE = next((Path(path) for path in MODULES if Path(path).exists()), None)
if MODULE is None:
    pytest.skip("NO TOKEN IS TESTED HERE: softhsm2 is not installed", allow_module_level=True)
pytest.importorskip("pkcs11", reason="NO TOKEN IS TESTED HERE: python-pkcs11 is not installed")


@dataclass
class Token:
    """A token of SoftHSM with nothing in it; `away` is where it goes in an outage."""

    folder: Path
    settings: Pkcs11Settings

    def take_away(self) -> None:
        (self.folder / "tokens").rename(self.folder / "away")
        (self.folder / "tokens").mkdir()

    def bring_back(self) -> None:
        (self.folder / "tokens").rmdir()
        (self.folder / "away").rename(self.folder / "tokens")

    def database(self, settings: DatabaseSettings, **changes: Any) -> DatabaseSettings:
        """`settings` with this token as the root."""
        return settings.model_copy(update={"pkcs11": self.settings} | changes)


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of tokens.  SoftHSM reads where they are once in a process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    yield folder
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def token(softhsm: Path, tmp_path: Path) -> Token:
    import pkcs11

    name, pin = f"root-{secrets.token_hex(4)}", secrets.token_hex(8)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", *_options(label=name, so_pin="1234", pin=pin)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    pin_file = tmp_path / "pin"
    pin_file.write_text(pin + "\n")
    pin_file.chmod(0o600)
    pkcs11.lib(str(MODULE)).reinitialize()  # a token made since is not seen otherwise
    return Token(
        softhsm,
        Pkcs11Settings.model_validate(
            {"module": str(MODULE), "token": name, "key": "roamkey", "pin_file": str(pin_file)}
        ),
    )


def _options(**given: str) -> list[str]:
    return [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)
    ]


def _root(token: Token) -> Any:
    from kdc.store.pkcs11_root import Pkcs11Root

    return Pkcs11Root(token.settings)


def test_a_key_in_the_token_wraps_and_never_comes_out(token: Token) -> None:
    import pkcs11

    root = _root(token)
    with pytest.raises(RootUnavailable, match="NoSuchKey"):
        root.wrap(Secret(bytes(32)), 1, secrets.token_bytes)
    root.create_key()
    with pytest.raises(CannotStart, match="expected no key of this name"):
        root.create_key()
    kek = Secret(secrets.token_bytes(32))
    wrapped = root.wrap(kek, 3, secrets.token_bytes)
    assert root.unwrap(wrapped, 3) == kek
    flipped = wrapped[:-1] + bytes((wrapped[-1] ^ 1,))
    for bad, version in ((wrapped, 4), (flipped, 3), (wrapped[:20], 3), (b"", 3)):
        with pytest.raises(KeyUnusable):
            root.unwrap(bad, version)
    with root._key() as key:
        assert key[pkcs11.Attribute.SENSITIVE] and not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.exceptions.PKCS11Error):
            key[pkcs11.Attribute.VALUE]


def test_what_is_wrong_with_a_token_is_one_line_without_the_pin(token: Token) -> None:
    pin = token.settings.pin_file.read_text().strip()
    for wrong in ({"token": "nobody"}, {"key": "nothing"}, {"module": Path("/nonexistent.so")}):
        other = Token(token.folder, token.settings.model_copy(update=wrong))
        with pytest.raises(RootUnavailable) as told:
            _root(other).unwrap(bytes(60), 1)
        assert "\n" not in str(told.value) and pin not in str(told.value)
    token.settings.pin_file.write_text("0000000")
    with pytest.raises(RootUnavailable, match="PinIncorrect"):
        _root(token).unwrap(bytes(60), 1)


async def test_from_a_file_to_a_token_and_the_token_goes_away(
    token: Token,
    store: Store,
    provision: Provision,
    database_settings: DatabaseSettings,
    postgres: PostgresServer,
    database_name: str,
) -> None:
    """The database leaves its file; servers started with the token issue on without it."""
    enrolments = provision(2)
    _root(token).create_key()
    both = token.database(database_settings)
    alone = token.database(database_settings, kek_file=None)
    with administration(postgres.conninfo(database_name)) as admin:
        roots = configured_roots(both)
        keks.add(admin, roots, entropy=secrets.token_bytes)
        keks.activate(admin, roots, 2, settling_s=0)
        list(keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=UNTHROTTLED))
        keks.purge(admin, 1)
        rows = list(keks.list_all(admin, Roots(_root(token))))
    assert [(row.state, row.opens) for row in rows] == [("purged", None), ("active", True)]
    async with Store.opened(alone, entropy=secrets.token_bytes) as served:
        server = Issuing(served, enrolments)
        await server.register(0, enrolments[0])
        token.take_away()
        try:
            with pytest.raises(RootUnavailable):
                _root(token).unwrap(bytes(60), 2)
            for epoch in range(1, 4):  # a fresh outcome key each: made without the token
                server.shift_s = epoch * OUTCOME_EPOCH_S
                for index, enrolment in enumerate(enrolments):
                    await server.register(index, enrolment)
                await served.keys.refresh()
                await served.keys.ask_root()
            with pytest.raises(RootUnavailable, match="the token does not answer"):
                async with Store.opened(alone, entropy=secrets.token_bytes):
                    pass
        finally:
            token.bring_back()
    async with Store.opened(alone, entropy=secrets.token_bytes) as again:
        assert (await again.load([server.spis[0]])).unreadable == 0
    # Who was started with the file alone has never been able to unwrap version 2.
    assert not store.keyring.has_kek(2)


async def test_a_version_that_is_added_during_an_outage_comes_when_the_token_is_back(
    token: Token,
    store: Store,
    provision: Provision,
    database_settings: DatabaseSettings,
    postgres: PostgresServer,
    database_name: str,
) -> None:
    enrolments = provision(1)
    _root(token).create_key()
    settings = token.database(database_settings)
    async with Store.opened(settings, entropy=secrets.token_bytes) as served:
        server = Issuing(served, enrolments)
        with administration(postgres.conninfo(database_name)) as admin:
            keks.add(admin, configured_roots(settings), entropy=secrets.token_bytes)
            token.take_away()
            try:
                await served.keys.refresh()
                await served.keys.ask_root()
                assert not served.keyring.has_kek(2)
                with pytest.raises(RootUnavailable):
                    keks.activate(admin, configured_roots(settings), 2, settling_s=0)
                admin.rollback()
                await server.register(0, enrolments[0])
            finally:
                token.bring_back()
            served.keys._asked_at.clear()
            await served.keys.ask_root()
            assert served.keyring.has_kek(2)
            keks.activate(admin, configured_roots(settings), 2, settling_s=0)
            await served.keys.refresh()
            assert served.keyring.wrapping_version == 2
            server.shift_s = OUTCOME_EPOCH_S
            await server.register(0, enrolments[0])


def test_an_operator_moves_a_home_to_a_token(token: Token, domains: Domains) -> None:
    """By the commands of the manual, to the end: the file can go."""
    given = token.settings
    domains.edit(
        "home.toml",
        "[database]\n",
        f'[database]\npkcs11 = {{ module = "{given.module}", token = "{given.token}",'
        f' key = "{given.key}", pin_file = "{given.pin_file}" }}\n',
    )
    assert "a new root key" in domains.kdc("kek", "create-in-token", *HOME)
    domains.kdc("kek", "add", *HOME)
    settings = load_kdc(domains.folder / "home.toml").database
    with administration(domains.postgres.conninfo(domains.database_name)) as admin:
        keks.activate(admin, configured_roots(settings), 2, settling_s=0)
    domains.kdc("kek", "rewrap", "--rows", *HOME)
    domains.kdc("kek", "purge", "1", *HOME)
    domains.edit("home.toml", f'kek_file = "{domains.postgres.kek_file}"\n', "")
    shown = domains.kdc("kek", "list", "--json", *HOME).splitlines()
    assert [json.loads(line)["opens"] for line in shown] == [None, True]
    domains.kdc("client", "add", "proxy", "198.51.100.0/24", "--generate", *HOME)


def test_a_fresh_database_under_a_token_has_no_file(
    token: Token, postgres: PostgresServer, database_name: str, database_settings: DatabaseSettings
) -> None:
    _root(token).create_key()
    roots = configured_roots(token.database(database_settings, kek_file=None))
    with administration(postgres.conninfo(database_name)) as admin:
        migrate.downgrade(admin, "base")
        migrate.upgrade(admin, roots, entropy=secrets.token_bytes, progress=lambda line: None)
        migrate.load_keyring(admin, roots)
        (row,) = keks.list_all(admin, roots)
        assert row.root.startswith("pkcs11:") and row.data_keys == 4
        list(keks.rewrap(admin, roots, entropy=secrets.token_bytes, pace=Pace(10)))


def test_a_configuration_names_some_root(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    path.write_text('[database]\nurl = "embedded:state"\n')
    with pytest.raises(ConfigurationError, match="it wraps all keys, unless pkcs11 does"):
        load_kdc(path)
