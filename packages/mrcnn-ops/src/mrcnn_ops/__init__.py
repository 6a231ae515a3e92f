"""Compiled TensorFlow ops for Mask R-CNN: CPU kernels of all of them, CUDA kernels of all but `encode_masks`."""

from mrcnn_ops.batch_norm import fold_batch_norm
from mrcnn_ops.detections import NmsDetections, multiclass_nms
from mrcnn_ops.driver import Driver, Gpu, read_driver, too_old
from mrcnn_ops.group_norm import group_norm
from mrcnn_ops.library import build_info
from mrcnn_ops.mask_encoding import encode_masks
from mrcnn_ops.matching import BoxMatches, match_boxes
from mrcnn_ops.proposals import GeneratedProposals, generate_proposals
from mrcnn_ops.roi_align import multilevel_roi_align
from mrcnn_ops.sgd import apply_sgd, gradient_norm

__all__ = [
    "BoxMatches",
    "Driver",
    "GeneratedProposals",
    "Gpu",
    "NmsDetections",
    "apply_sgd",
    "build_info",
    "encode_masks",
    "fold_batch_norm",
    "generate_proposals",
    "gradient_norm",
    "group_norm",
    "match_boxes",
    "multiclass_nms",
    "multilevel_roi_align",
    "read_driver",
    "too_old",
]
