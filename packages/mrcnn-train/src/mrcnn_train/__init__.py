"""Training of Mask R-CNN: configuration, loop, checkpoints. The command is `python -m mrcnn_train`.

Importing this package imports neither TensorFlow nor Hydra.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
