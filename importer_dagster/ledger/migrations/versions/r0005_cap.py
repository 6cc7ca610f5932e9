"""The cap on writers, and who waits for a turn."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create settings, the queue of waiting writers, and the record of turns."""
    op.execute(
        """
        CREATE TABLE importer.settings (
            name  text PRIMARY KEY,
            value text NOT NULL
        );
        COMMENT ON TABLE importer.settings IS 'Settings that all processes share; db_writes is the cap on writers.';

        CREATE TABLE importer.waiting (
            ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            type   text NOT NULL,
            tenant text NOT NULL,
            bytes  bigint,
            small  boolean NOT NULL,
            since  timestamptz NOT NULL,
            due    timestamptz NOT NULL
        );
        COMMENT ON TABLE importer.waiting IS
            'Writers that wait for their turn. One that has not asked again until ''due'' is dead and does not count.';

        CREATE TABLE importer.turns (
            tenant text NOT NULL,
            small  boolean NOT NULL,
            last   timestamptz NOT NULL,
            PRIMARY KEY (tenant, small)
        );
        COMMENT ON TABLE importer.turns IS
            'When each tenant had its last turn to write, for small and for large files: whose turn is next.';
        """
    )


def downgrade() -> None:
    """Take it off again."""
    op.execute("DROP TABLE importer.settings, importer.waiting, importer.turns")
