"""The ops of a model that detects, as one value: the compiled ones, or others with the same arguments and results."""

from collections.abc import Callable
from typing import NamedTuple

import mrcnn_ops


class DetectionOps(NamedTuple):
    """The ops that normalise, pool RoIs, make proposals and choose detections, with the arguments of `mrcnn_ops`."""

    multilevel_roi_align: Callable = mrcnn_ops.multilevel_roi_align
    generate_proposals: Callable = mrcnn_ops.generate_proposals
    multiclass_nms: Callable = mrcnn_ops.multiclass_nms
    fold_batch_norm: Callable = mrcnn_ops.fold_batch_norm
    group_norm: Callable = mrcnn_ops.group_norm


COMPILED_OPS = DetectionOps()
