"""Export as a SavedModel, with the compiled ops or with TensorFlow's own."""

from mrcnn_model.export.portable import PORTABLE_OPS
from mrcnn_model.export.saved_model import ServedModel, export

__all__ = ["PORTABLE_OPS", "ServedModel", "export"]
