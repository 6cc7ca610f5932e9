"""A database that refuses every write of a session without a slot: checks the cap at every statement.

Triggers on each data table and on the ledger, and an event trigger for DDL, check that the
session holds a slot. Writes to the queue (``importer.waiting``), to settings and to the set-up of
schema ``importer`` are allowed, as docs/concurrency.md says. The product has no code for this.

What does not belong here: counting the sessions that write (``sampling.py``).
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from importer_dagster.slots import SLOT_LOCKS

MESSAGE = "written without a slot"

_SETUP = """
CREATE SCHEMA guard;
CREATE SEQUENCE guard.statements;
CREATE FUNCTION guard.check_slot(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    mine bigint;
    taken bigint;
BEGIN
    SELECT count(*) FILTER (WHERE pid = pg_backend_pid()), count(*) INTO mine, taken FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = {slots}
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    PERFORM nextval('guard.statements');
    IF mine = 0 THEN
        RAISE EXCEPTION '{message}: %', what;
    ELSIF taken > {cap} THEN
        RAISE EXCEPTION '% slots are taken: %', taken, what;
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
   OR schemaname = 'importer'
  AND tablename IN ('loads', 'rejects', 'reject_reasons', 'reject_records', 'drift', 'gate', 'profiles');
CREATE EVENT TRIGGER guard_ddl ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'ALTER TABLE', 'CREATE INDEX', 'COMMENT', 'CREATE SCHEMA')
    EXECUTE FUNCTION guard.at_ddl();
CREATE EVENT TRIGGER guard_drop ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION guard.at_drop();
"""


def install(conn: psycopg.Connection, cap: int = 1_000) -> None:
    """From now on, a write is an error if its session has no slot, or if more than ``cap`` slots are taken.

    The error of a session without a slot begins with ``MESSAGE``.
    """
    names = {"slots": sql.Literal(SLOT_LOCKS), "message": sql.SQL(MESSAGE), "cap": sql.Literal(cap)}
    conn.execute(sql.SQL(_SETUP).format(**names))


def checked(conn: psycopg.Connection) -> int:
    """How many writing statements were checked."""
    row = conn.execute(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM guard.statements"
    ).fetchone()
    assert row
    return int(row[0])
