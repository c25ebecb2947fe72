"""Key-encryption keys in versions with states, wrapped by a root; data keys that are replaced.

What may follow what is enforced here, so that no release and no hand at psql skips a step.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = (
    # The one that is there wraps all data keys: it is the active one.  A handful of rows that no
    # request reads: they are judged at once.
    """
    ALTER TABLE key_encryption_keys
        ADD COLUMN state TEXT DEFAULT 'active' NOT NULL,
        ADD COLUMN changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        ADD COLUMN root TEXT,
        ADD COLUMN wrapped BYTEA,
        -- squawk-ignore constraint-missing-not-valid
        ADD CONSTRAINT ck_key_encryption_keys_state CHECK
            (state IN ('pending', 'active', 'retiring', 'purged')),
        -- squawk-ignore constraint-missing-not-valid
        ADD CONSTRAINT ck_key_encryption_keys_root CHECK
            ((root IS NULL) = (wrapped IS NULL)),
        -- squawk-ignore constraint-missing-not-valid
        ADD CONSTRAINT ck_key_encryption_keys_purged CHECK
            (state <> 'purged' OR wrapped IS NULL)
    """,
    """
    -- squawk-ignore require-concurrent-index-creation
    CREATE UNIQUE INDEX uq_key_encryption_keys_active ON key_encryption_keys (state)
        WHERE state = 'active'
    """,
    """
    ALTER TABLE data_keys ADD COLUMN replaced_at TIMESTAMP WITH TIME ZONE
    """,
)
_TRIGGERS = (
    """
    CREATE FUNCTION judge_key_encryption_key() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            RAISE EXCEPTION 'a key-encryption key is purged, never deleted'
                USING ERRCODE = 'check_violation';
        END IF;
        IF TG_OP = 'INSERT' THEN
            IF NEW.state <> 'pending' AND EXISTS (SELECT 1 FROM key_encryption_keys) THEN
                RAISE EXCEPTION 'a key-encryption key begins as pending'
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NEW;
        END IF;
        IF NEW.version <> OLD.version OR NEW.check_value <> OLD.check_value THEN
            RAISE EXCEPTION 'a version is one key for ever' USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.state <> OLD.state THEN
            IF (OLD.state, NEW.state) NOT IN (
                ('pending', 'active'), ('active', 'retiring'), ('retiring', 'active'),
                ('retiring', 'purged'), ('pending', 'purged')
            ) THEN
                RAISE EXCEPTION 'a key-encryption key does not go from % to %',
                    OLD.state, NEW.state USING ERRCODE = 'check_violation';
            END IF;
            IF NEW.state = 'purged' AND EXISTS (
                SELECT 1 FROM data_keys WHERE kek_version = NEW.version
            ) THEN
                RAISE EXCEPTION 'data keys are still wrapped under this key-encryption key'
                    USING ERRCODE = 'check_violation';
            END IF;
            NEW.changed_at := now();
        END IF;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER key_encryption_keys_states
        BEFORE INSERT OR UPDATE OR DELETE ON key_encryption_keys
        FOR EACH ROW EXECUTE FUNCTION judge_key_encryption_key()
    """,
    # The lock makes who wraps wait for who purges: a key is never wrapped under what is gone.
    """
    CREATE FUNCTION judge_data_key() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        wrapping text;
    BEGIN
        SELECT state INTO wrapping FROM key_encryption_keys
            WHERE version = NEW.kek_version FOR SHARE;
        IF wrapping IN ('pending', 'purged') THEN
            RAISE EXCEPTION 'no data key is wrapped under a % key-encryption key', wrapping
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER data_keys_wrapping BEFORE INSERT OR UPDATE OF kek_version ON data_keys
        FOR EACH ROW EXECUTE FUNCTION judge_data_key()
    """,
)


def upgrade() -> None:
    """A short wait for two small tables; the release before runs on, as long as version 1 wraps."""
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for statement in (*_COLUMNS, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    """Only where nothing is lost by it: 0003 has no place for a wrapped key-encryption key.

    Where nothing is sealed yet, the keys go, and the release before makes its own.
    """
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.execute("DROP TRIGGER data_keys_wrapping ON data_keys")
    op.execute("DROP TRIGGER key_encryption_keys_states ON key_encryption_keys")
    op.execute("DROP FUNCTION judge_data_key()")
    op.execute("DROP FUNCTION judge_key_encryption_key()")
    op.execute(
        """
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM key_encryption_keys WHERE wrapped IS NOT NULL) THEN
                DELETE FROM key_encryption_keys WHERE state = 'purged';
                RETURN;
            END IF;
            IF EXISTS (SELECT 1 FROM key0_records) OR EXISTS (SELECT 1 FROM radius_clients) THEN
                RAISE EXCEPTION 'a wrapped key-encryption key would be lost: no way down';
            END IF;
            DELETE FROM data_keys;
            DELETE FROM key_encryption_keys;
        END
        $$
        """
    )
    op.execute("ALTER TABLE data_keys DROP COLUMN replaced_at")
    op.execute(
        "ALTER TABLE key_encryption_keys DROP COLUMN state, DROP COLUMN changed_at,"
        " DROP COLUMN root, DROP COLUMN wrapped"
    )
