"""Imports and caches that every step needs, made once in the process that step processes are forked from.

That process imports this module. What is made here costs no step its time: loading psycopg2's libraries
and Pandera's registries alone takes half a second. Nothing here may start a thread or
open a connection, since neither survives a fork.

What does not belong here: anything with an effect outside of the process.
"""

import gc
import importlib
import os
import sys
from contextlib import suppress

import fsspec
import psycopg2  # noqa: F401 - SQLAlchemy imports it at the first connection
import pyarrow as pa
from dagster._core.execution.api import create_execution_plan  # private: no public one fills the job's cache

import importer_dagster.defs.step
import importer_dagster.defs.storage
import importer_dagster.pipeline.delivery
import importer_dagster.pipeline.small_files
import importer_dagster.pipeline.unchanged_files  # noqa: F401 - with all that they import
from importer_dagster.definitions import defs
from importer_dagster.defs.run_recovery import die_with_parent
from importer_dagster.settings import Settings
from importer_dagster.source.path_patterns import pattern_of
from importer_dagster.spec.fields import Constraints, FieldSpec, TableSchema
from importer_dagster.spec.loading import load_specs
from importer_dagster.spec.table import TableSpec
from importer_dagster.validation.validator import Validator

# What Dagster and others import late in a step, after a look at a hundred places. Some are private to Dagster:
# where a release does not have one, a step imports what it needs as usual.
LATE = (
    "dagster._core.instance.factory",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.workspace.autodiscovery",
    "dagster._utils.test.definitions",
    "fsspec.implementations.chained",
    "importlib.readers",
    "pandera.backends.register_checks",
    "psycopg2.extras",
    "upath.implementations.local",
)


def warm_up() -> None:
    """Import, resolve the jobs and their plans, compile the path patterns, validate one record of all types.

    Pandera, Arrow and pandas do some work once for each data type and each kind of check.
    """
    for name in LATE:
        with suppress(ImportError):
            importlib.import_module(name)
    fsspec.filesystem("file")
    settings = Settings.from_env()
    for spec in load_specs(settings.specs).values():
        pattern_of(spec, settings.default_path)
    for job in defs.get_repository_def().get_all_jobs():
        create_execution_plan(job)  # the job keeps what a step reads
    required = Constraints(required=True)
    fields = (
        FieldSpec(name="integer", type="integer", constraints=Constraints(minimum=0, maximum=9)),
        FieldSpec(name="number", type="number", precision=10, scale=2, constraints=Constraints(minimum=0)),
        FieldSpec(name="double", type="number", format="double"),
        FieldSpec(
            name="string", type="string", constraints=Constraints(maxLength=9, enum=("1",), required=True)
        ),
        FieldSpec(name="pattern", type="string", constraints=Constraints(pattern="[0-9]+", minLength=1)),
        FieldSpec(name="boolean", type="boolean", constraints=required),
        FieldSpec(name="date", type="date", constraints=required),
        FieldSpec(name="datetime", type="datetime", constraints=required),
    )
    record = ("1", "1.5", "1.5", "1", "1", "true", "2024-01-31", "2024-01-31 12:00:00")
    spec = TableSpec(name="warm", tableschema=TableSchema(fields=fields))
    columns = [str(n) for n in range(len(fields))]
    batch = pa.record_batch([pa.array([text]) for text in record], names=columns)
    Validator(spec, {f.name: c for f, c in zip(fields, columns, strict=True)})(batch)


warm_up()
if "multiprocessing.forkserver" in "".join(sys.orig_argv):
    # A step that hangs keeps this process, from which it was forked, alive. So both end:
    # this process with that of the run, the steps with this process.
    die_with_parent()
    # The garbage collector of a step does not touch, and so does not copy, what it shares with this process.
    os.register_at_fork(before=gc.freeze, after_in_child=die_with_parent)
