"""Subscribers on their way to another system, without keys or with each one wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select, true

from kdc.crypto.kek import RowSealBroken
from kdc.crypto.transport import wrap_key
from kdc.model import Nai, Secret
from kdc.store.acts import note_act
from kdc.store.keyring import Keyring
from kdc.store.rows import KEY0_COLUMN
from kdc.store.schema import subscribers
from kdc.store.subscriber_files import exported
from kdc.store.subscribers import fold, list_all, newest


def export(connection: Connection) -> Iterator[dict[str, Any]]:
    """By name, as an import takes them again; never a key."""
    note_act(connection, "subscriber.export", subject=None, detail={"keys": False})
    connection.commit()
    for item in list_all(connection):
        yield exported(item)


def export_with_keys(
    connection: Connection, keyring: Keyring, transport_key: Secret, *, name: str
) -> Iterator[dict[str, Any]]:
    """The same, each with its newest KEY0 under the transport key `name`.

    The act is on record before the first key is opened.  Raises `RowSealBroken`.
    """
    count = connection.execute(select(func.count()).select_from(subscribers)).scalar_one()
    detail = {"keys": True, "transport_key": name, "subscribers": count}
    note_act(connection, "subscriber.export_keys", subject=None, detail=detail)
    connection.commit()
    after = ""
    while page := list(list_all(connection, limit=1000, after=after)):
        keys = _wrapped(
            connection, keyring, transport_key, [fold(Nai.parse(item.nai)) for item in page]
        )
        for item in page:
            yield exported(item) | {"key0_wrapped": keys[item.nai].hex()}
        after = fold(Nai.parse(page[-1].nai))


def _wrapped(
    connection: Connection, keyring: Keyring, transport_key: Secret, names: list[str]
) -> dict[str, bytes]:
    columns = (subscribers.c.nai, newest.c.id, newest.c.data_key_id, newest.c.sealed_key0)
    query = select(*columns).select_from(subscribers).join(newest, true())
    wrapped = {}
    for nai, record_id, key_id, sealed in connection.execute(
        query.where(subscribers.c.folded_nai.in_(names))
    ):
        seal = keyring.find(key_id)
        if seal is None:
            raise RowSealBroken(f"{nai}: a sealed column of an unknown data key")
        key0 = seal.open(bytes(sealed), column=KEY0_COLUMN, row=record_id, owner=record_id)
        wrapped[nai] = wrap_key(key0, transport_key)
    return wrapped
