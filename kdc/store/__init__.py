"""The only door to SQLAlchemy and psycopg: what is durable, and how it is sealed at rest."""

from kdc.store.errors import (
    CannotStart,
    CommitRefused,
    CommitUnknown,
    DatabaseUnavailable,
    SchemaMismatch,
    SpiTaken,
    WrongKek,
)
from kdc.store.hot import CommitResult, Loaded, Store

__all__ = [
    "CannotStart",
    "CommitRefused",
    "CommitResult",
    "CommitUnknown",
    "DatabaseUnavailable",
    "Loaded",
    "SchemaMismatch",
    "SpiTaken",
    "Store",
    "WrongKek",
]
