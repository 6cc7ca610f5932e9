r"""The tools that the importer is measured against: how each loads the file, at its best documented settings.

Each brings its CSV file into PostgreSQL with the types of the spec. None of
them is needed to work on the project: they are the extra ``bench``, and what is
not installed is left out.

What does not belong here: taking turns and ratios (``peers.py``).
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.cases import plain_table, sql_types
from benchmarks.server import Server, psql_version
from importer_dagster.errors import UsageError
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation import schemas

_PIP = "pip install -c constraints.txt -e '.[bench]'"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Peer:
    """A tool, and how to load a file into ``table`` with it.

    ``notes`` say what it leaves out; ``share`` is the part of the rows that it is
    measured on, for a tool that would take too long on all of them. ``missing``
    answers why it cannot run here and how to install it, or "". ``name`` is
    asked for only where it can run.
    """

    key: str
    name: Callable[[], str]
    notes: str
    load: Callable[[Server, TableSpec, Path], object]
    missing: Callable[[], str]
    table: str = "peer"
    share: float = 1.0


def make_tables(server: Server, spec: TableSpec) -> None:
    """The typed tables that the peers load into, made anew."""
    typed = plain_table(spec, "peer")
    text = plain_table(spec, "peer_text").replace(" UUID", " TEXT")
    server.execute(
        "DROP TABLE IF EXISTS peer, peer_text", typed, text, "DROP SCHEMA IF EXISTS peer_dlt CASCADE"
    )


# --- what is installed -------------------------------------------------------------


def _modules(*names: str) -> Callable[[], str]:
    """A question whether these modules can be imported; they are not imported for it."""

    def missing() -> str:
        absent = [name for name in names if importlib.util.find_spec(name) is None]
        return f"no {' and '.join(absent)} here; {_PIP}" if absent else ""

    return missing


def _program(name: str, how: str) -> Callable[[], str]:
    return lambda: "" if _which(name) else f"no {name} here; {how}"


def _which(name: str) -> str | None:
    """A program beside this Python, or in PATH."""
    return shutil.which(
        name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )


def _run(words: Sequence[str], server: Server) -> str:
    """Run a program, the password in its environment; its output. Raises RuntimeError with its words."""
    given = conninfo_to_dict(server.url).get("password")
    environment = {**os.environ, "PGPASSWORD": str(given)} if given else None
    done = subprocess.run(  # noqa: S603 - our own arguments
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name} ended with {done.returncode}: {done.stdout[-2000:]}")
    return done.stdout


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host))


# --- psql --------------------------------------------------------------------------


def _psql(server: Server, _: TableSpec, file: Path) -> None:
    server.psql(f"\\copy peer from '{file}' with (format csv, header true)")


# --- pandas + Pandera --------------------------------------------------------------


def _text_type(field: Any) -> pa.DataType:
    """The field's Arrow type, a uuid as text: that is what these tools know."""
    of = schemas.arrow_type(field)
    return pa.string() if of == pa.binary(16) else of


def _pandas(server: Server, spec: TableSpec, file: Path) -> None:
    import pandas as pd
    import sqlalchemy as sa

    types = {f.column: pd.ArrowDtype(_text_type(f)) for f in spec.fields}
    frame = pd.read_csv(file, engine="pyarrow", dtype=types)
    checked = pandera_by_hand(spec).validate(frame, lazy=True)
    engine = sa.create_engine(server.url)
    try:
        checked.to_sql("peer", engine, if_exists="append", index=False, method=_insert_by_copy)
    finally:
        engine.dispose()


def pandera_by_hand(spec: TableSpec) -> Any:
    """The spec's constraints in Pandera's own checks, as its users write them."""
    import pandas as pd
    import pandera.pandas as pandera

    def column(field: Any) -> Any:
        c, checks = field.constraints, []
        if c.enum is not None:
            checks.append(pandera.Check.isin(list(c.enum)))
        if c.pattern is not None:
            checks.append(pandera.Check.str_matches(f"^(?:{c.pattern})$"))
        if field.format == "uuid":
            checks.append(pandera.Check.str_matches(f"^{_UUID}$"))
        if c.minimum is not None:
            checks.append(pandera.Check.ge(float(c.minimum)))
        if c.maximum is not None:
            checks.append(pandera.Check.le(float(c.maximum)))
        if c.maxLength is not None:
            checks.append(pandera.Check.str_length(max_value=c.maxLength))
        return pandera.Column(pd.ArrowDtype(_text_type(field)), checks=checks, nullable=not c.required)

    return pandera.DataFrameSchema({f.column: column(f) for f in spec.fields}, strict=True)


