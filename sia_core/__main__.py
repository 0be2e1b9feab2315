"""``python -m sia_core``: the same as ``sia``."""

import sys

from sia_core.cli import main

sys.exit(main())
