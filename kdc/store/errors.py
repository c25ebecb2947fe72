"""What can go wrong between a process and its database."""

from __future__ import annotations

from kdc.errors import LocalError, Unavailable


class DatabaseUnavailable(Unavailable):
    """The database did not answer in time; nothing has been committed."""


class CommitUnknown(Unavailable):
    """The connection ended around a COMMIT: it may or may not have happened."""


class CommitRefused(Unavailable):
    """The database refused the batch: some item breaks a rule; nothing has been committed."""


class SpiTaken(Unavailable):
    """A number drawn for this batch was taken by another node meanwhile; draw again."""


class CannotStart(LocalError):
    """The database is not usable as configured; the text says how to mend it."""


class WrongKek(CannotStart):
    """The key-encryption key is not the one that the database was made with."""


class SchemaMismatch(CannotStart):
    """The schema is not the one that this release needs."""


class RootUnavailable(CannotStart):
    """The root does not answer: what is unwrapped stays usable, nothing else can be unwrapped."""


class KekRefused(LocalError):
    """A key-encryption key is not in the state that a step needs, or something still needs it."""
