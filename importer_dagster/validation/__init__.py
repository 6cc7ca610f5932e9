"""A delivery compared with its spec: header, cells, whole rows, control totals.

Text becomes typed Arrow columns here; what does not fit becomes a reject or refuses the file.

What does not belong here: the structure of files (``reader``), checks against the database
(``pipeline/gate.py``, ``writer/references.py``).
"""
