"""Imports daily CSV deliveries into a PostgreSQL warehouse, as Dagster assets.

The story of one import is told by :func:`importer_dagster.pipeline.delivery.import_delivery`;
a CSV type is described by one YAML file, see :mod:`importer_dagster.spec.table`.
"""

__version__ = "0.1.0"
