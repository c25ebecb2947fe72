"""What a RADIUS client may be configured to: two secrets, a rate, an exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from aaa.config import load_foreign, load_home
from aaa.radius.admission import RateLimit, RateLimits
from aaa.serve.client_policy import build_client, build_clients, build_limits
from kdc.config import ConfigurationError
from kdc.model import Secret
from tests.unit.test_config import FOREIGN, HOME, written

CURRENT, PREVIOUS = b"the current secret of the client", b"the previous secret of the client"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "secret": CURRENT,
        "previous": PREVIOUS,
        "kek": b"0f" * 32,
        "short": b"fifteen octets!",
    }
    files |= {"known": b"testing123testing123", "same": CURRENT}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content + b"\n")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def _home(folder: Path, *lines: str) -> Path:
    realms = 'realms = ["visited.example"]'
    return written(folder, HOME.replace(realms, "\n".join((realms, *lines))))


def _problems(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as refused:
        load_home(path)
    shown = str(refused.value)
    assert "secret of the client" not in shown and "testing123" not in shown
    return {problem.key: problem.expected for problem in refused.value.problems}


def test_the_defaults_of_both_servers(folder: Path) -> None:
    home, foreign = load_home(written(folder, HOME)), load_foreign(written(folder, FOREIGN))
    assert home.home.reject_delay_s == foreign.foreign.reject_delay_s == 1.0
    (client,) = build_clients(home.client)
    assert client.secrets == (Secret(CURRENT),)
    (agent,) = build_clients(foreign.client)
    assert agent.require_message_authenticator
    # A home does not know how many nodes are behind a client; a foreign AAA knows that it is one
    # agent.
    limits = build_limits((*home.client, *foreign.client))
    assert _at_once(limits, "visited", 5000) == 5000
    assert _at_once(limits, "fa1", 5000) == 1000


def _at_once(limits: dict[str, RateLimit], name: str, count: int) -> int:
    buckets = RateLimits(limits)
    return sum(buckets.take(name, 0.0) for _ in range(count))


def test_all_keys_of_a_client(folder: Path) -> None:
    config = load_home(
        _home(
            folder,
            'previous_secret_file = "previous"',
            "require_message_authenticator = false",
            "requests_per_second = 2.5",
            "burst = 7",
        )
    )
    client = build_client(config.client[0], frozenset(config.client[0].realms))
    assert client is not None
    assert client.secrets == (Secret(CURRENT), Secret(PREVIOUS))
    assert not client.require_message_authenticator
    assert client.realms == {"visited.example"}
    assert _at_once(build_limits(config.client), "visited", 100) == 7
    assert "secret of" not in repr(config)


def test_a_burst_is_twice_the_rate_and_at_least_one(folder: Path) -> None:
    for rate, burst in (("0.1", 1), ("100", 200)):
        config = load_home(_home(folder, f"requests_per_second = {float(rate)}"))
        assert _at_once(build_limits(config.client), "visited", 1000) == burst


def test_a_foreign_agent_without_a_limit(folder: Path) -> None:
    text = FOREIGN.replace("nas_identifier", "requests_per_second = 0\nnas_identifier")
    limits = build_limits(load_foreign(written(folder, text)).client)
    assert _at_once(limits, "fa1", 5000) == 5000


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ('previous_secret_file = "short"', "previous_secret_file", "expected at least 16 octets"),
        ('previous_secret_file = "known"', "previous_secret_file", "everybody knows it"),
        ('previous_secret_file = "same"', "", "expected another secret in previous_secret_file"),
        ("requests_per_second = -1", "requests_per_second", "expected"),
        ("burst = 5", "", "expected requests_per_second beside burst"),
        ("requests_per_second = 5\nburst = 0", "burst", "expected"),
        ('require_message_authenticator = "no"', "require_message_authenticator", "true or false"),
    ],
)
def test_what_is_refused_of_a_client(folder: Path, line: str, key: str, expected: str) -> None:
    ((found, text),) = _problems(_home(folder, line)).items()
    assert found == f"client[0].{key}".removesuffix(".")
    assert expected in text


def test_a_secret_that_everybody_knows_is_refused_anywhere(folder: Path) -> None:
    (folder / "secret").write_bytes(b"testing123testing123\n")
    ((key, text),) = _problems(written(folder, HOME)).items()
    assert key == "client[0].secret_file"
    assert "draw one at random" in text


@pytest.mark.parametrize("value", ["-0.1", "5.1", '"1"'])
def test_a_delay_of_refusals_is_at_most_five_seconds(folder: Path, value: str) -> None:
    text = HOME.replace(
        'realm = "Home.Example"', f'realm = "home.example"\nreject_delay_s = {value}'
    )
    assert list(_problems(written(folder, text))) == ["home.reject_delay_s"]
