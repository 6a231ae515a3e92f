"""Train Mask R-CNN: options, loop, checkpoints. The command is `python -m mrcnn_train`.

Importing this package does not import TensorFlow.
"""

from mrcnn_train.config.options import RunConfig
from mrcnn_train.errors import ConfigError, DivergedError, PeerLostError, SaveError
from mrcnn_train.runner import run

__version__ = "0.1.0"

__all__ = ["ConfigError", "DivergedError", "PeerLostError", "RunConfig", "SaveError", "__version__", "run"]
