"""Random changes of training images: the options, the geometry that is drawn, colours, pasted objects."""

from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.augmentation.placement import MIN_EDGE

__all__ = ["MIN_EDGE", "Augmentation"]