def _insert_by_copy(table: Any, connection: Any, keys: list[str], rows: Any) -> None:
    """What the documentation of pandas proposes for ``to_sql(method=…)`` on PostgreSQL."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    text.seek(0)
    columns = ", ".join(f'"{key}"' for key in keys)
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f'COPY "{table.name}" ({columns}) FROM STDIN WITH CSV', text)


# --- Polars + ADBC -----------------------------------------------------------------


def _polars(server: Server, spec: TableSpec, file: Path) -> None:
    import polars

    empty = pa.schema([pa.field(f.column, _text_type(f)) for f in spec.fields]).empty_table()
    types = polars.from_arrow(empty).schema
    frame = polars.read_csv(file, schema=types)
    frame.write_database("peer_text", server.url, engine="adbc", if_table_exists="append")


# --- dlt ---------------------------------------------------------------------------


def _dlt(loader: str) -> Callable[[Server, TableSpec, Path], None]:
    def load(server: Server, spec: TableSpec, file: Path) -> None:
        os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
        os.environ.setdefault("RUNTIME__LOG_LEVEL", "ERROR")
        import dlt
        from pyarrow import csv as arrow_csv

        options = arrow_csv.ConvertOptions(
            column_types={f.column: _text_type(f) for f in spec.fields}, strings_can_be_null=True
        )
        reading = arrow_csv.ReadOptions(block_size=16 << 20)

        def batches() -> Any:
            yield from arrow_csv.open_csv(file, read_options=reading, convert_options=options)

        with tempfile.TemporaryDirectory(prefix="importer-bench-dlt-") as folder:
            pipeline = dlt.pipeline(
                f"bench_{loader}",
                destination=dlt.destinations.postgres(credentials=_dlt_url(server)),
                dataset_name="peer_dlt",
                pipelines_dir=folder,
            )
            pipeline.run(
                dlt.resource(batches, name="peer", write_disposition="append"), loader_file_format=loader
            ).raise_on_failed_jobs()

    return load


def _dlt_url(server: Server) -> str:
    """The server's URL with all parts that dlt demands; a socket's folder stands behind the question mark."""
    info = {k: str(v) for k, v in conninfo_to_dict(server.url).items() if v is not None}
    user, word = quote(info.pop("user", ""), safe=""), quote(info.pop("password", "none"), safe="")
    database = quote(info.pop("dbname"), safe="")
    more = "?" + urlencode(info, quote_via=quote, safe="") if info else ""
    return f"postgresql://{user}:{word}@{_host(server)}/{database}{more}"


def _host(server: Server) -> str:
    host = str(conninfo_to_dict(server.url).get("host") or "localhost")
    return "localhost" if host.startswith("/") else host


# --- DuckDB ------------------------------------------------------------------------


def _duckdb_missing() -> str:
    if absent := _modules("duckdb")():
        return absent
    import duckdb

    try:
        with duckdb.connect() as connection:
            _load_extension(connection)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        return (
            f"its postgres extension is not here ({reason}); run INSTALL postgres in DuckDB with a way to "
            "the network, or install the package duckdb-extension-postgres-scanner of the same version"
        )
    return ""


def _load_extension(connection: Any) -> None:
    """The postgres extension: from a wheel if there is one, else DuckDB's own, which it may have to download."""
    import duckdb

    wheel = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    if wheel is not None and wheel.origin:
        name = f"extensions/v{duckdb.__version__}/postgres_scanner.duckdb_extension"
        file = Path(wheel.origin).parent / name
        if file.exists():
            connection.execute(f"LOAD '{file}'")
            return
    connection.execute("INSTALL postgres")
    connection.execute("LOAD postgres")


def _duckdb(server: Server, spec: TableSpec, file: Path) -> None:
    import duckdb

    words = {"TEXT": "VARCHAR", "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP", "DOUBLE PRECISION": "DOUBLE"}
    columns = ", ".join(f"'{name}': '{words.get(of, of)}'" for name, of in sql_types(spec).items())
    info = make_conninfo(server.url).replace("'", "''")
    with duckdb.connect() as connection:
        _load_extension(connection)
        connection.execute(f"ATTACH '{info}' AS pg (TYPE postgres)")
        source = f"read_csv('{file}', header = true, columns = {{{columns}}})"
        connection.execute(f"INSERT INTO pg.public.peer SELECT * FROM {source}")  # noqa: S608 - our own names


