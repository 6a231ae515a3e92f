"""Image files: read them, or only their sizes; and the geometry of turning, resizing and cropping."""

from mrcnn_data.images.geometry import Geometry, resize_only, resized_sizes
from mrcnn_data.images.header import ImageHeader, read_header
from mrcnn_data.images.reading import load_image

__all__ = ["Geometry", "ImageHeader", "load_image", "read_header", "resize_only", "resized_sizes"]
