"""Named keys that wrap KEY0s on their way to or from another system; sealed like KEY0 itself."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, insert, select, text
from sqlalchemy.exc import IntegrityError

from kdc.crypto.kek import RowSealBroken
from kdc.crypto.transport import TRANSPORT_KEY_OCTETS
from kdc.errors import LocalError
from kdc.model import Secret
from kdc.store.acts import note_act
from kdc.store.keyring import RECORD, Entropy, Keyring
from kdc.store.schema import transport_keys

COLUMN: Final = "transport_keys.sealed_key"


def add(
    connection: Connection, name: str, key: Secret, keyring: Keyring, *, entropy: Entropy
) -> None:
    """Raises `LocalError` for a name that is taken and for a key that is not one."""
    if len(key) != TRANSPORT_KEY_OCTETS:
        raise LocalError(f"expected a transport key of {2 * TRANSPORT_KEY_OCTETS} hex digits")
    row = connection.execute(
        text("SELECT nextval(pg_get_serial_sequence('transport_keys', 'id'))")
    ).scalar_one()
    seal = keyring.current(RECORD)
    sealed = seal.seal(key, column=COLUMN, row=row, owner=0, entropy=entropy)
    try:
        connection.execute(
            insert(transport_keys).values(
                id=row, name=name, data_key_id=seal.key_id, sealed_key=sealed
            )
        )
    except IntegrityError:
        connection.rollback()
        raise LocalError(f"a transport key is called {name}: choose another name") from None
    note_act(connection, "transport_key.add", subject=name, detail={})
    connection.commit()


def load(connection: Connection, name: str, keyring: Keyring) -> Secret:
    """Raises `LocalError` for an unknown name, `RowSealBroken`."""
    columns = (transport_keys.c.id, transport_keys.c.data_key_id, transport_keys.c.sealed_key)
    row = connection.execute(select(*columns).where(transport_keys.c.name == name)).first()
    if row is None:
        raise LocalError(
            f"no transport key is called {name}: `kdc transport-key add` takes one from a file"
        )
    seal = keyring.find(row[1])
    if seal is None:
        raise RowSealBroken("a sealed column of an unknown data key")
    return seal.open(bytes(row[2]), column=COLUMN, row=row[0], owner=0)


def list_all(connection: Connection) -> list[tuple[str, datetime]]:
    """Name and age of each."""
    query = select(transport_keys.c.name, transport_keys.c.created_at)
    found = connection.execute(query.order_by(transport_keys.c.name))
    return [(name, created_at) for name, created_at in found]


def remove(connection: Connection, name: str) -> None:
    """Raises `LocalError` for an unknown name."""
    done = connection.execute(delete(transport_keys).where(transport_keys.c.name == name))
    if done.rowcount == 0:
        connection.rollback()
        raise LocalError(f"no transport key is called {name}")
    note_act(connection, "transport_key.remove", subject=name, detail={})
    connection.commit()
