"""Reads a TOML configuration file strictly: unknown keys refused, every fault named at once.

The models that `kdc` and `aaa` share are here, and how a secret file is judged.  What only one
process of aaa needs is in aaa.config; how a key-encryption key looks is kdc.crypto's affair.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from kdc.errors import LocalError, RemoteError
from kdc.model import Nai, Secret
from kdc.secret_quality import SecretQuality, explain, judge_secret

EMBEDDED: Final = "embedded:"  # DESIGN section 5: "embedded:DIR" is a private PostgreSQL in DIR
MINIMUM_SHARED_SECRET_OCTETS: Final = 16  # PROTOCOL section 9: RADIUS over UDP
MAXIMUM_SECRET_FILE_OCTETS: Final = 4096
FORBIDDEN_SECRET_MODE: Final = 0o137  # docs/decisions/0003: others nothing, the group may read
_LARGEST_FILE_OCTETS: Final = 2**20
# RFC 7542 §2.2: labels of letters, digits and hyphens, two at the least.
_REALM: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the dotted path of the key, empty for the file itself, and what was expected."""

    key: str
    expected: str


class ConfigurationError(LocalError):
    """A configuration file that is not accepted; every problem found, never a value from it."""

    def __init__(self, file: Path, problems: tuple[Problem, ...]) -> None:
        self.file = file
        self.problems = problems
        super().__init__(file, problems)

    def __str__(self) -> str:
        lines = (f"{p.key}: {p.expected}" if p.key else p.expected for p in self.problems)
        return "\n".join(f"{self.file}: {line}" for line in lines)


class StrictModel(BaseModel):
    """The base of every section: frozen, unknown keys refused, no silent conversion."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, validate_default=True
    )


def _folder(info: ValidationInfo) -> Path:
    """The configuration file's folder, to which relative paths are relative."""
    context: dict[str, Path] = info.context or {}
    return context.get("folder", Path())


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected text that is not empty")
    return value


def _resolve(value: object, info: ValidationInfo) -> Path:
    return (_folder(info) / Path(_text(value)).expanduser()).absolute()


def _parse_nai(value: object) -> Nai:
    try:
        return value if isinstance(value, Nai) else Nai.parse(_text(value))
    except RemoteError:
        raise ValueError("expected a network access identifier, such as ha@home.example") from None


def _parse_realm(value: object) -> str:
    realm = _text(value).lower()
    if len(realm) > 253 or _REALM.fullmatch(realm) is None:
        raise ValueError("expected a realm, such as home.example")
    return realm


def parser_of(parse: Callable[[str], Any], expected: str) -> BeforeValidator:
    """A validator that reads text by `parse`; a ValueError of it becomes `expected`."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected {expected}")
        try:
            return parse(value)
        except ValueError:
            raise ValueError(f"expected {expected}") from None

    return BeforeValidator(read)


def check_secret_file(path: Path) -> Path:
    """The path, if only its owner (us or root) and at most a group may read what is in it.

    Raises ValueError with what was expected (docs/decisions/0003-secret-files.md).
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"expected a file that we can read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("expected a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError("expected a file owned by root or by the user of this process")
    if status.st_mode & FORBIDDEN_SECRET_MODE:
        found = stat.S_IMODE(status.st_mode)
        raise ValueError(f"expected mode 0400, 0440, 0600 or 0640, not {found:04o}")
    return path


def read_secret_file(path: Path, *, minimum_octets: int = MINIMUM_SHARED_SECRET_OCTETS) -> Secret:
    """The octets of a secret file without one newline at its end.

    Raises ValueError, which never quotes the content, if the file is readable by others, missing,
    shorter than `minimum_octets` or longer than 4,096 octets.
    """
    check_secret_file(path)
    try:
        with path.open("rb") as file:
            octets = file.read(MAXIMUM_SECRET_FILE_OCTETS + 1)
    except OSError as error:
        raise ValueError(f"expected a file that we can read: {error.strerror}") from None
    if len(octets) > MAXIMUM_SECRET_FILE_OCTETS:
        raise ValueError(f"expected at most {MAXIMUM_SECRET_FILE_OCTETS} octets in the file")
    octets = octets.removesuffix(b"\n").removesuffix(b"\r")
    if len(octets) < minimum_octets:
        raise ValueError(f"expected at least {minimum_octets} octets in the file")
    return Secret(octets)


