"""Specs: what one YAML file says of a CSV type, and its other forms (JSON Schema, Frictionless, SQL, Markdown).

Reading, checking and exporting specs; their fields, options and dated versions; the table that a spec describes.

What does not belong here: values and rows of deliveries (``validation``), tables in the database (``writer``),
specs made from sample files (``inference``).
"""
