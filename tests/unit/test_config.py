"""Configuration files: what is refused, how it is said, and that no secret is in what is said."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from aaa.cli.settings import describe_settings
from aaa.config import (
    AgentConfig,
    HomeConfig,
    MobileNodeConfig,
    TlsServer,
    TlsSettings,
    load_agent,
    load_any,
    load_foreign,
    load_home,
    load_mobile_node,
)
from kdc.config import ConfigurationError, StrictModel, load, load_kdc, read_secret_file
from kdc.model import Nai, Secret, alias_nai

SECRET = b"correct horse battery staple"

HOME = """
[home]
listen = ["127.0.0.1:1812"]
realm = "Home.Example"
nai = "ha@home.example"
address = "192.0.2.1"

[database]
url = "embedded:data"
kek_file = "kek"

[[client]]
name = "visited"
address = "198.51.100.0/24"
secret_file = "secret"
realms = ["visited.example"]

[[foreign_agent]]
nai = "fa1@visited.example"
care_of = ["198.51.100.0/24"]
"""

FOREIGN = """
[foreign]
listen = ["127.0.0.1:1813"]
realm = "visited.example"

[[client]]
name = "fa1"
address = "127.0.0.2/32"
secret_file = "secret"
fa_nai = "fa1@visited.example"
nas_address = "2001:db8::1"
nas_identifier = "fa1"

[[home_server]]
name = "home"
address = "[::1]:1812"
secret_file = "secret"
realms = ["home.example"]
"""

AGENT = """
[agent]
listen = "127.0.0.1:4340"
nai = "fa1@visited.example"
address = "198.51.100.7"
care_of_address = "198.51.100.7"
nas_identifier = "fa1"
advertisement_file = "advertisement.json"

[radius]
server = "127.0.0.1:1813"
secret_file = "secret"
"""

MOBILE_NODE = """
[mobile_node]
enrolment_file = "enrolment.json"
state_file = "state.json"
foreign_agent = "127.0.0.1:4340"
advertisement_file = "advertisement.json"
link_address = "02:00:5e:10:33:44"
"""


# [keys] of the three that hold associations; the program is any that only root can change.
KEYS = """
[keys]
file = "keys.json"
command = ["/bin/true", "--quiet"]
timeout_s = 2.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("secret", SECRET + b"\n"), ("kek", b"0f" * 32)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "file.toml"
    path.write_text(text)
    return path


def problems_of(path: Path, loader: Callable[[Path], StrictModel] = load_home) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as refused:
        loader(path)
    assert refused.value.file == path
    return {problem.key: problem.expected for problem in refused.value.problems}


def test_home_is_read_with_its_defaults(folder: Path) -> None:
    config = load_home(written(folder, HOME))
    assert config.home.realm == "home.example"
    assert config.home.nai == Nai.parse("ha@home.example")
    assert config.home.address == IPv4Address("192.0.2.1")
    assert (config.home.maximum_lifetime_s, config.home.window_s) == (1800, 7)
    assert config.home.default_suites == ("aes-256-gcm",)
    assert config.client[0].secret_file == Secret(SECRET)
    assert (config.log.level, config.log.format) == ("info", "text")


def test_relative_paths_are_relative_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    config = load_home(written(folder, HOME))
    assert config.database is not None
    assert config.database.url == f"embedded:{folder}/data"
    assert config.database.kek_file == folder / "kek"
    monkeypatch.chdir(folder)
    assert load_home(Path("file.toml")) == config


def test_kdc_reads_the_same_file(folder: Path) -> None:
    path = written(folder, HOME)
    assert load_kdc(path).database == load_home(path).database
    (identity,) = load_kdc(path).identities()
    home = load_home(path).home
    assert (identity.nai, identity.address) == (home.nai, home.address)


def test_kdc_refuses_an_unknown_key_of_its_own_section(folder: Path) -> None:
    path = written(folder, HOME.replace("[database]", "[database]\npool = 3"))
    with pytest.raises(ConfigurationError, match=r"file\.toml: database\.pool: unknown key"):
        load_kdc(path)


