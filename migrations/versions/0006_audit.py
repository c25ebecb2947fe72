"""The audit: hash chains of what is issued and of what is administered, and their checkpoints.

Expands only: the release before writes registrations without a place in a chain, which
verification tells apart from those that have lost theirs.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE audit_chains (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        kind TEXT NOT NULL,
        node TEXT NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_audit_chains PRIMARY KEY (id),
        CONSTRAINT ck_audit_chains_kind CHECK (kind IN ('issuing', 'acts'))
    )
    """,
    """
    CREATE UNIQUE INDEX uq_audit_chains_acts ON audit_chains (kind) WHERE kind = 'acts'
    """,
    """
    CREATE TABLE audit_entries (
        writer BIGINT NOT NULL,
        sequence BIGINT NOT NULL,
        at_us BIGINT NOT NULL,
        size INTEGER NOT NULL,
        root BYTEA NOT NULL,
        absent BYTEA NOT NULL,
        previous BYTEA NOT NULL,
        hash BYTEA NOT NULL,
        CONSTRAINT pk_audit_entries PRIMARY KEY (writer, sequence)
    )
    """,
    """
    CREATE TABLE audit_events (
        writer BIGINT NOT NULL,
        sequence BIGINT NOT NULL,
        position SMALLINT NOT NULL,
        record_id BIGINT NOT NULL,
        kind SMALLINT NOT NULL,
        code INTEGER NOT NULL,
        identification_second BIGINT,
        identification_low BIGINT,
        digest BYTEA,
        CONSTRAINT pk_audit_events PRIMARY KEY (writer, sequence, position)
    )
    """,
    """
    CREATE TABLE audit_acts (
        writer BIGINT NOT NULL,
        sequence BIGINT NOT NULL,
        position SMALLINT NOT NULL,
        actor TEXT NOT NULL,
        act TEXT NOT NULL,
        object TEXT NOT NULL,
        details TEXT NOT NULL,
        CONSTRAINT pk_audit_acts PRIMARY KEY (writer, sequence, position)
    )
    """,
    """
    CREATE TABLE audit_checkpoints (
        number BIGINT NOT NULL,
        octets BYTEA NOT NULL,
        signature BYTEA NOT NULL,
        key_id BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_audit_checkpoints PRIMARY KEY (number)
    )
    """,
)


def upgrade() -> None:
    """New tables, the chain of administrative acts, and three columns without a default."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for statement in _TABLES:
        op.execute(statement)
    # The first chain: verification reads what the acts say before what is issued.
    op.execute("INSERT INTO audit_chains (kind, node) VALUES ('acts', 'administration')")
    for column in ("audit_writer BIGINT", "audit_sequence BIGINT", "audit_position SMALLINT"):
        op.execute(f"ALTER TABLE registrations ADD COLUMN {column}")


def downgrade() -> None:
    """The evidence goes: export it before."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for column in ("audit_writer", "audit_sequence", "audit_position"):
        op.execute(f"ALTER TABLE registrations DROP COLUMN {column}")
    for table in (
        "audit_checkpoints",
        "audit_acts",
        "audit_events",
        "audit_entries",
        "audit_chains",
    ):
        op.execute(f"DROP TABLE {table}")
