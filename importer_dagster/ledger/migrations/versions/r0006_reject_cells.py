"""The raw text of a rejected record is kept once, however many of its cells are bad."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Rejects become a view over their cells, which shows the raw text with each of them."""
    # With 17 bad cells a record, raw text was more than half of all that an import wrote.
    op.execute(
        """
        ALTER TABLE importer.rejects RENAME TO reject_cells;
        ALTER INDEX importer.rejects_by_load RENAME TO reject_cells_by_load;
        COMMENT ON TABLE importer.reject_cells IS
            'One row per failing cell, or per damaged record; raw stands in the first row of each record. See rejects.';

        CREATE VIEW importer.rejects AS
        SELECT load_id, row, line, column_name, value, rule, message,
               max(raw) OVER (PARTITION BY load_id, row) AS raw
        FROM importer.reject_cells;
        COMMENT ON VIEW importer.rejects IS
            'One row per failing cell of a record put aside, with the record''s raw text. A record that is '
            'damaged as a whole has one, which names its first missing or first surplus column if there is one.';
        """
    )


def downgrade() -> None:
    """Rejects as a table again; later cells of a record stay without its raw text."""
    op.execute(
        """
        DROP VIEW importer.rejects;
        ALTER INDEX importer.reject_cells_by_load RENAME TO rejects_by_load;
        ALTER TABLE importer.reject_cells RENAME TO rejects;
        """
    )
