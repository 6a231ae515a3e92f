"""Weights from files and to files: ours, Tensorpack's, torchvision's and detectron2's."""

from mrcnn_model.weights.files import read_arrays, write_arrays
from mrcnn_model.weights.filling import LAYOUTS, WeightsReport, export_weights, fill_model, load_weights
from mrcnn_model.weights.layout import Layout

__all__ = [
    "LAYOUTS",
    "Layout",
    "WeightsReport",
    "export_weights",
    "fill_model",
    "load_weights",
    "read_arrays",
    "write_arrays",
]
