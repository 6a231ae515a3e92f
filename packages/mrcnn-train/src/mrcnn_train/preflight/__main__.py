"""`python -m mrcnn_train.preflight`."""

import sys

from mrcnn_train.app import main

sys.exit(main(preflight=True))
