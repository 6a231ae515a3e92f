"""The options of a network. No TensorFlow here: a program can read and check options in milliseconds."""

from mrcnn_model.config.checks import OptionError
from mrcnn_model.config.model import PRECISIONS, ModelConfig
from mrcnn_model.config.parts import BACKBONES, ROI_STRIDES, STRIDES

__all__ = ["BACKBONES", "PRECISIONS", "ROI_STRIDES", "STRIDES", "ModelConfig", "OptionError"]
