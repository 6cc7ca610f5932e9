"""What a step would do for the first time in its life, done once before it is born.

Step processes are forked from a process that has imported this module. Pandera
fills its registries at the first validation: 0.4 s that each step would spend.
Nothing here may start a thread or open a connection: neither survives a fork.

What does not belong here: anything with an effect that can be seen.
"""

import fsspec
import pandas as pd
import pyarrow as pa

import importer_dagster.pipeline  # noqa: F401 - with all that it imports
from importer_dagster.fields import FieldSpec
from importer_dagster.schema import pandera_schema
from importer_dagster.spec import TableSchema, TableSpec


def warm_up() -> None:
    """Validate one row of a table that does not exist."""
    fields = (FieldSpec(name="a", type="integer"), FieldSpec(name="b", type="string"))
    schema = pandera_schema(TableSpec(name="warm", tableschema=TableSchema(fields=fields)))
    columns = {"a": pd.ArrowDtype(pa.int64()), "b": pd.ArrowDtype(pa.string())}
    # made column by column: pyarrow's own conversion of a table starts its threads
    schema.validate(pd.DataFrame({n: pd.Series([], dtype=t) for n, t in columns.items()}), lazy=True)
    fsspec.filesystem("file")


warm_up()
