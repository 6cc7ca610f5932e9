"""The Arrow tables that rejects travel in from room to room.

What does not belong here: making them (``validation/rejects.py`` and the rooms that find rejects).
"""

import pyarrow as pa

# One row per failing cell (or per damaged record, then without a column).
# row: number of the record in the file, from 1, the header not counted.
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

# The same, one row per rejected record, as it lies in quarantine. reasons: numbers of Reasons.
# values, details: one for each reason; details are words that differ from cell to cell.
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
