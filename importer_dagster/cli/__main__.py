"""``python -m importer_dagster.cli``: the same as ``importer``."""

from importer_dagster.cli import main

if __name__ == "__main__":
    main()
