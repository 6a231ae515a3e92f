"""Stage by stage against the outputs of Tensorpack, with its weights (shared data, golden_tensorpack).

Conventions that differ by choice are set here: proposals of zero area and padding-cell anchors are kept, box deltas are
clamped at log(544 / 16), and the box loss is L1. The frozen norms are folded, as always. Every stage is compared twice:
with Tensorpack's image alone, and as the second of a batch of its size.
"""

import importlib.util
import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import ModelConfig, build_model, fill_model
from mrcnn_model.boxes import encode_boxes
from mrcnn_model.layers.pixels import normalise_images
from mrcnn_model.structures import Proposals, RoiTargets, Samples
from mrcnn_model.targets import AnchorTargets, GroundTruth, anchor_targets
from mrcnn_model.targets.losses import mask_loss
from mrcnn_model.training import rpn_losses
from mrcnn_model.weights.tensorpack import TENSORPACK

LEVELS = (2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def golden(shared_data):
    folder = shared_data / "golden_tensorpack"
    spec = importlib.util.spec_from_file_location("make_weights", folder / "make_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = {name: dict(np.load(folder / f"{name}.npz")) for name in ("inference", "training")}
    return arrays | {"weights": module.weights()}


@pytest.fixture(scope="module")
def model(golden):
    config = ModelConfig(num_classes=81, max_log_scale=math.log(544 / 16), box_loss="l1", **TENSORPACK.conventions({}))
    model = build_model(config)
    report = fill_model(model, golden["weights"])
    assert report.unused == []
    assert report.unfilled == []
    return model


@pytest.fixture(scope="module", params=[0, 1], ids=["alone", "beside another"])
def row(request):
    """The index of Tensorpack's image in the batch: the last."""
    return request.param


def padded(bgr, row):
    """Pad to multiples of 32 and convert to RGB: images [row + 1, H, W, 3], sizes [row + 1, 2].

    An image before it is a smaller piece of the same photograph, upside down.
    """
    height, width = bgr.shape[:2]
    images = np.zeros([row + 1, math.ceil(height / 32) * 32, math.ceil(width / 32) * 32, 3], bgr.dtype)
    images[row, :height, :width] = bgr[..., ::-1]
    sizes = np.int32([[height // 2, width // 2]] * row + [[height, width]])
    if row:
        images[0, : height // 2, : width // 2] = images[row, height // 2 - 1 :: -1, : width // 2]
    return tf.constant(images), tf.constant(sizes)


def batched(array, row):
    """Repeat for every image: [...] -> [row + 1, ...]."""
    return tf.constant(np.stack([array] * (row + 1)))


def only(row, mask):
    """Return a mask [...] for the last image, and all False for those before it: bool [row + 1, ...]."""
    return tf.constant(np.stack([np.zeros_like(mask)] * row + [mask]))


@pytest.fixture(scope="module")
def inference(model, golden, row):
    """The stages of the photograph, computed once."""
    images, sizes = padded(golden["inference"]["image_bgr_uint8"], row)
    backbone = model.backbone(normalise_images(images, sizes, mean=model.config.pixel_mean, std=model.config.pixel_std))
    pyramid = model.fpn(backbone)
    rpn = model.rpn(pyramid)
    proposals = model.proposals(rpn, pyramid, sizes, training=False)
    return {"images": images, "sizes": sizes, "c": backbone, "p": pyramid, "rpn": rpn, "proposals": proposals}


@pytest.fixture(scope="module")
def training(model, golden, row):
    images, sizes = padded(golden["training"]["image_bgr_float"], row)
    pyramid = model.features(images, sizes)
    return {"images": images, "sizes": sizes, "p": pyramid, "rpn": model.rpn(pyramid)}


@pytest.mark.parametrize("name", ["c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6"])
def test_feature_maps(inference, golden, row, name):
    features = inference[name[0]][int(name[1]) - 2].numpy()[row:].transpose(0, 3, 1, 2)
    expected_shape = golden["inference"][f"{name}_shape_nchw"]
    assert features.shape == tuple(expected_shape)
    (key,) = (k for k in golden["inference"] if k.startswith(f"{name}_ch"))
    step = int(key.split("y::")[1][0])
    expected = golden["inference"][key]
    got = features[:, ::16, ::step, ::step]
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_rpn_outputs(inference, golden, row):
    arrays = golden["inference"]
    logits = [arrays[f"rpn_logits_p{level}_nchw"].transpose(0, 2, 3, 1).reshape(1, -1) for level in LEVELS]
    deltas = [arrays[f"rpn_deltas_p{level}_nchw"].transpose(0, 2, 3, 1).reshape(1, -1, 4) for level in LEVELS]
    np.testing.assert_allclose(inference["rpn"].logits[row:], np.concatenate(logits, axis=1), atol=1e-4)
    np.testing.assert_allclose(inference["rpn"].deltas[row:], np.concatenate(deltas, axis=1), atol=1e-4)


def distance_to_set(boxes, expected):
    """Return the largest distance of a box to the nearest of `expected` (maximum over the coordinates)."""
    gaps = np.abs(boxes[:, np.newaxis] - expected[np.newaxis]).max(axis=-1)  # [A, B]
    return gaps.min(axis=1).max()


def assert_same_set(boxes, expected):
    assert boxes.shape == expected.shape
    assert distance_to_set(boxes, expected) < 0.05
    assert distance_to_set(expected, boxes) < 0.05


def test_proposals_of_inference(inference, golden, row):
    boxes, scores, valid = (x[row].numpy() for x in inference["proposals"])
    assert valid.all()
    assert_same_set(boxes, golden["inference"]["proposal_boxes_xyxy"])
    np.testing.assert_allclose(np.sort(scores), np.sort(golden["inference"]["proposal_logits"]), atol=1e-4)


def test_proposals_of_training(model, training, golden, row):
    proposals = model.proposals(training["rpn"], training["p"], training["sizes"], training=True)
    assert_same_set(
        proposals.boxes[row].numpy()[proposals.valid[row].numpy()], golden["training"]["generate_fpn_proposals.boxes"]
    )


def test_roi_align(model, inference, golden, row):
    boxes = batched(golden["inference"]["proposal_boxes_xyxy"][:8], row)
    pooled = model.pool(inference["p"], boxes, 7).numpy()[8 * row :].transpose(0, 3, 1, 2)
    expected = golden["inference"]["roi_features_7x7_first8_nchw"]
    assert np.abs(pooled - expected).max() < 1e-4 * np.abs(expected).max()


def test_class_scores_and_decoded_boxes(model, inference, golden, row):
    boxes = batched(golden["inference"]["proposal_boxes_xyxy"], row)
    proposals = Proposals(boxes, tf.zeros(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool))
    (stage,) = model.box_stages
    output = stage.classify(inference["p"], boxes)
    scores = tf.nn.softmax(output.logits)[row].numpy()
    np.testing.assert_allclose(scores[:256], golden["inference"]["class_scores_first256"], atol=1e-3)
    _, decoded = stage.score(output, proposals, inference["sizes"])
    np.testing.assert_allclose(
        decoded[row, :32].numpy(), golden["inference"]["decoded_boxes_first32"][:, 1:], atol=0.05
    )


def test_detections(model, inference, golden, row):
    expected = golden["inference"]
    boxes, scores, classes, masks, valid = (
        x[row].numpy() for x in model.detect(inference["images"], inference["sizes"])
    )
    assert valid.all()
    np.testing.assert_allclose(scores, expected["det_scores"], atol=1e-3)
    # Equal scores to 1e-3 may swap neighbours: pair each detection with the nearest of its class.
    gaps = np.abs(boxes[:, np.newaxis] - expected["det_boxes_xyxy"]).max(axis=-1)  # [100, 100]
    gaps = np.where(classes[:, np.newaxis] == expected["det_classes"], gaps, np.inf)
    pair = gaps.argmin(axis=1)
    assert sorted(pair) == list(range(100))
    assert gaps.min(axis=1).max() < 0.05
    np.testing.assert_allclose(masks, expected["det_masks"].astype(np.float32)[pair], atol=2e-3)  # stored as float16


def anchor_index(golden, model, pyramid, kind):
    """Indices into the anchors of all levels of those listed as (y, x, anchor)."""
    indices, offset = [], 0
    for level, features in zip(LEVELS, pyramid, strict=True):
        _, height, width, _ = features.shape
        y, x, a = golden["training"][f"anchor_{kind}_p{level}_yxa"].astype(int).reshape(-1, 3).T
        indices.append(offset + (y * width + x) * model.config.anchors.num_anchors + a)
        offset += height * width * model.config.anchors.num_anchors
    return np.concatenate(indices)


def ground_truth(golden, row):
    arrays = golden["training"]
    count = len(arrays["gt_boxes_xyxy"])
    return GroundTruth(
        boxes=batched(arrays["gt_boxes_xyxy"], row),
        classes=batched(arrays["gt_classes"].astype(np.int32), row),
        masks=tf.zeros([row + 1, count, 8, 8], tf.uint8),
        has_mask=tf.ones([row + 1, count], tf.bool),
        crowd_boxes=tf.zeros([row + 1, 1, 4]),
    )


def test_foreground_anchors_are_those_of_tensorpack(model, training, golden, row):
    anchors = model.anchors(training["p"])
    seeds = batched(np.int32([1, 2]), row)
    targets = anchor_targets(
        anchors,
        ground_truth(golden, row),
        training["sizes"],
        seeds,
        model.config.rpn,
        crowd_overlap_threshold=model.config.crowd_overlap_threshold,
    )
    samples = targets.samples
    chosen = samples.indices[row].numpy()[samples.foreground[row].numpy()]
    assert sorted(chosen) == sorted(anchor_index(golden, model, training["p"], "fg"))  # 14 of them: none is left out
    expected = np.concatenate([golden["training"][f"anchor_fg_p{level}_gt_boxes"] for level in LEVELS])
    order = np.argsort(anchor_index(golden, model, training["p"], "fg"))
    got = targets.boxes[row].numpy()[samples.foreground[row].numpy()][np.argsort(chosen)]
    np.testing.assert_allclose(got, expected[order], atol=1e-4)


# An image before Tensorpack's has nothing sampled: it adds 0 to a loss, and counts in the mean over images.


def test_rpn_losses(model, training, golden, row):
    foreground = anchor_index(golden, model, training["p"], "fg")
    background = anchor_index(golden, model, training["p"], "bg")
    boxes = np.zeros([256, 4], np.float32)
    boxes[: len(foreground)] = np.concatenate([golden["training"][f"anchor_fg_p{level}_gt_boxes"] for level in LEVELS])
    assert len(foreground) + len(background) == 256
    samples = Samples(
        indices=batched(np.concatenate([foreground, background]).astype(np.int32), row),
        foreground=only(row, np.arange(256) < len(foreground)),
        sampled=only(row, np.ones(256, bool)),
    )
    class_loss, box_loss = rpn_losses(
        training["rpn"],
        model.anchors(training["p"]),
        AnchorTargets(samples, batched(boxes, row)),
        model.config.rpn,
    )
    np.testing.assert_allclose(class_loss * (row + 1), golden["training"]["rpn_losses.label_loss"], rtol=1e-4)
    np.testing.assert_allclose(box_loss * (row + 1), golden["training"]["rpn_losses.box_loss"], rtol=1e-4)


@pytest.fixture(scope="module")
def sampled_rois(model, golden, row):
    """Tensorpack's 512 sampled RoIs as RoiTargets."""
    arrays = golden["training"]
    boxes = arrays["sample_fast_rcnn_targets.sampled_proposal_boxes"]
    classes = arrays["sample_fast_rcnn_targets.sampled_labels"].astype(np.int32)
    gt_boxes = arrays["gt_boxes_xyxy"]
    corner = np.minimum(boxes[:, np.newaxis, 2:], gt_boxes[:, 2:]) - np.maximum(
        boxes[:, np.newaxis, :2], gt_boxes[:, :2]
    )
    intersection = np.prod(np.maximum(corner, 0), axis=-1)
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, gt_boxes)]
    matched = (intersection / (areas[0][:, np.newaxis] + areas[1] - intersection)).argmax(axis=1)
    deltas = encode_boxes(tf.constant(gt_boxes[matched]), tf.constant(boxes), model.config.box_regression_weights)
    foreground = classes > 0
    return RoiTargets(
        boxes=batched(boxes, row),
        classes=batched(classes, row),
        deltas=batched(np.where(foreground[:, np.newaxis], deltas, np.float32(0)), row),
        gt_indices=batched(np.where(foreground, matched, 0).astype(np.int32), row),
        sampled=only(row, np.ones(512, bool)),
    )


def test_box_head_on_sampled_rois(model, training, golden, sampled_rois, row):
    (stage,) = model.box_stages
    output = stage.classify(training["p"], sampled_rois.boxes)
    arrays = golden["training"]
    np.testing.assert_allclose(output.logits[row], arrays["fastrcnn.outputs.class.output"], atol=2e-3)
    np.testing.assert_allclose(output.deltas[row], arrays["fastrcnn.outputs.output_box"], atol=2e-3)
    class_loss, box_loss = stage.losses(output, sampled_rois)
    np.testing.assert_allclose(class_loss * (row + 1), arrays["fastrcnn_losses.label_loss"], rtol=1e-4)
    np.testing.assert_allclose(box_loss * (row + 1), arrays["fastrcnn_losses.box_loss"], rtol=1e-4)


def test_mask_loss_on_tensorpacks_targets(model, training, golden, sampled_rois, row):
    targets = golden["training"]["sampled_fg_mask_targets"]
    foreground = np.flatnonzero(sampled_rois.classes[row].numpy() > 0)
    boxes = tf.gather(sampled_rois.boxes, foreground, axis=1)
    classes = tf.gather(sampled_rois.classes, foreground, axis=1)
    logits = model.mask_logits(training["p"], boxes, classes)
    loss = mask_loss(logits, batched(targets, row), only(row, np.ones(len(foreground), bool)))
    np.testing.assert_allclose(loss * (row + 1), golden["training"]["maskrcnn_loss.maskrcnn_loss"], rtol=1e-4)


def test_weight_decay_is_on_the_same_kernels(model, golden):
    cost = sum(float(tf.nn.l2_loss(v.value)) for v in model.decayed_variables) * 1e-4
    np.testing.assert_allclose(cost, golden["training"]["wd_cost"], rtol=1e-4)