def test_the_other_processes_are_read_and_recognised(folder: Path) -> None:
    foreign = load_foreign(written(folder, FOREIGN))
    assert foreign.home_server[0].address == "[::1]:1812"
    agent = load_agent(written(folder, AGENT))
    assert agent.agent.advertisement_file == folder / "advertisement.json"
    assert agent.agent.key_lifetime_s == 3600
    node = load_mobile_node(written(folder, MOBILE_NODE))
    assert node.mobile_node.enrolment_file == folder / "enrolment.json"
    for name, text in (("home", HOME), ("foreign", FOREIGN), ("agent", AGENT)):
        assert load_any(written(folder, text))[0] == name
    assert isinstance(load_any(written(folder, HOME))[1], HomeConfig)


def test_an_agent_that_accounts_and_is_told_to_end_sessions(folder: Path) -> None:
    plain = load_agent(written(folder, AGENT))
    assert (plain.radius.accounting, plain.radius.accounting_server) == (False, None)
    assert (plain.agent.dynamic_authorization_listen, plain.agent.session_file) == (None, None)
    text = AGENT.replace(
        "[radius]\n",
        'dynamic_authorization_listen = "198.51.100.7:3799"\nsession_file = "sessions.json"\n'
        '[radius]\naccounting = true\naccounting_server = "127.0.0.1:1814"\n'
        "accounting_interim_s = 600\n",
    )
    full = load_agent(written(folder, text))
    assert full.agent.dynamic_authorization_listen == "198.51.100.7:3799"
    assert full.agent.session_file == folder / "sessions.json"
    assert (full.radius.accounting_server, full.radius.accounting_interim_s) == (
        "127.0.0.1:1814",
        600,
    )


FILE = 'advertisement_file = "advertisement.json"'
AGENT_BY_ICMP = AGENT.replace(FILE, 'advertise_on = "eth1"')
MOBILE_NODE_BY_ICMP = MOBILE_NODE.replace(FILE, 'interface = "wlan0"').replace(
    'foreign_agent = "127.0.0.1:4340"\n', ""
)


def test_agent_and_node_find_each_other_by_icmp_or_by_a_file(folder: Path) -> None:
    agent = load_agent(written(folder, AGENT_BY_ICMP)).agent
    assert (agent.advertise_on, agent.advertisement_file) == ("eth1", None)
    assert (agent.advertisement_interval_s, agent.advertisement_address) == (10, "224.0.0.1")
    both = load_agent(written(folder, AGENT.replace(FILE, f'{FILE}\nadvertise_on = "eth1"')))
    assert (both.agent.advertise_on, both.agent.advertisement_file) == (
        "eth1",
        folder / "advertisement.json",
    )
    node = load_mobile_node(written(folder, MOBILE_NODE_BY_ICMP)).mobile_node
    assert (node.interface, node.advertisement_file, node.foreign_agent) == ("wlan0", None, None)
    without = MOBILE_NODE.replace('foreign_agent = "127.0.0.1:4340"\n', "")
    assert load_mobile_node(written(folder, without)).mobile_node.foreign_agent is None
    by_address = MOBILE_NODE_BY_ICMP.replace("wlan0", "198.51.100.254")
    assert load_mobile_node(written(folder, by_address)).mobile_node.interface == "198.51.100.254"


