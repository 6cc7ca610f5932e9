"""The ledger: the record of loads, rejects, drift, arrivals and the gate's findings, its schema and migrations.

What does not belong here: data tables (``writer``), decisions by the record (``pipeline``, ``operations``).
"""
