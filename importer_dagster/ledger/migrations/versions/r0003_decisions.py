"""Decisions of people about loads: held, released, refused, unloaded; what the gate found."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add status held, who decided, and the gate's findings."""
    op.execute(
        """
        ALTER TABLE importer.loads
            DROP CONSTRAINT loads_status_check,
            ADD CONSTRAINT loads_status_check
                CHECK (status IN ('loading', 'loaded', 'held', 'refused', 'failed', 'unloaded')),
            ADD COLUMN decided_by text,
            ADD COLUMN pruned_at timestamptz;
        COMMENT ON COLUMN importer.loads.decided_by IS
            'Who released, refused or unloaded it by command; the time is finished_at.';
        COMMENT ON COLUMN importer.loads.pruned_at IS
            'When the rows of this superseded load were deleted for good; it cannot be restored since.';
        -- a load is looked for by the one that stands in its place
        CREATE INDEX loads_superseded ON importer.loads (superseded_by) WHERE superseded_by IS NOT NULL;
        -- one delivery is held once at most
        CREATE UNIQUE INDEX loads_held ON importer.loads (type, tenant, business_date, path)
            WHERE status = 'held';

        CREATE SCHEMA IF NOT EXISTS importer_held;
        COMMENT ON SCHEMA importer_held IS
            'Rows of held loads, a table for each, until `importer release` or `importer refuse`.';

        CREATE TABLE importer.gate (
            load_id bigint NOT NULL REFERENCES importer.loads ON DELETE CASCADE,
            rule    text NOT NULL,
            action  text NOT NULL,
            detail  text NOT NULL
        );
        COMMENT ON TABLE importer.gate IS 'What a type''s gate objected to in a load, and what it did about it.';
        CREATE INDEX gate_by_load ON importer.gate (load_id);
        """
    )


def downgrade() -> None:
    """Take it off again; held loads become refused ones."""
    op.execute(
        """
        DROP TABLE importer.gate;
        DROP SCHEMA importer_held CASCADE;
        UPDATE importer.loads SET status = 'refused' WHERE status = 'held';
        DROP INDEX importer.loads_held, importer.loads_superseded;
        ALTER TABLE importer.loads
            DROP COLUMN decided_by,
            DROP COLUMN pruned_at,
            DROP CONSTRAINT loads_status_check,
            ADD CONSTRAINT loads_status_check
                CHECK (status IN ('loading', 'loaded', 'refused', 'failed', 'unloaded'));
        """
    )
