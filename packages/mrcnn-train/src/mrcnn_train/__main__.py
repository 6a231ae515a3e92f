"""`python -m mrcnn_train`."""

import sys

from mrcnn_train.job.signals import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()
    from mrcnn_train.app import main

    sys.exit(main())
