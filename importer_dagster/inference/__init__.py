"""A spec from sample files: dialect, header, types, keys, each with its evidence.

Used by a person at a desk (``importer infer``), never by a load.

What does not belong here: the database, and anything that a load needs.
"""
