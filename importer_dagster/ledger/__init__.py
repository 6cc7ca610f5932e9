"""The record of what happened: loads, rejects, drift, arrivals, the gate's findings; its schema and migrations.

What does not belong here: data tables (``writer``), what follows from the record (``pipeline``, ``operations``).
"""
