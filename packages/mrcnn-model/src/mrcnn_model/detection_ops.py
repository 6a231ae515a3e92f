"""The ops of detection, as one value: the compiled ones, or others with the same arguments and results."""

from collections.abc import Callable
from typing import NamedTuple

import mrcnn_ops


class DetectionOps(NamedTuple):
    """The ops that pool RoIs, make proposals and choose detections; see `mrcnn_ops` for arguments and results."""

    multilevel_roi_align: Callable = mrcnn_ops.multilevel_roi_align
    generate_proposals: Callable = mrcnn_ops.generate_proposals
    multiclass_nms: Callable = mrcnn_ops.multiclass_nms


COMPILED_OPS = DetectionOps()
