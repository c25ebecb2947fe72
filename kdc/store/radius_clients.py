"""RADIUS clients in the database: edited by `kdc client`, read by servers that ask once a second.

Secrets are sealed here; how good one is kdc.secret_quality judges, what a client may do is aaa's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from sqlalchemy import Connection, Text, cast, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from kdc.crypto.kek import RowSealBroken
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store.audit import record_act
from kdc.store.hot import Store
from kdc.store.keyring import CLIENT, Entropy, Keyring
from kdc.store.pool import Connection as PooledConnection
from kdc.store.schema import radius_clients, radius_clients_revision

IpNetwork = IPv4Network | IPv6Network
SECRET_COLUMN: Final = "radius_clients.sealed_secret"  # noqa: S105 - a column's name
PREVIOUS_COLUMN: Final = "radius_clients.sealed_previous"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(\d{1,5})")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
# What each row is at, whoever changed it and by what: so no order in which commits become visible
# hides one, and an edit by hand is seen.  An old secret whose time is over is a change too.
_VERSION: Final = """
SELECT sha256(convert_to(coalesce(string_agg(
  concat_ws(':', id, revision, xmin, previous_until > statement_timestamp()), ',' ORDER BY id
), ''), 'UTF8')) FROM radius_clients
"""
_LOAD: Final = f"""
SELECT ({_VERSION}), c.id, c.name, c.network::text, c.realms, c.require_message_authenticator,
  c.requests_per_second, c.dynamic_authorization, c.data_key_id, c.sealed_secret,
  CASE WHEN c.previous_until > statement_timestamp() THEN c.sealed_previous END
FROM (VALUES (1)) AS one(x) LEFT JOIN radius_clients AS c ON c.enabled
ORDER BY c.name
"""  # noqa: S608 - two constants


class ClientUnknown(LocalError):
    """No RADIUS client has this name."""


class ClientExists(LocalError):
    """A client has this name, or an enabled one this network."""


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """What an operator decides about a client, but for its secret.  Raises `LocalError`."""

    name: str
    network: IpNetwork
    realms: tuple[str, ...] = ()  # lowered; what it may speak for
    require_message_authenticator: bool = True
    requests_per_second: int | None = None
    dynamic_authorization: str | None = None  # HOST:PORT

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise LocalError("client name: expected letters, digits, '.', '_' and '-', at most 63")
        if isinstance(self.network, IPv6Network) and self.network.overlaps(_MAPPED):
            raise LocalError("network: expected IPv4 as such, not mapped into IPv6")
        rate = self.requests_per_second
        if rate is not None and not 0 < rate < 2**31:
            raise LocalError("requests per second: expected a whole number above 0")
        if self.dynamic_authorization is not None:
            found = _ADDRESS.fullmatch(self.dynamic_authorization)
            if found is None or not 0 < int(found[1]) < 65536:
                raise LocalError('dynamic authorization: expected HOST:PORT, "192.0.2.1:3799"')


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client as an operator may see it: never a secret."""

    name: str
    network: str
    realms: list[str]
    require_message_authenticator: bool
    requests_per_second: int | None
    dynamic_authorization: str | None
    enabled: bool
    old_secret_until: datetime | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class StoredClient:
    """A client as a server needs it."""

    name: str
    network: IpNetwork
    secrets: tuple[Secret, ...]  # one or two, the current one first
    realms: frozenset[str]
    require_message_authenticator: bool
    requests_per_second: int | None
    dynamic_authorization: str | None


@dataclass(frozen=True, slots=True)
class LoadedClients:
    """The enabled clients by name, no network twice, and the version that this is."""

    version: bytes
    clients: tuple[StoredClient, ...]
    unreadable: tuple[str, ...]  # names whose seal does not open: alarming, and left out


# --- administration ---


def add(
    connection: Connection,
    entry: ClientEntry,
    secret: Secret,
    keyring: Keyring,
    *,
    entropy: Entropy,
) -> None:
    """An enabled client.  Raises `ClientExists`."""
    query = text("SELECT nextval(pg_get_serial_sequence('radius_clients', 'id'))")
    client_id = connection.execute(query).scalar_one()
    seal = keyring.current(CLIENT)
    sealed = seal.seal(
        secret, column=SECRET_COLUMN, row=client_id, owner=client_id, entropy=entropy
    )
    row = insert(radius_clients).values(
        id=client_id,
        name=entry.name,
        network=str(entry.network),
        realms=sorted(set(entry.realms)),
        require_message_authenticator=entry.require_message_authenticator,
        requests_per_second=entry.requests_per_second,
        dynamic_authorization=entry.dynamic_authorization,
        data_key_id=seal.key_id,
        sealed_secret=sealed,
    )
    details = {"network": str(entry.network), "realms": sorted(set(entry.realms))}
    _execute_unique(connection, row, "client.add", entry.name, details)


def set_enabled(connection: Connection, name: str, *, enabled: bool) -> None:
    """In force on every server within two seconds.  Raises `ClientUnknown`, `ClientExists`."""
    act = "client.enable" if enabled else "client.disable"
    _execute_unique(connection, _change(name).values(enabled=enabled), act, name)


def remove(connection: Connection, name: str) -> None:
    """The client and its secrets; what was accounted under its name stays.

    Raises `ClientUnknown`.
    """
    statement = delete(radius_clients).where(radius_clients.c.name == name)
    _execute_unique(connection, statement, "client.remove", name)


