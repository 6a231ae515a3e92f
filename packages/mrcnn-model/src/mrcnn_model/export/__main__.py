"""`python -m mrcnn_model.export`."""

import sys

from mrcnn_model.export.saved_model import main

sys.exit(main())
