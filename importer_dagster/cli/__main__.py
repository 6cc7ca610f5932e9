"""Runs the ``importer`` command by ``python -m importer_dagster.cli``."""

from importer_dagster.cli import main

if __name__ == "__main__":
    main()
