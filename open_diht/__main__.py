"""`python -m open_diht`, the same as the command `open-diht`."""

import sys

from open_diht.cli import main

sys.exit(main())
