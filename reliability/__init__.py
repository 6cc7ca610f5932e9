"""Proof under crashes and faults: ``make crash`` and ``make soak``. Not shipped in the package.

``server`` is a PostgreSQL of our own that may be killed, ``steps`` makes an
import stop at a named step so that it can be killed there, ``work`` is what the
killed processes do, ``state`` tells whether two databases hold the same,
``crash`` and ``soak`` are the commands, ``orchestrated`` the victims below Dagster.

What does not belong here: tests of how something works (``importer_dagster_tests``).
"""
