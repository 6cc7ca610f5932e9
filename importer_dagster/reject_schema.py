"""Arrow schemas of the tables in which rejects travel from package to package.

What does not belong here: making such tables (``validation/rejects.py`` and the modules of ``reader`` that find
damaged records).
"""

import pyarrow as pa

# One row per failing cell, or per damaged record, which then has no column.
# row: number of the record in the file, from 1, without the header.
# line: physical line of the file where the record starts, from 1.
REJECT_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("column_name", pa.string()),
        pa.field("value", pa.string()),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("raw", pa.string()),
    ]
)
NO_REJECTS = REJECT_SCHEMA.empty_table()

# One row per rejected record, as the quarantine stores it; row, line and raw as in REJECT_SCHEMA.
# reasons: numbers of model.Reason, one for each failing cell of the record.
# values, details: one for each of the reasons; details are the words of a message that differ from cell to cell.
RECORD_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("reasons", pa.list_(pa.int32()), nullable=False),
        pa.field("values", pa.list_(pa.string()), nullable=False),
        pa.field("details", pa.list_(pa.string())),
        pa.field("raw", pa.string()),
    ]
)
