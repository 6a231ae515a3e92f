"""Compiled TensorFlow ops for Mask R-CNN, for the CPU."""

from mrcnn_ops.library import build_info
from mrcnn_ops.proposals import GeneratedProposals, generate_proposals
from mrcnn_ops.roi_align import multilevel_roi_align

__all__ = ["GeneratedProposals", "build_info", "generate_proposals", "multilevel_roi_align"]
