"""Batches: every stage of several images equals that of each alone, padded to the same size; traces; bit-equal runs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model.structures import Proposals
from mrcnn_model.targets import GroundTruth, anchor_targets, roi_targets


def tensors(batch):
    return {name: tf.constant(value) for name, value in batch.items()}


def empty_image(batch, index):
    for name in ("gt_boxes", "gt_classes", "gt_masks", "gt_has_mask"):
        batch[name][index] = 0
    return batch


def without_proposals(model, index):
    """Let the model find no proposal in one image of each batch."""
    find = model.proposals

    def proposals(*args, **kwargs):
        boxes, scores, valid = find(*args, **kwargs)
        keep = tf.range(tf.shape(boxes)[0]) != index
        return Proposals(
            tf.where(keep[:, None, None], boxes, 0.0), tf.where(keep[:, None], scores, 0.0), valid & keep[:, None]
        )

    model.proposals = proposals
    return model


def stages(model, batch):
    """Return the output of every stage for a batch, {name: array with the images first}."""
    gt = GroundTruth(*(batch[n] for n in ("gt_boxes", "gt_classes", "gt_masks", "gt_has_mask", "crowd_boxes")))
    sizes, seeds = batch["image_sizes"], batch["sample_seeds"]
    backbone = model.backbone(tf.cast(batch["images"], tf.float32) / 255)
    pyramid = model.features(batch["images"], sizes, training=True)
    rpn = model.rpn(pyramid)
    anchors = anchor_targets(
        model.anchors(pyramid),
        gt,
        sizes,
        seeds,
        model.config.rpn,
        crowd_overlap_threshold=model.config.crowd_overlap_threshold,
    )
    values = {f"c{i}": f for i, f in enumerate(backbone, start=2)} | {f"p{i}": f for i, f in enumerate(pyramid, 2)}
    values |= {"logits": rpn.logits, "deltas": rpn.deltas, "anchors": anchors.samples.indices}
    values |= {"foreground": anchors.samples.foreground, "anchor_boxes": anchors.boxes}
    for training in (True, False):
        found = model.proposals(rpn, pyramid, sizes, training=training)
        values |= {f"proposals_{training}_{name}": value for name, value in found._asdict().items()}
    found = model.proposals(rpn, pyramid, sizes, training=True)
    stage = model.box_stages[0]
    rois = roi_targets(found, gt, seeds, model.config.rois, foreground_iou=stage.foreground_iou, weights=stage.weights)
    values |= {f"rois_{name}": value for name, value in rois._asdict().items()}
    values |= {f"head_{name}": value for name, value in stage.classify(pyramid, rois.boxes)._asdict().items()}
    values["masks"] = model.mask_logits(pyramid, rois.boxes, rois.classes)
    values |= {f"found_{name}": value for name, value in model.detect(batch["images"], sizes)._asdict().items()}
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def test_every_stage_of_a_batch_is_that_of_its_images(make_tiny_model, make_batch):
    """The second image has no ground truth, the third no proposal."""
    batch = tensors(empty_image(make_batch(num_images=3), 1))
    together = stages(without_proposals(make_tiny_model(), 2), batch)
    for i in range(3):
        alone = stages(
            without_proposals(make_tiny_model(), 0 if i == 2 else -1), {k: v[i : i + 1] for k, v in batch.items()}
        )
        for name, value in together.items():
            size = np.abs(alone[name]).max(initial=1.0)
            np.testing.assert_allclose(value[i], alone[name][0], atol=1e-4 * size, err_msg=f"{name} of image {i}")
    assert not together["proposals_True_valid"][2].any()
    assert together["rois_sampled"][2].any()  # the ground truth remains
    assert not together["found_valid"][2].any()


@pytest.mark.parametrize("changes", [{}, {"cascade": True}, {"masks": False}], ids=["plain", "cascade", "boxes only"])
def test_a_batch_of_nothing_has_finite_losses_and_gradients(make_tiny_model, make_batch, changes):
    model = without_proposals(make_tiny_model(**changes), 0)
    batch = tensors(empty_image(make_batch(num_images=1), 0))
    with tf.GradientTape() as tape:
        losses, stats = model.losses(**batch)
        total = sum(losses)
    assert float(stats["valid_proposals"]) == float(stats["sampled_rois"]) == 0
    assert [float(loss) for loss in losses[1:]] == [0, 0, 0, 0]
    assert 0 < float(losses.rpn_class) < 10
    gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
    assert all(g is not None and np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_ten_sizes_in_two_buckets_are_two_traces(make_tiny_model, make_batch):
    model = make_tiny_model()
    losses = tf.function(lambda **batch: model.losses(**batch)[0])
    detect = tf.function(model.detect)
    rng = np.random.default_rng(0)
    for number in range(10):
        height, width = [(64, 32), (32, 64)][number % 2]
        batch = tensors(make_batch(num_images=1, height=height, width=width, seed=number))
        batch["image_sizes"] = tf.constant([[rng.integers(20, height + 1), rng.integers(20, width + 1)]], tf.int32)
        assert np.isfinite(sum(losses(**batch)))
        detect(batch["images"], batch["image_sizes"])
    assert losses.experimental_get_tracing_count() == 2
    assert detect.experimental_get_tracing_count() == 2


THREE_STEPS_TWICE = """
import sys
sys.path.insert(0, sys.argv[1])
import keras, numpy as np, tensorflow as tf
from conftest import random_batch, tiny_config
from mrcnn_model import build_model

tf.config.experimental.enable_op_determinism()

def run():
    keras.utils.set_random_seed(0)
    model = build_model(tiny_config())
    variables = [v.value for v in model.trainable_variables]
    batch = {name: tf.constant(value) for name, value in random_batch().items()}

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = sum(model.losses(**batch)[0])
        for variable, gradient in zip(variables, tape.gradient(total, variables)):
            variable.assign_sub(0.01 * tf.convert_to_tensor(gradient))
        return total

    return [step().numpy() for _ in range(3)], [v.numpy() for v in variables]

(losses, weights), (other_losses, other_weights) = run(), run()
assert len(set(losses)) == 3, losses
assert losses == other_losses, (losses, other_losses)
for a, b in zip(weights, other_weights):
    np.testing.assert_array_equal(a, b)
"""


@pytest.mark.slow
def test_three_deterministic_steps_are_bit_equal():
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-c", THREE_STEPS_TWICE, folder]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