@pytest.mark.parametrize(
    ("text", "old", "new", "problem"),
    [
        (AGENT, FILE, "", "agent: expected advertise_on (an interface) or advertisement_file"),
        (
            AGENT,
            "[radius]\n",
            '[radius]\naccounting_server = "127.0.0.1:1814"\n',
            "radius: expected accounting = true beside accounting_server and _interim_s",
        ),
        (
            AGENT,
            "[radius]\n",
            "[radius]\naccounting = true\naccounting_interim_s = 59\n",
            "radius.accounting_interim_s: expected greater than or equal to 60",
        ),
        (
            AGENT,
            FILE,
            f'{FILE}\ndynamic_authorization_listen = "3799"',
            "agent.dynamic_authorization_listen: expected HOST:PORT",
        ),
        (MOBILE_NODE, FILE, "", "mobile_node: expected either interface or advertisement_file"),
        (
            MOBILE_NODE,
            FILE,
            f'{FILE}\ninterface = "eth0"',
            "mobile_node: expected either interface or advertisement_file",
        ),
        (
            AGENT_BY_ICMP,
            'address = "198.51.100.7"\ncare',
            'address = "2001:db8::7"\ncare',
            "agent: expected an IPv4 address in address: advertise_on speaks ICMP",
        ),
        (AGENT_BY_ICMP, '"eth1"', '"a name too long"', "agent.advertise_on: expected the name of"),
        (AGENT_BY_ICMP, '"eth1"', '"sixteen-letters-"', "agent.advertise_on: expected the name"),
        (MOBILE_NODE_BY_ICMP, '"wlan0"', "0", "mobile_node.interface: expected the name of"),
        (
            AGENT_BY_ICMP,
            '"eth1"',
            '"eth1"\nadvertisement_interval_s = 0.5',
            "agent.advertisement_interval_s: expected greater than or equal to 1",
        ),
        (
            AGENT_BY_ICMP,
            '"eth1"',
            '"eth1"\nadvertisement_address = "224.0.0.2"',
            "agent.advertisement_address: expected '224.0.0.1' or '255.255.255.255'",
        ),
    ],
)
def test_how_they_find_each_other_is_said_where_it_is_wrong(
    folder: Path, text: str, old: str, new: str, problem: str
) -> None:
    assert old in text
    path = written(folder, text.replace(old, new))
    with pytest.raises(ConfigurationError, match=re.escape(problem)) as refused:
        load_any(path)
    assert len(refused.value.problems) == 1


def test_three_processes_can_hand_their_keys_on(folder: Path) -> None:
    for text in (HOME, AGENT, MOBILE_NODE):
        without, settings = (load_any(written(folder, text + more))[1] for more in ("", KEYS))
        assert isinstance(without, HomeConfig | AgentConfig | MobileNodeConfig)
        assert isinstance(settings, HomeConfig | AgentConfig | MobileNodeConfig)
        assert without.keys is None
        keys = settings.keys
        assert keys is not None
        assert keys.file == folder / "keys.json"
        assert (keys.command, keys.timeout_s) == (("/bin/true", "--quiet"), 2.5)
    one = load_agent(written(folder, AGENT + '[keys]\nfile = "keys.json"\n')).keys
    assert one is not None and (one.command, one.timeout_s) == (None, 10.0)


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('file = "keys.json"\ncommand = ["/bin/true", "--quiet"]\n', "", "keys", "file, command"),
        ('["/bin/true", "--quiet"]', "[]", "keys.command", "at least one"),
        ('["/bin/true", "--quiet"]', '"/bin/true"', "keys.command", "expected a list"),
        ("/bin/true", "true", "keys.command", "absolute path"),
        ("/bin/true", "/nowhere/true", "keys.command", "No such file"),
        ("/bin/true", "/", "keys.command", "that we can execute"),
        ("/bin/true", "/etc/passwd", "keys.command", "that we can execute"),
        ("2.5", "0", "keys.timeout_s", "greater than 0"),
        ("2.5", "301", "keys.timeout_s", "300"),
        ("[keys]", "[keys]\nmode = 7", "keys.mode", "unknown key"),
    ],
)
def test_a_wrong_key_outlet_is_named(
    folder: Path, old: str, new: str, key: str, expected: str
) -> None:
    assert old in KEYS
    problems = problems_of(written(folder, HOME + KEYS.replace(old, new)))
    assert list(problems) == [key]
    assert expected in problems[key]


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_program_that_others_can_change_is_given_no_keys(folder: Path, mode: int) -> None:
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    text = HOME + KEYS.replace("/bin/true", str(program))
    program.chmod(0o755)
    assert load_home(written(folder, text)).keys is not None
    program.chmod(mode)
    assert "can change" in problems_of(written(folder, text))["keys.command"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_program_of_another_user_is_given_no_keys(folder: Path) -> None:
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.chown(program, 65534, 65534)
    text = HOME + KEYS.replace("/bin/true", str(program))
    assert "can change" in problems_of(written(folder, text))["keys.command"]


@pytest.mark.parametrize(
    "text",
    [HOME, FOREIGN, AGENT, MOBILE_NODE, AGENT_BY_ICMP, MOBILE_NODE_BY_ICMP, AGENT + KEYS],
)
def test_what_was_understood_is_said_in_the_words_of_the_file(folder: Path, text: str) -> None:
    _, settings = load_any(written(folder, text))
    said = "\n".join(describe_settings(settings))
    # Read again, with the secrets' place filled in, it is the same configuration.
    again = re.sub(r"<Secret of \d+ octets>", '"secret"', said)
    assert load_any(written(folder, again))[1] == settings


@pytest.mark.parametrize("text", ["", HOME + AGENT.replace("[radius]", "[other]")])
def test_a_file_is_for_exactly_one_process(folder: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of"):
        load_any(written(folder, text))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[home]", "[home]\ncolour = 1", "home.colour"),
        ("[home]", "[surprise]\na = 1\n[home]", "surprise"),
        ('name = "visited"', 'name = "visited"\nsecret = "x"', "client[0].secret"),
    ],
)
def test_an_unknown_key_is_refused(folder: Path, old: str, new: str, key: str) -> None:
    assert problems_of(written(folder, HOME.replace(old, new))) == {key: "unknown key"}


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('address = "192.0.2.1"', "address = 7", "home.address", "expected an IPv4 address"),
        ('realm = "Home.Example"', 'realm = "home"', "home.realm", "expected a realm"),
        ('nai = "ha@home.example"', 'nai = "a b"', "home.nai", "expected a network access id"),
        ('nai = "ha@home.example"\n', "", "home", "both nai and address"),
        ("[database]", "[database]\npool_size = '4'", "database.pool_size", "a whole number"),
        ("[database]", "[database]\npool_size = 0", "database.pool_size", "greater than or equal"),
        ("[home]", "[home]\nmaximum_lifetime_s = 65535", "home.maximum_lifetime_s", "65534"),
        ("[home]", '[home]\nfa_key_trust = "x"', "home.fa_key_trust", "'heard' or 'pinned'"),
        ("[home]", '[home]\ndefault_suites = ["des"]', "home.default_suites[0]", "aes-256-gcm"),
        ('["127.0.0.1:1812"]', '"127.0.0.1:1812"', "home.listen", "expected a list"),
        ('["127.0.0.1:1812"]', '["127.0.0.1"]', "home.listen[0]", "HOST:PORT"),
        ('["127.0.0.1:1812"]', '["127.0.0.1:99999"]', "home.listen[0]", "HOST:PORT"),
        ('["127.0.0.1:1812"]', "[]", "home", "expected listen (UDP) or tls_listen (TLS)"),
        ('"198.51.100.0/24"\ns', '"198.51.100.9/24"\ns', "client[0].address", "a network"),
        ('"embedded:data"', '"mysql://x"', "database.url", "embedded:DIR"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    folder: Path, old: str, new: str, key: str, expected: str
) -> None:
    assert old in HOME
    problems = problems_of(written(folder, HOME.replace(old, new)))
    assert list(problems) == [key]
    assert expected in problems[key]


