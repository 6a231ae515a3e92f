"""Every member of the family at a tiny width: what trains, what comes out, and what the kinds of norm compute."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import COMPILED_OPS, PORTABLE_OPS, ModelCard, ModelConfig, build_model, load_model, save_model
from mrcnn_model.boxes import encode_boxes
from mrcnn_model.layers.convolution import Conv
from mrcnn_model.layers.normalization import Norm, batch_norm, group_norm
from mrcnn_model.layers.resnet import ResNet
from mrcnn_model.targets import GroundTruth, rematch_rois

MEMBERS = {
    "cascade": {"cascade": True},
    "cascade, GIoU": {"cascade": True, "box_loss": "giou"},
    "class-agnostic": {"class_agnostic_boxes": True},
    "boxes only": {"masks": False},
    "4 conv + 1 fc, GN": {"box_head_convs": 4, "box_head_fcs": 1, "head_norm": "gn", "fpn_norm": "gn"},
    "GN of Tensorpack": {"box_head_convs": 1, "head_norm": "gn", "fpn_norm": "gn", "gn_after_relu": True},
    "sync BN": {"norm": "sync_bn"},
    "frozen BN": {"norm": "frozen_bn", "freeze_at": 2},
    "smooth L1": {"box_loss": "smooth_l1"},
    "torchvision's conventions": {"symmetric_padding": True, "round_anchors": True, "roi_align_aligned": False},
    "stride in the 1x1": {"backbone": "resnet50", "stride_in_1x1": True},
}


def tensors(batch):
    return {name: tf.constant(value) for name, value in batch.items()}


@pytest.mark.parametrize("changes", MEMBERS.values(), ids=MEMBERS)
def test_every_member_trains_all_its_variables_and_detects(make_tiny_model, make_batch, changes):
    model, batch = make_tiny_model(**changes), make_batch()
    with tf.GradientTape() as tape:
        losses, _ = model.losses(**tensors(batch))
        total = sum(losses)
    gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
    assert all(g is not None and np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)
    assert (float(losses.mask) > 0) == model.config.masks
    assert all(float(loss) > 0 for loss in losses[:4])
    detections = model.detect(tf.constant(batch["images"]), tf.constant(batch["image_sizes"]))
    edge = 28 if model.config.masks else 0
    assert detections.masks.shape == (2, 20, edge, edge)
    assert bool(tf.reduce_any(detections.valid))


@pytest.mark.parametrize("changes", [MEMBERS["cascade"], MEMBERS["boxes only"], MEMBERS["class-agnostic"]])
def test_a_batch_equals_its_images(make_tiny_model, make_batch, changes):
    model, batch = make_tiny_model(**changes), tensors(make_batch(num_images=3))
    together = np.array(model.losses(**batch)[0])
    alone = [np.array(model.losses(**{k: v[i : i + 1] for k, v in batch.items()})[0]) for i in range(3)]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-4)
    found = model.detect(batch["images"], batch["image_sizes"])
    for i in range(3):
        own = model.detect(batch["images"][i : i + 1], batch["image_sizes"][i : i + 1])
        np.testing.assert_array_equal(found.classes[i], own.classes[0])
        np.testing.assert_allclose(found.boxes[i], own.boxes[0], atol=1e-3)


def test_a_cascade_survives_a_checkpoint(tmp_path, make_tiny_model):
    model = make_tiny_model(cascade=True)
    card = ModelCard(
        class_names=["a", "b", "c"], category_ids=[1, 2, 3], short_edge=64, max_size=96, buckets=[[64, 96]]
    )
    save_model(tmp_path, model, card)
    loaded, _ = load_model(tmp_path)
    for a, b in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cascade_stages_refine_and_average(make_tiny_model, make_batch):
    """The stages by hand: each decodes with its own weights from the boxes of the one before."""
    model, batch = make_tiny_model(cascade=True), tensors(make_batch(num_images=1))
    sizes = batch["image_sizes"]
    pyramid = model.features(batch["images"], sizes)
    proposals = model.proposals(model.rpn(pyramid), pyramid, sizes, training=False)
    scores, boxes = model.classified_boxes(pyramid, proposals, sizes)
    current, mean = proposals.boxes, 0.0
    by_stage = [[10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15]]
    for stage, weights in zip(model.box_stages, by_stage, strict=True):
        output = stage.classify(pyramid, current)
        mean += tf.nn.softmax(output.logits)[..., 1:] / 3
        side = tf.maximum(current[..., 2:] - current[..., :2], 1e-3)
        deltas = output.deltas[:, :, 0] / np.float32(weights)
        centre = (current[..., :2] + current[..., 2:]) / 2 + deltas[..., :2] * side
        half = tf.exp(deltas[..., 2:]) * side / 2
        limit = tf.cast(tf.gather(sizes[0], [1, 0, 1, 0]), tf.float32)
        current = tf.clip_by_value(tf.concat([centre - half, centre + half], -1), 0.0, limit)
    np.testing.assert_allclose(boxes[:, :, 0], current, atol=1e-3)
    valid = proposals.valid.numpy()[..., None]
    np.testing.assert_allclose(scores, np.where(valid, mean, 0), atol=1e-5)


def test_rematching_uses_the_stages_iou():
    # IoU 0.55 with the only object: foreground at 0.5, background at 0.6. The second has no area, the third is padding.
    boxes = tf.constant([[[0.0, 0, 10, 5.5], [3, 3, 3, 9], [0, 0, 10, 10]]])
    gt = GroundTruth(
        boxes=tf.constant([[[0.0, 0, 10, 10]]]),
        classes=tf.constant([[2]]),
        masks=tf.ones([1, 1, 8, 8], tf.uint8),
        has_mask=tf.ones([1, 1], tf.bool),
        crowd_boxes=tf.zeros([1, 1, 4]),
    )
    sampled = tf.constant([[True, True, False]])
    weights = [20.0, 20.0, 10.0, 10.0]
    low, high = (
        rematch_rois(boxes, sampled, gt, crowd_overlap_threshold=9.99, foreground_iou=iou, weights=weights)
        for iou in (0.5, 0.6)
    )
    np.testing.assert_array_equal(low.classes, [[2, 0, 0]])
    np.testing.assert_array_equal(high.classes, [[0, 0, 0]])
    np.testing.assert_array_equal(low.sampled, [[True, False, False]])
    np.testing.assert_array_equal(high.sampled, [[True, False, False]])
    np.testing.assert_allclose(low.deltas[0, 0], encode_boxes(gt.boxes[0, 0], boxes[0, 0], weights), atol=1e-6)


def test_freeze_affine_leaves_kernels_to_train(make_tiny_model):
    model = make_tiny_model(norm="frozen_bn", freeze_at=1, freeze_affine=True)
    names = {v.path for v in model.backbone.trainable_variables}
    assert "backbone.stage1.block0.conv1/kernel" in names
    assert not [name for name in names if name.endswith(("gamma", "beta"))]


def test_batch_norm_equals_keras_with_gradients():
    rng = np.random.default_rng(0)
    x, gamma, beta = (tf.constant(rng.standard_normal(s), tf.float32) for s in ([3, 4, 5, 6], [6], [6]))
    weights = tf.constant(rng.standard_normal([3, 4, 5, 6]), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, gamma, beta])
        y, mean, variance = batch_norm(x, gamma, beta, mean_over_processes=tf.identity, epsilon=1e-5)
        moments = tf.nn.moments(x, [0, 1, 2])
        expected = tf.nn.batch_normalization(x, *moments, beta, gamma, 1e-5)
        losses = [tf.reduce_sum(weights * tf.sin(v)) for v in (y, expected)]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose([mean, variance], moments, atol=1e-5)
    for a, b in zip(*(tape.gradient(loss, [x, gamma, beta]) for loss in losses), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_two_processes_normalise_as_one_with_both_halves():
    """Two threads act as processes: their reduce function waits for the tensor of the other."""
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal([4, 3, 3, 2]).astype(np.float32) + 1 for _ in range(2))
    gamma, beta = tf.constant([0.5, 2.0]), tf.constant([1.0, -1.0])

    def run(x, dy, reduce):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, mean, _ = batch_norm(x, gamma, beta, mean_over_processes=reduce, epsilon=1e-5)
        return [y, mean, *tape.gradient(y, [x, gamma, beta], output_gradients=tf.constant(dy))]

    barrier, slots, results = threading.Barrier(2, timeout=60), [None, None], [None, None]

    def process(rank):
        def reduce(tensor):
            slots[rank] = tensor
            barrier.wait()
            mean = (slots[0] + slots[1]) / 2
            barrier.wait()
            return mean

        half = slice(2 * rank, 2 * rank + 2)
        results[rank] = run(x[half], dy[half], reduce)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = run(x, dy, tf.identity)
    for index in (0, 2):  # y and dx, image by image
        np.testing.assert_allclose(np.concatenate([r[index] for r in results]), whole[index], atol=1e-5)
    np.testing.assert_allclose(results[0][1], whole[1], atol=1e-6)
    for index in (3, 4):  # dgamma and dbeta add up, as gradients of processes do
        np.testing.assert_allclose(results[0][index] + results[1][index], whole[index], atol=1e-4)


def test_sync_bn_remembers_in_training_and_folds_in_inference():
    policy = keras.DTypePolicy("float32")
    conv = Conv(in_channels=2, out_channels=3, kernel_size=1, norm=Norm("sync_bn"), name="conv", dtype=policy)
    x = tf.constant(np.random.default_rng(2).standard_normal([2, 4, 4, 2]) + 3, tf.float32)
    before = conv.moving_mean.numpy()
    conv(x)
    np.testing.assert_array_equal(conv.moving_mean, before)  # inference changes nothing
    y = conv(x, training=True)
    np.testing.assert_allclose(tf.reduce_mean(y, [0, 1, 2]), np.zeros(3), atol=1e-5)
    raw = tf.nn.conv2d(x, conv.kernel.value, 1, "SAME")
    np.testing.assert_allclose(conv.moving_mean, 0.1 * tf.reduce_mean(raw, [0, 1, 2]), atol=1e-5)
    scaled = (raw - conv.moving_mean.value) / tf.sqrt(conv.moving_variance.value + 1e-5)
    np.testing.assert_allclose(conv(x), scaled, atol=1e-4)


def test_frozen_stages_of_a_sync_bn_backbone_keep_their_statistics(make_tiny_model, make_batch):
    model = make_tiny_model(norm="sync_bn", freeze_at=1)
    model.losses(**tensors(make_batch()))
    assert not model.backbone.stem.moving_mean.numpy().any()
    assert model.backbone.stages[0][0].conv1.moving_mean.numpy().any()


def test_group_norm_after_relu_is_tensorpacks_order():
    policy = keras.DTypePolicy("float32")
    norm = Norm("gn", groups=2, after_relu=True)
    conv = Conv(in_channels=2, out_channels=4, kernel_size=3, norm=norm, relu=True, name="conv", dtype=policy)
    conv.bias.assign([0.5, -1.0, 2.0, 0.0])
    x = tf.constant(np.random.default_rng(3).standard_normal([1, 5, 5, 2]), tf.float32)
    hidden = tf.nn.relu(tf.nn.conv2d(x, conv.kernel.value, 1, "SAME") + conv.bias.value)
    np.testing.assert_allclose(conv(x), group_norm(hidden, tf.ones(4), tf.zeros(4), groups=2), atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_a_folded_backbone_equals_the_unfolded_with_gradients(monkeypatch, precision, tolerance):
    """A whole bottleneck network, relative L2 of every feature map and gradient."""
    policy = keras.DTypePolicy(precision)
    keras.utils.set_random_seed(0)
    fold = (PORTABLE_OPS if precision == "float64" else COMPILED_OPS).fold_batch_norm  # compiled: no float64
    norm = Norm("frozen_bn", fold_batch_norm=fold)
    backbone = ResNet(depth="resnet50", width=8, norm=norm, freeze_at=0, dtype=policy)
    rng = np.random.default_rng(4)
    for v in backbone.variables:
        if v.name != "kernel":
            low, high = {"gamma": (0.2, 0.6), "moving_variance": (0.5, 1.5)}.get(v.name, (-0.2, 0.2))
            v.assign(rng.uniform(low, high, v.shape))
    images = tf.constant(rng.standard_normal([2, 64, 96, 3]), policy.compute_dtype)

    def run():
        with tf.GradientTape() as tape:
            features = backbone(images)
            loss = tf.add_n([tf.reduce_mean(tf.square(f)) for f in features])
        variables = [v.value for v in backbone.trainable_variables]
        return [*features, *tape.gradient(loss, variables)]

    def unfolded(self, x, training=False):
        y = tf.nn.conv2d(x, self.kernel.value, self.stride, self.padding)
        y = (y - self.moving_mean.value) / tf.sqrt(self.moving_variance.value + self.norm.epsilon)
        y = y * self.gamma.value + self.beta.value
        return tf.nn.relu(y) if self.relu else y

    folded = run()
    monkeypatch.setattr(Conv, "call", unfolded)
    for got, expected in zip(folded, run(), strict=True):
        assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


def test_a_reduce_function_reaches_the_backbone(make_tiny_model, make_batch):
    shapes = []

    def reduce(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    model = build_model(make_tiny_model(norm="sync_bn").config, mean_over_processes=reduce)
    model.losses(**tensors(make_batch()))
    num_norms = sum(v.name == "moving_mean" for v in model.variables)
    assert len(shapes) == num_norms  # one call for mean and mean square together


@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
@pytest.mark.parametrize("zero", [True, False])
def test_where_the_last_norm_of_a_block_starts(depth, zero):
    config = ModelConfig(
        backbone=depth, backbone_width=8, norm="gn", gn_groups=2, fpn_channels=8, zero_residual_scale=zero
    )
    last = "conv2" if depth == "resnet18" else "conv3"
    for v in build_model(config).backbone.variables:
        if v.name == "gamma":
            np.testing.assert_array_equal(v, 0.0 if zero and v.path.split("/")[-2].endswith(last) else 1.0)
