"""What files of the inbox looked like when they were imported, what was asked for, and what never came."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the stamp of a load's file, the index of days, and two tables."""
    op.execute(
        """
        ALTER TABLE importer.loads ADD COLUMN stamp text;
        COMMENT ON COLUMN importer.loads.stamp IS
            'What the file system said of the file when it was read: time of change, version. A file of the inbox '
            'with another stamp or size is imported again.';
        -- the inbox of the last days is compared with the loads of these days
        CREATE INDEX loads_by_day ON importer.loads (business_date);

        CREATE TABLE importer.asked (
            type          text NOT NULL,
            tenant        text NOT NULL,
            business_date date NOT NULL,
            path          text NOT NULL,
            version       text NOT NULL,
            times         integer NOT NULL,
            asked_at      timestamptz NOT NULL,
            asked_by      text NOT NULL,
            PRIMARY KEY (type, tenant, business_date, path)
        );
        COMMENT ON TABLE importer.asked IS
            'Deliveries that the schedule or the sensor asked a run for: no second run while one may still come, and '
            'longer pauses the more often one version of a file was asked for in vain.';

        CREATE TABLE importer.missing (
            type          text NOT NULL,
            tenant        text NOT NULL,
            business_date date NOT NULL,
            expected_at   timestamptz NOT NULL,
            reported_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
            detail        text NOT NULL,
            PRIMARY KEY (type, tenant, business_date)
        );
        COMMENT ON TABLE importer.missing IS
            'Files that were not there (or not complete) by the time that their type expects them. What came later '
            'is in importer.loads.';
        """
    )


def downgrade() -> None:
    """Take it off again."""
    op.execute(
        """
        DROP TABLE importer.asked, importer.missing;
        DROP INDEX importer.loads_by_day;
        ALTER TABLE importer.loads DROP COLUMN stamp;
        """
    )
