"""The ``importer`` command as a process, in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

IMPORTER = Path(sys.executable).with_name("importer")


SPEC = """
schema:
  fields:
    - {name: id, type: integer, constraints: {required: true}}
    - {name: amount, type: number, precision: 8, scale: 2}
  primaryKey: [id]
write_disposition: merge
"""


class Command:
    """Runs ``importer`` in an environment of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        (folder / "specs").mkdir()
        (folder / "inbox").mkdir()
        self.spec("orders", SPEC)
        self.env = {
            **os.environ,
            "IMPORTER_HOME": str(folder / "home"),
            "IMPORTER_WAREHOUSE_URL": url,
            "IMPORTER_SPECS": str(folder / "specs"),
            "IMPORTER_INBOX_URL": str(folder / "inbox"),
            "COLUMNS": "200",
        }

    def spec(self, name: str, text: str) -> None:
        (self.folder / "specs" / f"{name}.yaml").write_text(text)

    def file(self, content: str, path: str = "inbox/2024-01-31/acme/orders.csv") -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return str(file)

    def __call__(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(IMPORTER), *args],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
