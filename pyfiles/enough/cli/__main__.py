"""``python -m enough.cli``."""

import sys

from enough.cli import main

if __name__ == "__main__":
    sys.exit(main())
