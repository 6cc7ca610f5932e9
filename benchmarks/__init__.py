"""Measurements of the importer against ``psql \\copy`` and against itself: ``make bench``.

``python -m benchmarks`` measures and prints a Markdown table of ratios. Both
sides of a ratio are measured in one run, turn by turn, on one PostgreSQL.

What does not belong here: tests (a figure is no verdict on correctness), and
anything that the importer needs to work.
"""
