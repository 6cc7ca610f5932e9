"""What a step would do for the first time in its life, done once before it is born.

Step processes are forked from a process that has imported this module, so each
first time here saves every step its cost: loading psycopg2's libraries and
Pandera's registries alone are half a second. Nothing here may start a thread or
open a connection: neither survives a fork.

What does not belong here: anything with an effect that can be seen.
"""

import os
import sys

import fsspec
import pandas as pd
import psycopg2  # noqa: F401 - SQLAlchemy imports it at the first connection
import pyarrow as pa
import upath  # noqa: F401 - Dagster imports it late
from dagster._core.execution.api import create_execution_plan

import importer_dagster.defs.step
import importer_dagster.pipeline  # noqa: F401 - with all that it imports
from importer_dagster.definitions import defs
from importer_dagster.defs.orphans import die_with_parent
from importer_dagster.fields import FieldSpec
from importer_dagster.schema import pandera_schema
from importer_dagster.settings import Settings
from importer_dagster.source import pattern_of
from importer_dagster.spec import TableSchema, TableSpec, load_specs


def warm_up() -> None:
    """Resolve the jobs and their plans, compile the path patterns, validate an empty table that does not exist."""
    settings = Settings.from_env()
    for spec in load_specs(settings.specs).values():
        pattern_of(spec, settings.default_path)
    for job in defs.get_repository_def().get_all_jobs():
        create_execution_plan(job)  # what a step reads off it stays with the job
    fields = (FieldSpec(name="a", type="integer"), FieldSpec(name="b", type="string"))
    schema = pandera_schema(TableSpec(name="warm", tableschema=TableSchema(fields=fields)))
    columns = {"a": pd.ArrowDtype(pa.int64()), "b": pd.ArrowDtype(pa.string())}
    # made column by column: pyarrow's own conversion of a table starts its threads
    schema.validate(pd.DataFrame({n: pd.Series([], dtype=t) for n, t in columns.items()}), lazy=True)
    fsspec.filesystem("file")


warm_up()
if "multiprocessing.forkserver" in "".join(sys.orig_argv):
    # A step that hangs keeps this process, from which it was forked, alive. So both end:
    # this one with the run's, the steps with this one.
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
