"""Named steps of an import at which the database makes it wait, so that it can be killed at this step.

The product has no code for this. Triggers, an event trigger, and a function that is found
before PostgreSQL's own function of the same name ask for an advisory lock that the harness holds.
An import that waits for this lock has reached the step. When the harness does not hold it, the
triggers cost a look-up and do not wait.

What does not belong here: what is killed, and what must hold afterwards (``crash.py``).
"""

from __future__ import annotations

import psycopg
from psycopg import sql

NAMESPACE = 0x1A57EFFF  # of the advisory lock; the importer uses others

# in the order in which an import reaches them
STEPS = {
    "migrate": "while the ledger's tables are made (DDL)",
    "ddl": "while the type's tables are made (DDL)",
    "begin": "before its row of the ledger is written",
    "stage": "while the temporary table is made (DDL)",
    "copy": "after some batches, in mid-COPY",
    "publish": "before the first row is published",
    "published": "when rows are published, the ledger is not",
    "ledger": "between publish and ledger",
    "commit": "inside COMMIT",
    "done": "just after COMMIT, before the slot is given back",
    "random": "at a random instant",
}

_SETUP = """
CREATE SCHEMA reliability;
CREATE TABLE reliability.armed (step text, nth bigint);
CREATE FUNCTION reliability.reach(reached text, number bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM reliability.armed WHERE step = reached AND nth = number) THEN
        PERFORM pg_advisory_xact_lock_shared({namespace}, 1);
    END IF;
END $$;
-- for triggers: the step's name is the argument; rows are counted by their record number
CREATE FUNCTION reliability.at_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reliability.reach(TG_ARGV[0], 1);
    RETURN NULL;
END $$;
CREATE FUNCTION reliability.at_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reliability.reach(TG_ARGV[0], NEW._row);
    RETURN NEW;
END $$;
CREATE FUNCTION reliability.at_load() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reliability.reach(TG_ARGV[0], 1);
    RETURN NEW;
END $$;
CREATE FUNCTION reliability.at_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag IN ('CREATE TABLE', 'CREATE TABLE AS')
    LOOP
        IF made.schema_name = 'pg_temp' THEN
            IF made.object_identity LIKE '%importer_stage' THEN
                EXECUTE format('CREATE TRIGGER reach_copy BEFORE INSERT ON %s FOR EACH ROW '
                               'EXECUTE FUNCTION reliability.at_row(''copy'')', made.object_identity);
                PERFORM reliability.reach('stage', 1);
            END IF;
        ELSIF made.schema_name = 'importer' THEN
            PERFORM reliability.reach('migrate', 1);
            IF made.object_identity = 'importer.loads' THEN
                CREATE TRIGGER reach_begin BEFORE INSERT ON importer.loads FOR EACH ROW
                    EXECUTE FUNCTION reliability.at_load('begin');
                CREATE TRIGGER reach_ledger BEFORE UPDATE ON importer.loads FOR EACH ROW
                    WHEN (NEW.status = 'loaded' AND OLD.status = 'loading')
                    EXECUTE FUNCTION reliability.at_load('ledger');
                -- of files that are imported together the rows are written when all is known of them
                CREATE TRIGGER reach_ledger_together BEFORE INSERT ON importer.loads FOR EACH ROW
                    WHEN (NEW.status = 'loaded') EXECUTE FUNCTION reliability.at_load('ledger');
                CREATE CONSTRAINT TRIGGER reach_commit_together AFTER INSERT ON importer.loads
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status = 'loaded')
                    EXECUTE FUNCTION reliability.at_load('commit');
                CREATE CONSTRAINT TRIGGER reach_commit AFTER UPDATE ON importer.loads
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status = 'loaded' AND OLD.status = 'loading')
                    EXECUTE FUNCTION reliability.at_load('commit');
            END IF;
        ELSE
            PERFORM reliability.reach('ddl', 1);
            IF made.schema_name IN ('public', 'importer_superseded') THEN
                EXECUTE format('CREATE TRIGGER reach_publish BEFORE INSERT OR UPDATE OR DELETE ON %s '
                               'EXECUTE FUNCTION reliability.at_statement(''publish'')', made.object_identity);
                EXECUTE format('CREATE TRIGGER reach_published AFTER INSERT OR UPDATE OR DELETE ON %s '
                               'EXECUTE FUNCTION reliability.at_statement(''published'')', made.object_identity);
                IF made.schema_name = 'public' THEN
                    EXECUTE format('CREATE TRIGGER reach_copy BEFORE INSERT ON %s FOR EACH ROW '
                                   'EXECUTE FUNCTION reliability.at_row(''copy'')', made.object_identity);
                END IF;
            END IF;
        END IF;
    END LOOP;
END $$;
-- what an import says when it has committed: it gives back its locks
CREATE FUNCTION reliability.pg_advisory_unlock_all() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reliability.reach('done', 1);
    PERFORM pg_catalog.pg_advisory_unlock_all();
END $$;
-- of the role, since what is set for a database does not go into its copies
ALTER ROLE CURRENT_USER SET search_path = "$user", public, reliability, pg_catalog;
CREATE EVENT TRIGGER reach_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS')
    EXECUTE FUNCTION reliability.at_ddl();
"""


def install(conn: psycopg.Connection) -> None:
    """Prepare a database without tables, so that imports into it can be stopped at steps."""
    conn.execute(sql.SQL(_SETUP).format(namespace=sql.Literal(NAMESPACE)))


def arm(conn: psycopg.Connection, step: str, nth: int = 1) -> None:
    """Make the next import wait at ``step`` (for copy: at record ``nth``) until ``let_go`` or the end of this session."""
    conn.execute("SELECT pg_advisory_lock(%s, 1)", (NAMESPACE,))
    conn.execute("INSERT INTO reliability.armed VALUES (%s, %s)", (step, nth))


def let_go(conn: psycopg.Connection) -> None:
    """Let an import that waits at a step go on."""
    conn.execute("DELETE FROM reliability.armed")
    conn.execute("SELECT pg_advisory_unlock(%s, 1)", (NAMESPACE,))


def waiting(conn: psycopg.Connection) -> int | None:
    """The server process of an import that waits at the step; None if no import does."""
    row = conn.execute(
        """
        SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND classid = %s AND NOT granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """,
        (NAMESPACE,),
    ).fetchone()
    return None if row is None else int(row[0])
