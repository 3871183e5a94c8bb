"""``python -m app.cli``: the command line where its console script is not on the path."""

from __future__ import annotations

import sys

from app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
