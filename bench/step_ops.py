"""Measure the training step with the compiled ops beside the same step with ops composed from stock TensorFlow.

    make bench-step_ops        or        python bench/step_ops.py [--steps 7] [--images 1] [--size 800x1216]

ResNet-50, 80 classes, first stages frozen, 512 RoIs an image, float32, forward and backward. "Before" is the model with
its ops replaced by those of bench/peers/stock_ops.py, which work image by image with `crop_and_resize`, `boolean_mask`,
`tf.where`, `non_max_suppression` and A x G matrices. Both sides have the same weights, input and sampling seeds, and
must give the same losses before the timing; then they take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from machine import machine
from results import Figure, write_results
from timing import seconds_of

import mrcnn_ops
from mrcnn_model import DetectionOps, MaskRCNN, ModelConfig, build_model

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import stock_ops

THREADS = 2
NUM_OBJECTS = 20
Step = Callable[[], tuple[tf.Tensor, list[tf.Tensor]]]


def make_inputs(num_images: int, height: int, width: int) -> dict[str, tf.Tensor]:
    """Make noise with 20 objects an image, 32 to 256 px, with elliptic masks."""
    rng = np.random.default_rng(0)
    edges = rng.uniform(32, 256, [num_images, NUM_OBJECTS, 2])
    corners = rng.uniform(0, np.array([width, height]) - edges)
    y, x = np.mgrid[-1:1:112j, -1:1:112j]
    ellipse = (x * x + y * y <= 1).astype(np.uint8)
    return {
        "images": tf.constant(rng.integers(0, 256, [num_images, height, width, 3]), tf.uint8),
        "image_sizes": tf.constant([[height, width]] * num_images, tf.int32),
        "gt_boxes": tf.constant(np.concatenate([corners, corners + edges], axis=-1), tf.float32),
        "gt_classes": tf.constant(rng.integers(1, 81, [num_images, NUM_OBJECTS]), tf.int32),
        "gt_masks": tf.constant(np.broadcast_to(ellipse, [num_images, NUM_OBJECTS, 112, 112])),
        "gt_has_mask": tf.ones([num_images, NUM_OBJECTS], tf.bool),
        "crowd_boxes": tf.zeros([num_images, 2, 4]),
        "sample_seeds": tf.constant([[image, 1] for image in range(num_images)], tf.int32),
    }


def make_step(inputs: dict[str, tf.Tensor], *, stock: bool) -> Step:
    keras.utils.set_random_seed(0)
    config = ModelConfig(num_classes=81)
    if stock:
        ops = DetectionOps(
            multilevel_roi_align=stock_ops.multilevel_roi_align, generate_proposals=stock_ops.generate_proposals
        )
        model = build_model(config, ops=ops)
    else:
        model = build_model(config)

    @tf.function
    def step() -> tuple[tf.Tensor, list[tf.Tensor]]:
        return gradients(model, inputs)

    if stock:  # the model reads this name when the function is traced
        with mock.patch.object(mrcnn_ops, "match_boxes", stock_ops.match_boxes):
            step()
    return step


def gradients(model: MaskRCNN, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        losses, _ = model.losses(**inputs)
        total = tf.add_n(list(losses))
    variables = [v.value for v in model.trainable_variables]
    return tf.stack(list(losses)), [tf.convert_to_tensor(g) for g in tape.gradient(total, variables)]


def check_same(before: Step, after: Step) -> None:
    (losses_before, gradients_before), (losses_after, gradients_after) = before(), after()
    np.testing.assert_allclose(losses_after, losses_before, rtol=1e-2)
    norm_before, norm_after = (float(tf.linalg.global_norm(g)) for g in (gradients_before, gradients_after))
    np.testing.assert_allclose(norm_after, norm_before, rtol=2e-2)
    print(
        f"losses {np.round(losses_after, 4)} and {np.round(losses_before, 4)}, gradient norms {norm_after:.4f} and ",
        end="",
    )
    print(f"{norm_before:.4f}: the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", default="800x1216", help="height x width, multiples of 32")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    height, width = (int(edge) for edge in options.size.split("x"))
    inputs = make_inputs(options.images, height, width)
    before, after = make_step(inputs, stock=True), make_step(inputs, stock=False)
    check_same(before, after)
    times = [(seconds_of(before), seconds_of(after)) for _ in range(options.steps)]
    medians = [statistics.median(side) for side in zip(*times, strict=True)]
    print(f"machine: {machine()}, {THREADS} threads")
    print(f"{options.images} x {height} x {width}, median of {options.steps} steps each:")
    print(
        f"before (stock TensorFlow ops) {medians[0]:.2f} s, after (compiled ops) {medians[1]:.2f} s: "
        f"{medians[0] / medians[1]:.2f}x"
    )
    size = f"{options.images}x{options.size} step"
    write_results(
        "step_ops",
        [
            Figure(f"{size}, stock TensorFlow ops", medians[0], "s"),
            Figure(f"{size}, compiled ops", medians[1], "s"),
            Figure(f"{size}, times stock ops", medians[0] / medians[1], "times"),
        ],
        precision="float32",
    )


if __name__ == "__main__":
    main()
