"""Retention: which loads' rejects are pruned; pruned_at for loads in force too."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add rejects_pruned_at."""
    op.execute(
        """
        ALTER TABLE importer.loads ADD COLUMN rejects_pruned_at timestamptz;
        COMMENT ON COLUMN importer.loads.rejects_pruned_at IS
            'When the rejects of this load were deleted by retention; their number stays in rows_rejected.';
        COMMENT ON COLUMN importer.loads.pruned_at IS
            'When rows of this load that others stand in place of were deleted by retention: they cannot be restored.';
        CREATE INDEX loads_pruned ON importer.loads (type, tenant, business_date)
            WHERE pruned_at IS NOT NULL AND status = 'loaded' AND superseded_by IS NULL;
        """
    )


def downgrade() -> None:
    """Take it off again."""
    op.execute(
        """
        DROP INDEX importer.loads_pruned;
        ALTER TABLE importer.loads DROP COLUMN rejects_pruned_at;
        """
    )
