"""A fuzzer for the reader: ``make fuzz`` or ``python -m fuzz --minutes 60``.

``files.py`` makes hostile files, ``oracle.py`` checks what must hold of every file, and ``run.py``
watches for crashes, hangs and memory.

What does not belong here: tests that run with the others (``importer_dagster_tests/``).
"""
