"""Targets, sampling and losses."""

from mrcnn_model.targets.assignment import AnchorTargets, GroundTruth, anchor_targets, rematch_rois, roi_targets

__all__ = ["AnchorTargets", "GroundTruth", "anchor_targets", "rematch_rois", "roi_targets"]
