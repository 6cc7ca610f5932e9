"""What people and the nightly job do to loads and specs afterwards: unload, release, refuse, prune, accept drift.

What does not belong here: importing deliveries (``pipeline``), commands and their output (``cli``).
"""
