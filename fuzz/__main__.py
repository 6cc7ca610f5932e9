"""``python -m fuzz``; a worker process cannot start from a module of this name, so all is in ``run.py``."""

import sys

from fuzz.run import main

sys.exit(main())