def _shared_secret(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    secret = read_secret_file(_resolve(value, info))
    quality = judge_secret(secret)
    if quality in (SecretQuality.SHORT, SecretQuality.KNOWN):
        raise ValueError(f"expected another secret: {explain(quality)}")
    return secret


def _database_url(value: object, info: ValidationInfo) -> str:
    url = _text(value)
    if url.startswith(EMBEDDED):
        return EMBEDDED + str(_resolve(url.removeprefix(EMBEDDED), info))
    try:
        parts = urlsplit(url)
        password = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        parts, password = None, False
    if parts is None or parts.scheme not in ("postgresql", "postgres"):
        raise ValueError('expected "embedded:DIR" or "postgresql://USER@HOST/DATABASE"')
    if password:
        raise ValueError("expected no password here: name a password file with ?passfile=FILE")
    return url


ConfiguredPath = Annotated[Path, BeforeValidator(_resolve)]
SecretPath = Annotated[Path, BeforeValidator(_resolve), AfterValidator(check_secret_file)]
SharedSecret = Annotated[Secret, PlainValidator(_shared_secret)]
ConfiguredNai = Annotated[Nai, PlainValidator(_parse_nai)]
Realm = Annotated[str, PlainValidator(_parse_realm)]
Ipv4 = Annotated[IPv4Address, parser_of(IPv4Address, "an IPv4 address")]
Text = Annotated[str, Field(min_length=1, max_length=253)]


class LogSettings(StrictModel):
    """[log]: what goes to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Pkcs11Settings(StrictModel):
    """[database.pkcs11]: a token's AES key that wraps key-encryption keys (decision 0010)."""

    module: ConfiguredPath  # the token's PKCS#11 library
    token: Text
    key: Text
    pin_file: SecretPath


class DatabaseSettings(StrictModel):
    """[database]: `url` is "embedded:DIR" (DIR absolute here) or a libpq URL without password.

    A session is kept for its days after the last that was heard of it, and a request to a foreign
    domain at least for as long as its registration could live (65,534 s).

    The root of all keys is `pkcs11`, else `kek_file`; `former_kek_file` (and `kek_file` beside
    `pkcs11`) opens what it wraps until `kdc kek` has moved everything away from it.
    """

    url: Annotated[str, BeforeValidator(_database_url)] = Field(repr=False)
    pkcs11: Pkcs11Settings | None = None
    kek_file: SecretPath | None = None
    former_kek_file: SecretPath | None = None
    binaries: ConfiguredPath | None = None
    deadline_s: float = Field(default=2.0, gt=0, le=60)
    pool_size: int = Field(default=4, ge=1, le=64)
    session_retention_days: int = Field(default=180, ge=1, le=36500)
    disconnect_retention_days: int = Field(default=30, ge=1, le=36500)

    @field_validator("kek_file")
    @classmethod
    def _has_root(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("pkcs11", value) is None:
            raise ValueError("required, but missing: it wraps all keys, unless pkcs11 does")
        return value


class HomeAgentIdentity(StrictModel):
    """What `kdc` reads of a home agent; the other keys are `aaa check`'s to judge."""

    model_config = ConfigDict(extra="ignore")

    nai: ConfiguredNai
    address: Ipv4


class KdcSettings(StrictModel):
    """The part of home.toml or kdc.toml that `kdc` reads."""

    model_config = ConfigDict(extra="ignore")

    home: HomeAgentIdentity | None = None
    home_agent: tuple[HomeAgentIdentity, ...] = ()
    database: DatabaseSettings
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _has_home_agents(self) -> Self:
        if not self.identities():
            raise ValueError("expected [home] with nai and address, or [[home_agent]]")
        return self

    def identities(self) -> tuple[HomeAgentIdentity, ...]:
        """The home agents that subscribers of this database may have."""
        return (self.home,) if self.home is not None else self.home_agent


Model = TypeVar("Model", bound=BaseModel)

_EXPECTATIONS: Final = {
    "missing": "required, but missing",
    "extra_forbidden": "unknown key",
    "tuple_type": "expected a list",
    "model_type": "expected a section",
    "model_attributes_type": "expected a section",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, lists as tuples; raises `ConfigurationError`."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE_OCTETS).decode()
        tables: dict[str, Any] = _without_lists(tomllib.loads(text))
    except OSError as error:
        expected = f"expected a file that we can read: {error.strerror}"
        raise ConfigurationError(path, (Problem("", expected),)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(path, (Problem("", "expected UTF-8 text"),)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(path, (Problem("", f"expected TOML: {error}"),)) from None
    return tables


def load(path: Path, model: type[Model]) -> Model:
    """The file as `model`; raises `ConfigurationError` with all that is wrong."""
    tables = read_toml(path)
    try:
        return model.model_validate(tables, context={"folder": path.absolute().parent})
    except ValidationError as error:
        problems = tuple(_problem(detail) for detail in error.errors(include_url=False))
    raise ConfigurationError(path, problems)


def load_kdc(path: Path) -> KdcSettings:
    """What `kdc` reads of home.toml or kdc.toml; raises `ConfigurationError`."""
    return load(path, KdcSettings)


def _without_lists(value: Any) -> Any:
    # Strict models take tuples where TOML has lists: a frozen model must not hold a list.
    if isinstance(value, dict):
        return {key: _without_lists(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_without_lists(item) for item in value)
    return value


def _problem(detail: ErrorDetails) -> Problem:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
    kind = detail["type"]
    if kind == "value_error":
        expected = str(detail["ctx"]["error"])
    else:
        # Pydantic's own texts name the rule and never the input.
        message = detail["msg"].replace("Input should be", "expected")
        expected = _EXPECTATIONS.get(kind, message)
    return Problem(key.removeprefix("."), expected)
