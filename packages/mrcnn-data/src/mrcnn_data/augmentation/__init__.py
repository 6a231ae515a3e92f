"""Random changes of training images: the options, the geometry that is drawn, colours, pasted objects."""

from mrcnn_data.augmentation.options import Augmentation

__all__ = ["Augmentation"]