def rotate(
    connection: Connection,
    name: str,
    secret: Secret,
    keyring: Keyring,
    *,
    old_valid_s: int,
    entropy: Entropy,
) -> None:
    """`secret` from now on; the one before stays valid `old_valid_s` longer, 0: not at all.

    A still older one, of a rotation under way, ends now.  Raises `ClientUnknown`, and `LocalError`
    where the one before does not open.
    """
    table = radius_clients.c
    query = select(table.id, table.data_key_id, table.sealed_secret)
    row = connection.execute(query.where(table.name == name).with_for_update()).first()
    if row is None:
        raise _unknown(name)
    bound = {"row": row.id, "owner": row.id}
    seal = keyring.current(CLIENT)
    values: dict[str, Any] = {"sealed_previous": None, "previous_until": None}
    if old_valid_s > 0:
        try:
            old = _open(keyring, row.data_key_id, bytes(row.sealed_secret), SECRET_COLUMN, row.id)
        except RowSealBroken:
            raise LocalError(
                f"client {name}: its secret does not open, so it cannot stay valid:"
                " expected --old-valid 0"
            ) from None
        sealed = seal.seal(old, column=PREVIOUS_COLUMN, **bound, entropy=entropy)
        until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, old_valid_s)
        values = {"sealed_previous": sealed, "previous_until": until}
    values["sealed_secret"] = seal.seal(secret, column=SECRET_COLUMN, **bound, entropy=entropy)
    statement = _change(name).values(data_key_id=seal.key_id, **values)
    _execute_unique(connection, statement, "client.rotate", name, {"old_valid_s": old_valid_s})


def _change(name: str) -> Any:
    return (
        update(radius_clients)
        .where(radius_clients.c.name == name)
        .values(revision=radius_clients_revision.next_value(), changed_at=func.now())
    )


def _execute_unique(
    connection: Connection,
    statement: Any,
    act: str,
    name: str,
    details: dict[str, Any] | None = None,
) -> None:
    """Commits it with its act; raises `ClientUnknown` where no client has this name."""
    try:
        done = connection.execute(statement)
    except IntegrityError as error:
        connection.rollback()
        if "uq_radius_clients_network" in str(error.orig):
            raise ClientExists(
                "an enabled client has this network: `kdc client list` shows which"
            ) from None
        raise ClientExists("a client of this name exists: `kdc client show` shows it") from None
    if done.rowcount == 0:
        connection.rollback()
        raise _unknown(name)
    record_act(connection, None, act, f"client:{name}", details)
    connection.commit()


def _unknown(name: str) -> ClientUnknown:
    return ClientUnknown(f"no RADIUS client is called {name}: `kdc client list` shows all")


_COLUMNS: Final = (
    radius_clients.c.name,
    cast(radius_clients.c.network, Text),
    radius_clients.c.realms,
    radius_clients.c.require_message_authenticator,
    radius_clients.c.requests_per_second,
    radius_clients.c.dynamic_authorization,
    radius_clients.c.enabled,
    radius_clients.c.previous_until,
    radius_clients.c.created_at,
    radius_clients.c.changed_at,
)


def list_all(connection: Connection) -> Iterator[ClientRow]:
    """Clients by name."""
    for row in connection.execute(select(*_COLUMNS).order_by(radius_clients.c.name)):
        yield ClientRow(*row)


def load(connection: Connection, name: str) -> ClientRow:
    """Raises `ClientUnknown`."""
    row = connection.execute(select(*_COLUMNS).where(radius_clients.c.name == name)).first()
    if row is None:
        raise _unknown(name)
    return ClientRow(*row)


# --- servers ---


async def radius_clients_version(store: Store) -> bytes:
    """32 octets, others after every change that servers are to know; cheap enough for each second.

    Raises `DatabaseUnavailable`.
    """

    async def find(connection: PooledConnection) -> bytes:
        row = await (await connection.execute(_VERSION, binary=True)).fetchone()
        assert row is not None
        return bytes(row[0])

    return await store.pool.read(find)


async def load_radius_clients(store: Store) -> LoadedClients:
    """All enabled clients; one whose seal does not open is left out by itself.

    Raises `DatabaseUnavailable`.
    """

    async def find(connection: PooledConnection) -> list[tuple[Any, ...]]:
        found = await (await connection.execute(_LOAD, binary=True)).fetchall()
        await store.learn_keys(connection, {row[8] for row in found if row[1] is not None})
        return found

    found = await store.pool.read(find)
    clients: list[StoredClient] = []
    unreadable: list[str] = []
    for row in found:
        if row[1] is None:
            continue
        try:
            clients.append(_read_client(row, store.keyring))
        except RowSealBroken:
            unreadable.append(row[2])
    return LoadedClients(bytes(found[0][0]), tuple(clients), tuple(unreadable))


def _read_client(row: tuple[Any, ...], keyring: Keyring) -> StoredClient:
    (_, client_id, name, network, realms, required, rate, dynamic, key_id, sealed, previous) = row
    secrets = [_open(keyring, key_id, sealed, SECRET_COLUMN, client_id)]
    if previous is not None:
        secrets.append(_open(keyring, key_id, previous, PREVIOUS_COLUMN, client_id))
    return StoredClient(
        name, ip_network(network), tuple(secrets), frozenset(realms), required, rate, dynamic
    )


def _open(keyring: Keyring, key_id: int, sealed: bytes, column: str, client_id: int) -> Secret:
    """Raises `RowSealBroken`."""
    seal = keyring.find(key_id)
    if seal is None:
        raise RowSealBroken("a sealed column of an unknown data key")
    return seal.open(sealed, column=column, row=client_id, owner=client_id)
