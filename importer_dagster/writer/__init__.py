"""A type's tables in PostgreSQL, rows into them, and bringing a load's rows into force.

What does not belong here: the ledger (``ledger``), the order of steps of a load (``pipeline``), a person's
decisions about a load (``operations``).
"""
