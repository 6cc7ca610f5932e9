"""A secret of the warehouse for the hashes of rows, so that no supplier can compute them."""

import secrets

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the secret. Tables keep the hashes that they have; loads replace them bit by bit."""
    op.execute(
        """
        CREATE TABLE importer.row_secret (secret bytea NOT NULL);
        COMMENT ON TABLE importer.row_secret IS
            'The key of the hashes in columns _hash. Grant it to nobody: who knows it can make two rows with one hash.';
        REVOKE ALL ON importer.row_secret FROM PUBLIC;
        """
    )
    insert = text("INSERT INTO importer.row_secret VALUES (:secret)")
    op.get_bind().execute(insert, {"secret": secrets.token_bytes(32)})


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE importer.row_secret")
