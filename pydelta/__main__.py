"""``python -m pydelta``."""

import sys

from pydelta.cli import main

sys.exit(main())
