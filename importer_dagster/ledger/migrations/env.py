"""Alembic's door to the ledger's migrations; the connection is handed in by ``ledger_schema.migrate``."""

from alembic import context
from sqlalchemy import text

SCHEMA = "importer"

connection = context.config.attributes["connection"]
for schema in (SCHEMA, "importer_superseded", "importer_repeats"):
    # asked first: CREATE … IF NOT EXISTS needs the privilege even where there is nothing to create
    if connection.scalar(text("SELECT to_regnamespace(:name)"), {"name": schema}) is None:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
context.configure(connection=connection, version_table_schema=SCHEMA, version_table="schema_version")
with context.begin_transaction():
    context.run_migrations()
