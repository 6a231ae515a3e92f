"""Export as a SavedModel."""

from mrcnn_model.export.saved_model import ServedModel, export

__all__ = ["ServedModel", "export"]
