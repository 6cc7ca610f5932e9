"""Long tests under crashes, faults and load: ``make crash``, ``make soak``, ``make flood``, ``make overlap``.

The commands are ``crash`` (kills at every step), ``orchestrated`` (kills below Dagster), ``soak``
(a mixed load under faults), ``flood`` (many imports at once) and ``overlap`` (the same file from
four sides). ``server`` is a PostgreSQL that may be killed, ``project`` one with Dagster's daemon and
webserver; ``steps`` stops an import at a named step, ``work`` is what the killed processes do,
``state`` and ``count`` say what the tables must hold. Not shipped in the package.

What does not belong here: tests of how something works (``importer_dagster_tests``).
"""
