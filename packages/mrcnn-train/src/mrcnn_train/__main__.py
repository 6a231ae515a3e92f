"""`python -m mrcnn_train`."""

import sys

from mrcnn_train.app import main

if __name__ == "__main__":
    sys.exit(main())
