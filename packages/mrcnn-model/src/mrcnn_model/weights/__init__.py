"""Read and write weights: our own, and those of Tensorpack, torchvision and detectron2."""

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