# --- pgloader ----------------------------------------------------------------------


def _pgloader(server: Server, spec: TableSpec, file: Path) -> None:
    info = conninfo_to_dict(server.url)
    host, port = str(info.get("host") or "localhost"), info.get("port") or 5432
    where = f"unix:{host}" if host.startswith("/") else host
    columns = ", ".join(f.column for f in spec.fields)
    command = f"""LOAD CSV FROM '{file}' ({columns})
        INTO postgresql://{info.get("user")}@{where}:{port}/{info["dbname"]}
        TARGET TABLE public.peer ({columns})
        WITH skip header = 1, fields terminated by ',', fields optionally enclosed by '"',
             fields escaped by double-quote, workers = 2, concurrency = 1;"""
    with tempfile.TemporaryDirectory(prefix="importer-bench-pgloader-") as folder:
        script = Path(folder) / "bench.load"
        script.write_text(command, encoding="utf-8")
        _run([_which("pgloader") or "pgloader", "--root-dir", folder, str(script)], server)


def _pgloader_name() -> str:
    lines = subprocess.run(  # noqa: S603 - our own arguments
        [_which("pgloader") or "pgloader", "--version"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return "pgloader " + (lines[0].split('"')[1] if lines and '"' in lines[0] else "")


# --- csvkit ------------------------------------------------------------------------


def _csvsql(server: Server, _: TableSpec, file: Path) -> None:
    options = ["--insert", "--no-create", "--no-inference", "--tables", "peer", "--chunk-size", "10000"]
    _run([_which("csvsql") or "csvsql", "--db", _without_password(server.url), *options, str(file)], server)


# --- all of them -------------------------------------------------------------------


def _psql_missing() -> str:
    try:
        psql_version()
    except UsageError as error:
        return str(error)
    return ""


PEERS: tuple[Peer, ...] = (
    Peer("psql", lambda: f"psql {psql_version()} \\copy", "validates nothing", _psql, _psql_missing),
    Peer(
        "dlt",
        lambda: f"dlt {version('dlt')}, Arrow batches, parquet by ADBC",
        "validates nothing beyond types; makes its table itself, row_id as text",
        _dlt("parquet"),
        _modules("dlt", "adbc_driver_postgresql", "psycopg2"),
        table="peer_dlt.peer",
    ),
    Peer(
        "dlt-csv",
        lambda: f"dlt {version('dlt')}, Arrow batches, csv by COPY",
        "validates nothing beyond types; makes its table itself, row_id as text",
        _dlt("csv"),
        _modules("dlt", "psycopg2"),
        table="peer_dlt.peer",
    ),
    Peer(
        "polars",
        lambda: (
            f"Polars {version('polars')} read_csv, write_database by ADBC {version('adbc-driver-postgresql')}"
        ),
        "validates nothing beyond types; whole file in memory, row_id as text",
        _polars,
        _modules("polars", "adbc_driver_postgresql"),
        table="peer_text",
    ),
    Peer(
        "duckdb",
        lambda: f"DuckDB {version('duckdb')} read_csv, INSERT by its postgres extension",
        "validates nothing beyond types",
        _duckdb,
        _duckdb_missing,
    ),
    Peer(
        "pandas",
        lambda: (
            f"pandas {version('pandas')} read_csv (pyarrow), Pandera {version('pandera')}, to_sql by COPY"
        ),
        "validates all constraints; whole file in memory, stops at the first bad cell of a wrong type",
        _pandas,
        _modules("pandas", "pandera", "psycopg2"),
        share=0.2,
    ),
    Peer(
        "pgloader",
        _pgloader_name,
        "validates nothing beyond types; puts bad rows aside",
        _pgloader,
        _program("pgloader", "apt-get install pgloader, or brew install pgloader"),
        share=0.1,
    ),
    Peer(
        "csvsql",
        lambda: f"csvkit {version('csvkit')} csvsql --insert",
        "validates nothing beyond types; whole file in memory",
        _csvsql,
        _program("csvsql", _PIP),
        share=0.05,
    ),
)
