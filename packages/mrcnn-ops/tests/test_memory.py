"""Peak memory that a call adds, measured in another process by resetting Linux's counter of the peak."""

import os
import subprocess
import sys

import pytest

MEASURE = """
import sys
import numpy as np, tensorflow as tf, mrcnn_ops
tf.config.threading.set_intra_op_parallelism_threads(2)

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def peak(run):
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # VmHWM = VmRSS
    before = status("VmRSS")
    result = run()
    return status("VmHWM") - before

rng = np.random.default_rng(0)
def boxes(*shape):
    corners = rng.uniform(0, 800, (*shape, 2, 2))
    return tf.constant(np.concatenate([corners.min(-2), corners.max(-2)], -1), tf.float32)
"""

MATCHING = """
def run(anchors, gt_boxes):
    return mrcnn_ops.match_boxes(anchors, gt_boxes, tf.ones(gt_boxes.shape[:2], tf.bool), tf.zeros((1, 1, 4)))
small, anchors, gt_boxes = boxes(9000), boxes(268569), boxes(1, 2000)
run(small, gt_boxes)  # threads, pools, traces
print(peak(lambda: run(anchors, gt_boxes)))
"""

ROI_ALIGN = """
features = [tf.constant(rng.standard_normal((1, 800 // s, 1344 // s, 256)), tf.float32) for s in (4, 8, 16, 32)]
def run(rois):
    return mrcnn_ops.multilevel_roi_align(features, rois, strides=(4, 8, 16, 32), output_size=7)
few, many = boxes(1, 16), boxes(1, 512)
run(few)
print(peak(lambda: run(many)))
"""

pytestmark = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs"
)


def peak_of(code):
    result = subprocess.run([sys.executable, "-c", MEASURE + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_matching_stores_no_matrix():
    # 269 k anchors x 2,000 ground truths would be 2.1 GB in float32.
    assert peak_of(MATCHING) < 64 << 20


def test_roi_align_needs_its_output_and_little_more():
    output = 512 * 7 * 7 * 256 * 4
    assert output / 2 < peak_of(ROI_ALIGN) < output + (1 << 20)