def test_all_problems_are_told_at_once(folder: Path) -> None:
    text = HOME.replace('realm = "Home.Example"', "realm = 1").replace('"kek"', '"missing"')
    path = written(folder, text + "\n[log]\nlevel = 3\nextra = 1\n")
    assert set(problems_of(path)) == {"home.realm", "database.kek_file", "log.level", "log.extra"}
    with pytest.raises(ConfigurationError) as refused:
        load_home(path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_no_value_of_a_secret_is_told(folder: Path) -> None:
    planted = "geheim-in-the-wrong-place"
    text = HOME.replace('"embedded:data"', f'"postgresql://a:{planted}@h/d"')
    text = text.replace('secret_file = "secret"', f'secret_file = ["{planted}"]')
    path = written(folder, text.replace("[home]", f'[home]\nfa_key_trust = "{planted}"'))
    with pytest.raises(ConfigurationError) as refused:
        load_home(path)
    assert len(refused.value.problems) == 3
    chain = [refused.value, refused.value.__cause__, refused.value.__context__]
    assert all(planted not in f"{error}{error!r}" for error in chain)
    config = load_home(written(folder, HOME))
    assert SECRET.decode() not in f"{config!r}{config}" + "".join(describe_settings(config))


@pytest.mark.parametrize("url", ["?password=x", ":x@h/d"])
def test_a_database_password_has_no_place_in_the_url(folder: Path, url: str) -> None:
    text = HOME.replace("embedded:data", f"postgresql://u{url}")
    assert "passfile" in problems_of(written(folder, text))["database.url"]


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_private_secret_file_is_read(folder: Path, mode: int) -> None:
    (folder / "secret").chmod(mode)
    assert read_secret_file(folder / "secret") == Secret(SECRET)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o444, 0o660, 0o620, 0o602, 0o700, 0o641])
