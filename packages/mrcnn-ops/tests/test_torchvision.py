"""Values of torchvision's CPU ops, where there is one: in this environment, or in that of MRCNN_TORCH_PYTHON.

torch runs in another process, because it and TensorFlow cannot be loaded into one.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_ops import multiclass_nms, multilevel_roi_align

PYTHON = os.environ.get("MRCNN_TORCH_PYTHON", sys.executable)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MRCNN_TORCH_PYTHON" not in os.environ and importlib.util.find_spec("torchvision") is None,
        reason="torchvision is not installed here, and MRCNN_TORCH_PYTHON names no Python that has it",
    ),
]

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 192, 256

READ = """
import sys
import numpy as np, torch
from torchvision.ops import nms, roi_align
given = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[1]).items()}
"""

ROI_ALIGN = """
aligned = bool(given["aligned"])
maps = [given[f"map{level}"].permute(0, 3, 1, 2).contiguous().requires_grad_() for level in range(4)]
rois = [boxes for boxes in given["boxes"]]
crops = torch.zeros(*given["gradient"].shape[:2], given["gradient"].shape[-1], 7, 7)
for level, stride in enumerate((4, 8, 16, 32)):  # every box from every level, then the box's level
    all_crops = roi_align(maps[level], rois, 7, 1 / stride, 2, aligned).unflatten(0, crops.shape[:2])
    crops = torch.where((given["levels"] == level)[:, :, None, None, None], all_crops, crops)
gradients = torch.autograd.grad(crops, maps, given["gradient"].permute(0, 1, 4, 2, 3))
np.savez(sys.argv[2], crops=crops.detach().permute(0, 1, 3, 4, 2).numpy(),
         **{f"map{level}": gradient.permute(0, 2, 3, 1).numpy() for level, gradient in enumerate(gradients)})
"""

NMS = """
np.savez(sys.argv[2], kept=nms(given["boxes"], given["scores"], 0.5).numpy())
"""


@pytest.fixture
def torchvision(tmp_path):
    """A function (code, arrays) -> arrays: runs READ and the code in torch's Python."""

    def run(code, **arrays):
        np.savez(tmp_path / "given.npz", **arrays)
        result = subprocess.run(
            [PYTHON, "-c", READ + code, tmp_path / "given.npz", tmp_path / "values.npz"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return dict(np.load(tmp_path / "values.npz"))

    return run


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient(torchvision, reference, rng, random_boxes, aligned):

    maps = [rng.standard_normal((2, HEIGHT // s, WIDTH // s, 9)).astype(np.float32) for s in STRIDES]
    boxes = random_boxes(rng, (2, 100), HEIGHT, WIDTH)
    gradient = rng.standard_normal((2, 100, 7, 7, 9)).astype(np.float32)
    levels = np.array([[reference.level_of_box(box, num_levels=4, canonical_size=64.0) for box in b] for b in boxes])
    assert set(levels.ravel()) == {0, 1, 2, 3}
    expected = torchvision(
        ROI_ALIGN,
        boxes=boxes,
        gradient=gradient,
        levels=levels,
        aligned=np.array(aligned),
        **{f"map{level}": array for level, array in enumerate(maps)},
    )
    features = [tf.constant(array) for array in maps]
    with tf.GradientTape() as tape:
        tape.watch(features)
        crops = multilevel_roi_align(
            features, boxes, strides=STRIDES, output_size=7, aligned=aligned, canonical_size=64.0
        )
    np.testing.assert_allclose(crops, expected["crops"], atol=1e-5)
    for level, ours in enumerate(tape.gradient(crops, features, output_gradients=tf.constant(gradient))):
        np.testing.assert_allclose(ours, expected[f"map{level}"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_nms_keeps_the_same_boxes(torchvision, rng, random_boxes, ties):
    boxes = random_boxes(rng, (2000,), 800, 1344)
    scores = rng.permutation(2000).astype(np.float32)
    if ties:  # torchvision sorts stably, so the lower index comes first there as here
        scores = np.floor(scores / 100)
    detections = multiclass_nms(
        boxes[None, :, None], scores[None, :, None], score_threshold=-1.0, nms_threshold=0.5, max_detections=2000
    )
    expected = torchvision(NMS, boxes=boxes, scores=scores)["kept"]
    np.testing.assert_array_equal(detections.roi_indices[0].numpy()[detections.valid[0].numpy()], expected)
