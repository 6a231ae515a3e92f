"""Training of Mask R-CNN: configuration, loop, checkpoints. The command is `python -m mrcnn_train`.

Importing this package does not import TensorFlow.
"""

from mrcnn_train.config import RunConfig
from mrcnn_train.errors import ConfigError, DivergedError
from mrcnn_train.runner import run

__version__ = "0.1.0"

__all__ = ["ConfigError", "DivergedError", "RunConfig", "__version__", "run"]
