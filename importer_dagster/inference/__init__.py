"""Inferring a spec from sample files: dialect, header, types, keys and constraints, each with the reason for it.

``importer infer`` calls it, and proposals for changed columns use its candidates. A load never infers anything.

What does not belong here: the database, and anything that a load needs.
"""
