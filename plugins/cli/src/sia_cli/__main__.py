"""``python -m sia_cli``: the same as ``sia``."""

import sys

from sia_cli import main

sys.exit(main())
