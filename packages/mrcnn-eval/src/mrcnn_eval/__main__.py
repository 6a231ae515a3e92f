"""`python -m mrcnn_eval`."""

import sys

from mrcnn_eval.cli import main

sys.exit(main())