def test_a_secret_file_open_to_others_is_refused(folder: Path, mode: int) -> None:
    (folder / "secret").chmod(mode)
    expected = problems_of(written(folder, HOME))["client[0].secret_file"]
    assert f"not {mode:04o}" in expected


@pytest.mark.parametrize("mode", [0o644, 0o604])
def test_a_key_encryption_key_open_to_others_is_refused(folder: Path, mode: int) -> None:
    (folder / "kek").chmod(mode)
    assert "database.kek_file" in problems_of(written(folder, HOME))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"fifteen octets.\n", "at least 16 octets"),
        (b"", "at least 16 octets"),
        (b"x" * 4097, "at most 4096 octets"),
    ],
)
def test_a_secret_of_the_wrong_length_is_refused(
    folder: Path, content: bytes, expected: str
) -> None:
    (folder / "secret").write_bytes(content)
    assert expected in problems_of(written(folder, HOME))["client[0].secret_file"]


def test_one_newline_is_taken_off_and_nothing_else(folder: Path) -> None:
    (folder / "secret").write_bytes(b" sixteen octets \n\n")
    assert read_secret_file(folder / "secret") == Secret(b" sixteen octets \n")


def test_a_secret_is_a_regular_file_or_a_link_to_one(folder: Path) -> None:
    (folder / "link").symlink_to("secret")  # as Kubernetes mounts them
    assert read_secret_file(folder / "link") == Secret(SECRET)
    with pytest.raises(ValueError, match="regular file"):
        read_secret_file(folder)
    with pytest.raises(ValueError, match="No such file"):
        read_secret_file(folder / "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder / "secret", 65534, 65534)
    with pytest.raises(ValueError, match="owned by root or by the user"):
        read_secret_file(folder / "secret")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"[home\n", "expected TOML"), (b"a = 1\na = 2\n", "expected TOML"), (b"\xff", "UTF-8")],
)
def test_what_is_not_toml_is_refused(folder: Path, content: bytes, expected: str) -> None:
    path = folder / "file.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=expected):
        load_home(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        load_home(tmp_path / "nowhere.toml")


def test_a_home_realm_leaves_room_for_an_alias(folder: Path) -> None:
    longest = "a" * 37 + ".example"
    assert len(alias_nai(bytes(8), longest).octets) == 64
    accepted = load_home(written(folder, HOME.replace("Home.Example", longest)))
    assert accepted.home.realm == longest
    with pytest.raises(ConfigurationError, match=r"home\.realm: expected at most 45 octets"):
        load_home(written(folder, HOME.replace("Home.Example", "a" + longest)))


TLS = """
[tls]
certificate_file = "ha.pem"
key_file = "secret"
ca_file = "/etc/roamkey/ca.pem"

[[server]]
name = "center"
san = ["KDC.Home.Example", "kdc", "192.0.2.9", "2001:db8::9"]
address = "kdc.home.example:2083"
"""


class OverTls(StrictModel):
    tls: TlsSettings
    server: tuple[TlsServer, ...]


def test_tls_is_read_with_names_as_certificates_have_them(folder: Path) -> None:
    config = load(written(folder, TLS), OverTls)
    assert config.tls.certificate_file == folder / "ha.pem"
    assert (config.tls.key_file, config.tls.crl_file) == (folder / "secret", None)
    assert config.server[0].san == (
        "kdc.home.example",
        "kdc",
        IPv4Address("192.0.2.9"),
        IPv6Address("2001:db8::9"),
    )


@pytest.mark.parametrize(
    "san", ["*.home.example", "", "a..b", ".a", "a.", "-a.b", "1.2.3", "a b", "a@b", "a/24", "ä.de"]
)
def test_what_no_certificate_is_matched_by_is_refused(folder: Path, san: str) -> None:
    path = written(folder, TLS.replace("192.0.2.9", san))
    with pytest.raises(ConfigurationError) as refused:
        load(path, OverTls)
    (problem,) = refused.value.problems
    assert problem.key == "server[0].san[2]"
    assert problem.expected == "expected a DNS name without wildcard, or an IP address"


def test_a_tls_key_is_judged_as_every_secret(folder: Path) -> None:
    (folder / "secret").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"tls\.key_file: expected mode .* not 0644"):
        load(written(folder, TLS), OverTls)
    (folder / "secret").chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"server\[0\]\.san: expected at least one"):
        load(written(folder, re.sub(r"san = .*", "san = []", TLS)), OverTls)


