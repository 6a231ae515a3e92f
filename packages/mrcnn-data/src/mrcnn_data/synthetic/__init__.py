"""A COCO-format dataset of drawn shapes, for demos and tests: outlines, textures, scenes, files."""

from mrcnn_data.synthetic.generate import generate_shapes
from mrcnn_data.synthetic.outlines import CLASS_NAMES

__all__ = ["CLASS_NAMES", "generate_shapes"]
