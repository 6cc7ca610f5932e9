"""Drift events: which the spec foresees, and what the values of an unknown column look like."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what drift events say beyond their words."""
    op.execute(
        """
        ALTER TABLE importer.drift
            ADD COLUMN declared boolean NOT NULL DEFAULT false,
            ADD COLUMN version date,
            ADD COLUMN profile jsonb;
        COMMENT ON COLUMN importer.drift.declared IS 'The spec foresees it: an alias, or a version of the type.';
        COMMENT ON COLUMN importer.drift.version IS
            'The version of the type that begins with this delivery, the first one in force of its days.';
        COMMENT ON COLUMN importer.drift.profile IS
            'Of a column that the spec does not know: how many values were looked at, and some of them.';
        """
    )


def downgrade() -> None:
    """Take it off again."""
    op.execute("ALTER TABLE importer.drift DROP COLUMN declared, DROP COLUMN version, DROP COLUMN profile")
