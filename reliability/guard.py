"""A database that refuses every write of a session without a slot: the cap shown by a rule, not by samples.

Triggers on each data table and on the ledger, and an event trigger for DDL, ask
whether the session holds a slot. Only what waits (``importer.waiting``), settings
and the set-up of schema ``importer`` are let through, as the documentation says.
No line of the product knows of it.

What does not belong here: counting those who write (``flood.py``).
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from importer_dagster.turns import SLOT_LOCKS

MESSAGE = "written without a slot"

_SETUP = """
CREATE SCHEMA guard;
CREATE FUNCTION guard.check_slot(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND granted
          AND objsubid = 2 AND classid::bigint = {slots})
    THEN
        RAISE EXCEPTION '{message}: %', what;
    END IF;
END $$;
CREATE FUNCTION guard.at_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM guard.check_slot(format('%s %I.%I', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME));
    RETURN NULL;
END $$;
CREATE FUNCTION guard.watch(table_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                   'EXECUTE FUNCTION guard.at_statement()', table_name);
END $$;
CREATE FUNCTION guard.is_data(name text) RETURNS boolean LANGUAGE sql AS $$
    SELECT name IN ('public', 'importer_superseded', 'importer_repeats', 'importer_held')
$$;
CREATE FUNCTION guard.at_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
        IF guard.is_data(made.schema_name) THEN
            PERFORM guard.check_slot(format('%s %s', made.command_tag, made.object_identity));
            IF made.command_tag IN ('CREATE TABLE', 'CREATE TABLE AS') AND made.object_type = 'table' THEN
                PERFORM guard.watch(made.object_identity);
            END IF;
        ELSIF made.command_tag = 'CREATE TABLE'
            AND made.object_identity IN ('importer.loads', 'importer.rejects', 'importer.drift', 'importer.gate')
        THEN
            PERFORM guard.watch(made.object_identity);
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION guard.at_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN SELECT * FROM pg_event_trigger_dropped_objects() WHERE object_type = 'table' LOOP
        IF guard.is_data(gone.schema_name) THEN
            PERFORM guard.check_slot(format('DROP TABLE %s', gone.object_identity));
        END IF;
    END LOOP;
END $$;
SELECT guard.watch(format('%I.%I', schemaname, tablename)) FROM pg_tables
WHERE guard.is_data(schemaname)
   OR schemaname = 'importer' AND tablename IN ('loads', 'rejects', 'drift', 'gate');
CREATE EVENT TRIGGER guard_ddl ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'ALTER TABLE', 'CREATE INDEX', 'COMMENT', 'CREATE SCHEMA')
    EXECUTE FUNCTION guard.at_ddl();
CREATE EVENT TRIGGER guard_drop ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION guard.at_drop();
"""


def install(conn: psycopg.Connection) -> None:
    """From now on, a write of a session without a slot is an error whose text begins with ``MESSAGE``."""
    names = {"slots": sql.Literal(SLOT_LOCKS), "message": sql.SQL(MESSAGE)}  # type: ignore[arg-type]
    conn.execute(sql.SQL(_SETUP).format(**names))  # type: ignore[arg-type]
