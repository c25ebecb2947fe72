"""The two rules that 0002 made wider hold for the rows that were there before.

In a transaction of its own: it reads all subscribers, and nobody waits for it meanwhile.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Takes a lock that is in the way of other migrations alone."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '600s'")
    op.execute("ALTER TABLE data_keys VALIDATE CONSTRAINT ck_data_keys_purpose")
    op.execute("ALTER TABLE subscribers VALIDATE CONSTRAINT ck_subscribers_status")


def downgrade() -> None:
    """Nothing: 0002 says the same rules."""
