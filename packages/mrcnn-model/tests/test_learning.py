"""Every member of the family, at tiny widths, memorises two photographs (shared data, fruits_nuts)."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

HEIGHT, WIDTH = 96, 128  # the photographs are 600 x 800
MASK_EDGE = 56
PHOTOS = ("10.jpg", "6.jpg")  # with six objects each, of all three classes

GN_HEADS = {"box_head_convs": 4, "box_head_fcs": 1, "mask_head_convs": 4, "head_norm": "gn", "fpn_norm": "gn"}
MEMBERS = {
    "plain": {},
    "ResNet-34": {"backbone": "resnet34"},
    "ResNet-50": {"backbone": "resnet50"},
    "ResNet-101": {"backbone": "resnet101"},
    "ResNet-152": {"backbone": "resnet152"},
    "frozen BN": {"norm": "frozen_bn", "freeze_at": 1},
    "frozen scale and shift": {
        "norm": "frozen_bn",
        "freeze_at": 2,
        "freeze_affine": True,
        "zero_residual_scale": False,
    },
    "sync BN": {"norm": "sync_bn"},
    "GN everywhere": GN_HEADS,
    "GN of Tensorpack": {**GN_HEADS, "gn_after_relu": True},
    "cascade": {"cascade": True},
    "cascade, GN, GIoU": {**GN_HEADS, "cascade": True, "box_loss": "giou"},
    "class-agnostic": {"class_agnostic_boxes": True},
    "boxes only": {"masks": False},
    "smooth L1": {"box_loss": "smooth_l1"},
    "L1": {"box_loss": "l1"},
    "conventions of torchvision": {"symmetric_padding": True, "round_anchors": True, "roi_align_aligned": False},
}


def rasterised(polygons, box):
    """uint8 [M, M]: which cell centres of the box lie inside an odd number of polygons."""
    x1, y1, x2, y2 = box
    grid = (np.arange(MASK_EDGE) + 0.5) / MASK_EDGE
    x, y = np.meshgrid(x1 + grid * (x2 - x1), y1 + grid * (y2 - y1))
    inside = np.zeros(x.shape, bool)
    for polygon in polygons:
        corners = np.reshape(polygon, [-1, 2])
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            crosses = (ay > y) != (by > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return inside.astype(np.uint8)


@pytest.fixture(scope="module")
def batch(shared_data):
    folder = shared_data / "fruits_nuts"
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    arrays = {
        "images": np.zeros([2, HEIGHT, WIDTH, 3], np.uint8),
        "image_sizes": np.tile(np.int32([HEIGHT, WIDTH]), (2, 1)),
        "gt_boxes": np.zeros([2, 8, 4], np.float32),
        "gt_classes": np.zeros([2, 8], np.int32),
        "gt_masks": np.zeros([2, 8, MASK_EDGE, MASK_EDGE], np.uint8),
        "crowd_boxes": np.zeros([2, 1, 4], np.float32),
        "sample_seeds": np.array([[1, 2], [3, 4]], np.int32),
    }
    for row, name in enumerate(PHOTOS):
        pixels = tf.io.decode_jpeg((folder / "train" / name).read_bytes(), channels=3)
        scale = WIDTH / pixels.shape[1]
        arrays["images"][row] = tf.image.resize(pixels, [HEIGHT, WIDTH], antialias=True).numpy().round()
        objects = [a for a in content["annotations"] if a["image_id"] == ids[name]]
        for column, annotation in enumerate(objects):
            x, y, w, h = annotation["bbox"]
            arrays["gt_boxes"][row, column] = np.array([x, y, x + w, y + h]) * scale
            arrays["gt_classes"][row, column] = annotation["category_id"]
            arrays["gt_masks"][row, column] = rasterised(annotation["segmentation"], [x, y, x + w, y + h])
    arrays["gt_has_mask"] = arrays["gt_classes"] > 0
    assert arrays["gt_has_mask"].sum() == 12
    return {name: tf.constant(array) for name, array in arrays.items()}


def train(model, batch, *, steps, learning_rate=0.005):
    """Losses before each step of Adam, [steps, 5]."""
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            losses, _ = model.losses(**batch)
            total = sum(losses)
        gradients = tape.gradient(total, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return tf.stack(losses)

    return np.array([step() for _ in range(steps)])


@pytest.mark.slow
@pytest.mark.parametrize("changes", MEMBERS.values(), ids=MEMBERS)
def test_thirty_steps_bring_every_loss_down(make_tiny_model, batch, changes):
    model = make_tiny_model(roi_samples=64, **changes)
    history = train(model, batch, steps=30)
    # Not against the first step: there the foreground RoIs are the ground truths themselves, nothing is to regress.
    first, last = history.max(axis=0), history[-3:].mean(axis=0)
    names = ("rpn_class", "rpn_box", "box_class", "box_reg", "mask")
    report = {name: (round(float(a), 4), round(float(b), 4)) for name, a, b in zip(names, first, last, strict=True)}
    print(report)
    for index, factor in enumerate((0.6, 0.8, 0.6, 0.95, 0.9)):
        if index < 4 or model.config.masks:
            assert last[index] < factor * first[index], report
    assert last.sum() < 0.6 * first.sum(), report


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MEMBERS["cascade, GN, GIoU"]], ids=["plain", "cascade, GN"])
def test_ten_steps_in_half_precision_follow_float32(make_tiny_model, batch, changes):
    full, *halves = (
        train(make_tiny_model(precision=precision, **changes), batch, steps=10, learning_rate=0.001)
        for precision in ("float32", "mixed_float16", "mixed_bfloat16")
    )
    for half in halves:
        assert np.isfinite(half).all()
        np.testing.assert_allclose(half.sum(axis=1), full.sum(axis=1), rtol=0.1)
