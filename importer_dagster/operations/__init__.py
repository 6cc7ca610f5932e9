"""What people and the nightly job do after imports: unload, release, refuse, prune, propose edits of specs.

What does not belong here: importing deliveries (``pipeline``), commands and their output (``cli``).
"""
