"""``python -m flowreel``: the command line."""

import sys

from flowreel.cli import main

if __name__ == "__main__":
    sys.exit(main())
