"""`python -m mrcnn_model.export`."""

import sys

from mrcnn_model.quiet_tensorflow import import_tensorflow_quietly


def main() -> int:
    """Run the command; TensorFlow is imported first, without its log lines."""
    import_tensorflow_quietly()
    from mrcnn_model.export.saved_model import main as export_main

    return export_main()


sys.exit(main())
