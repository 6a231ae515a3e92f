"""The options of a network, and its precision. A program can read and check options without importing TensorFlow."""

from mrcnn_model.config.checks import OptionError
from mrcnn_model.config.devices import CPU, DEVICES, DeviceError
from mrcnn_model.config.model import ModelConfig
from mrcnn_model.config.parts import BACKBONES, ROI_STRIDES, STRIDES
from mrcnn_model.config.precision import AUTO_PRECISION, PRECISIONS, PrecisionChoice, choose_precision

__all__ = [
    "AUTO_PRECISION",
    "BACKBONES",
    "CPU",
    "DEVICES",
    "PRECISIONS",
    "ROI_STRIDES",
    "STRIDES",
    "DeviceError",
    "ModelConfig",
    "OptionError",
    "PrecisionChoice",
    "choose_precision",
]
