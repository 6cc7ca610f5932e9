"""One delivery from file to table: the only place where source, reader, validation, writer and ledger meet.

``delivery.import_delivery`` is the entrance; ``load.py`` tells the steps of a load in their order. Many small files
and files that were imported before have modules of their own.

What does not belong here: how any of the steps does its work, and what is done to loads afterwards (``operations``).
"""
