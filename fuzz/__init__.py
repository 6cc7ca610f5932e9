"""A fuzzer for the reader: ``make fuzz`` or ``python -m fuzz --minutes 60``.

What belongs here: making hostile files (``files.py``), what must hold of every
one (``oracle.py``), watching for crashes, hangs and memory (``run.py``).
What does not: tests that run with the others (``importer_dagster_tests/``).
"""
