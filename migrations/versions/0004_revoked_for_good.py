"""Who is revoked stays so, whatever release, or hand, writes the row.

`kdc subscriber resume` of 0001 knows no revocation and would undo one.  Expands only.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Its lock lets readers through: registrations, which only read `subscribers`, go on."""
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.execute(
        """
        CREATE FUNCTION roamkey_refuse_unrevoked() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the subscriber is revoked, which is final' USING
                ERRCODE = 'check_violation', TABLE = 'subscribers',
                CONSTRAINT = 'tr_subscribers_revoked';
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER tr_subscribers_revoked BEFORE UPDATE ON subscribers FOR EACH ROW
        WHEN (OLD.status = 'revoked' AND NEW.status IS DISTINCT FROM OLD.status)
        EXECUTE FUNCTION roamkey_refuse_unrevoked()
        """
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.execute("DROP TRIGGER tr_subscribers_revoked ON subscribers")
    op.execute("DROP FUNCTION roamkey_refuse_unrevoked()")