TLS_SECTION = """
[tls]
certificate_file = "home.pem"
key_file = "secret"
ca_file = "ca.pem"
"""
BY_UDP = 'address = "198.51.100.0/24"\nsecret_file = "secret"\n'
BY_TLS = 'san = ["aaa.visited.example", "2001:db8::1"]\n'
OVER_TLS = (
    HOME.replace('listen = ["127.0.0.1:1812"]', 'tls_listen = ["127.0.0.1:2083"]').replace(
        BY_UDP, BY_TLS
    )
    + TLS_SECTION
)


def test_a_client_comes_by_udp_over_tls_or_both(folder: Path) -> None:
    both = HOME.replace("[home]\n", '[home]\ntls_listen = ["[::]:2083"]\n') + TLS_SECTION
    config = load_home(written(folder, both.replace(BY_UDP, BY_UDP + BY_TLS)))
    (client,) = config.client
    assert client.by_udp == ("198.51.100.0/24", Secret(SECRET))
    assert client.san == ("aaa.visited.example", IPv6Address("2001:db8::1"))
    config = load_home(written(folder, OVER_TLS))
    assert config.home.tls_listen == ("127.0.0.1:2083",)
    assert config.client[0].by_udp is None
    assert config.tls is not None and config.tls.radius_versions == ("1.0", "1.1")


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        (BY_TLS, "", "client[0]", "expected san (a client over TLS) or address and secret_file"),
        (BY_TLS, BY_TLS + 'secret_file = "secret"\n', "client[0]", "both address and secret_file"),
        (BY_TLS, 'san = ["*.visited.example"]\n', "client[0].san[0]", "without wildcard"),
        (BY_TLS, BY_UDP, "", "client visited has address: expected listen"),
        (TLS_SECTION, "", "", "expected [tls] beside tls_listen"),
        ("tls_listen", "listen", "", "client visited has san: expected tls_listen"),
        ("[tls]", '[tls]\nradius_versions = ["1.2"]', "tls.radius_versions[0]", "'1.0' or '1.1'"),
        ("[tls]", "[tls]\nradius_versions = []", "tls.radius_versions", "at least one"),
    ],
)
def test_what_is_missing_for_tls_is_said(
    folder: Path, old: str, new: str, key: str, expected: str
) -> None:
    assert old in OVER_TLS
    problems = problems_of(written(folder, OVER_TLS.replace(old, new)))
    assert list(problems) == [key]
    assert expected in problems[key]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("", "expected either san (a server over TLS) or secret_file (by UDP)"),
        ('secret_file = "secret"\nsan = ["aaa.home.example"]\n', "expected either san"),
    ],
)
def test_a_server_is_asked_in_one_way(folder: Path, new: str, expected: str) -> None:
    old = 'address = "[::1]:1812"\nsecret_file = "secret"\n'
    assert old in FOREIGN
    text = FOREIGN.replace(old, f'address = "[::1]:1812"\n{new}')
    problems = problems_of(written(folder, text), load_foreign)
    assert list(problems) == ["home_server[0]"]
    assert expected in problems["home_server[0]"]


def test_accounting_needs_a_database_to_be_kept_in(folder: Path) -> None:
    listening = HOME.replace("[home]\n", '[home]\naccounting_listen = ["127.0.0.1:1813"]\n')
    assert load_home(written(folder, listening)).home.accounting_listen == ("127.0.0.1:1813",)
    agents = (
        '[[home_agent]]\nname = "ha1"\naddress = "192.0.2.1"\nserver = "127.0.0.1:1"\n'
        'secret_file = "secret"\n'
    )
    identity = 'nai = "ha@home.example"\naddress = "192.0.2.1"\n'
    database = '[database]\nurl = "embedded:data"\nkek_file = "kek"\n'
    behind = listening.replace(identity, "").replace(database, agents)
    with pytest.raises(ConfigurationError, match="to keep it in"):
        load_home(written(folder, behind))
