"""What Dagster loads: the definitions, made from the environment (see ``settings.py``).

Importing this connects to nothing. What does not belong here: anything else.
"""

from importer_dagster.defs import build_defs

defs = build_defs()
